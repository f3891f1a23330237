/**
 * Tests of this reader itself, on inputs put together by hand. The longer hex values were computed outside of JavaScript, with
 * Python's hashlib and integers and with OpenSSL.
 */
import { zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { ascii, fromBase64, fromHex, hex, join, PAGE, u32 } from './bytes.ts'
import { decodeColumn } from './column.ts'
import { aesCtr } from './crypto.ts'
import { parseHashedDocument } from './documents.ts'
import {
  decodeManifest,
  FormatError,
  mix64,
  openChunk,
  rangeDigest,
  readRoots,
  readSnapshot,
  readStoreDocument,
  readTag,
  sealFromPayload,
} from './index.ts'
import { decodeMap } from './msgpack.ts'
import {
  buildManifest,
  commit,
  IMAGE_SIZE,
  imageBytes,
  ORIGIN,
  OS_DOMAIN,
  OWN_DOMAIN,
  type Packable,
  plainColumn,
  ROOT,
  STORE,
  type TinyStore,
  tinyStore,
  UNWRAP_KEY,
  UNWRAP_KEY_ID,
} from './tiny-store.ts'
import { unzigzag, Varints } from './varint.ts'
import { decompressFrame, walkFrame } from './zstd.ts'

function refusal(code: string, reason: string | RegExp): object {
  return expect.objectContaining({ name: 'FormatError', code, reason: expect.stringMatching(reason) })
}

const bytes = (...hexes: string[]): Uint8Array => fromHex(hexes.join(''))

describe('bytes', () => {
  test('base64 is canonical or refused', () => {
    expect(fromBase64('+/8=')).toEqual(bytes('fbff'))
    for (const other of ['-_8=', '+/8', '+/9=', '+/8=\n']) expect(() => fromBase64(other)).toThrow(FormatError)
  })

  test('hex is of lower case', () => {
    expect(() => fromHex('AB')).toThrow(FormatError)
    expect(() => fromHex('abc')).toThrow(FormatError)
  })
})

describe('MessagePack', () => {
  test.each([
    ['fixint', '8101' + '7f', 127],
    ['uint8', '8101' + 'cc05', 5],
    ['uint16', '8101' + 'cd0100', 256],
    ['uint32', '8101' + 'ceffffffff', 4_294_967_295],
    ['uint64', '8101' + 'cf0000010000000000', 2 ** 40],
    ['fixstr', '8101' + 'a2c3a9', 'é'],
    ['str8', '8101' + 'd90161', 'a'],
    ['str16', '8101' + 'da000161', 'a'],
    ['bin8', '8101' + 'c402abcd', bytes('abcd')],
    ['bin16', '8101' + 'c50001ab', bytes('ab')],
    ['bin32', '8101' + 'c600000000', bytes()],
    ['fixarray', '8101' + '9201a0', [1, '']],
    ['array16', '8101' + 'dc000107', [7]],
    ['map16', 'de0001' + '0107', 7],
    ['map32', 'df00000001' + 'cc01' + '07', 7],
    ['4 levels', '8101' + '9191' + '9107', [[[7]]]],
  ])('%s', (_name, input, value) => {
    expect(decodeMap(bytes(input))).toEqual(new Map([[1, value]]))
  })

  test.each([
    ['nil', '8101c0'],
    ['a boolean', '8101c3'],
    ['a float', '8101cb4000000000000000'],
    ['a negative fixint', '8101ff'],
    ['a signed integer', '8101d005'],
    ['an extension', '8101d40000'],
    ['a map inside', '810181' + '0101'],
    ['a key that is a string', '81a16101'],
    ['a key twice', '820101' + 'cc0101'],
    ['bytes behind', '81010100'],
    ['an early end', '8101a261'],
    ['an early end of a map', '8201' + '01'],
    ['text that is not UTF-8', '8101a1ff'],
    ['an integer beyond 2^53', '8101cf0020000000000000'],
    ['5 levels', '8101' + '91919191' + '07'],
    ['no map', '9101'],
  ])('refuses %s', (_name, input) => {
    expect(() => decodeMap(bytes(input))).toThrow(FormatError)
  })
})

describe('varints', () => {
  test('decode', () => {
    const varints = new Varints(bytes('00', '7f', '8001', 'e58e26', 'ffffffff0f'))
    expect([0, 1, 2, 3, 4].map(() => varints.next())).toEqual([0, 127, 128, 624_485, 4_294_967_295])
    varints.end()
  })

  test.each([
    ['an early end', '80'],
    ['2^32', '8080808010'],
    ['6 bytes', '808080808000'],
  ])('refuse %s', (_name, input) => {
    expect(() => new Varints(bytes(input)).next()).toThrow(FormatError)
  })

  test('refuse bytes behind', () => {
    expect(() => new Varints(bytes('00')).end()).toThrow(FormatError)
  })

  test('zigzag', () => {
    expect([0, 1, 2, 3, 4_294_967_294, 4_294_967_295].map(unzigzag)).toEqual([0, -1, 1, -2, 2_147_483_647, -2_147_483_648])
  })
})

describe('zstd frames', () => {
  const RAW = '28b52ffd' + '20' + '03' + '190000' + '616263'
  // 300 bytes: content size 300 - 256 in two bytes, block header 300 << 3 | 1 << 1 | 1.
  const RLE = '28b52ffd' + '60' + '2c00' + '630900' + '61'

  test('are walked', () => {
    expect(walkFrame(bytes(RAW, 'ff'))).toEqual({ length: 12, contentSize: 3 })
    expect(walkFrame(bytes('28b52ffd', '00', '58', '190000', '616263'))).toEqual({ length: 12, contentSize: undefined })
    expect(walkFrame(bytes('28b52ffd', '24', '00', '010000', '99e9d851'))).toEqual({ length: 13, contentSize: 0 })
    expect(walkFrame(bytes('28b52ffd', 'a0', '00000100', '020400', '61', '030400', '62'))).toEqual({ length: 17, contentSize: 65_536 })
    expect(walkFrame(bytes('28b52ffd', 'e0', '0300000000000000', '190000', '616263'))).toEqual({ length: 19, contentSize: 3 })
    for (const size of [0, 1, 4096, 300_000]) {
      const frame = zstdCompressSync(new Uint8Array(size).map((_, i) => (i * i) >> 5))
      expect(walkFrame(frame).length).toBe(frame.length)
    }
  })

  test('decompress', () => {
    expect(decompressFrame(bytes(RAW), 3)).toEqual(Buffer.from('abc'))
    expect(hex(decompressFrame(zstdCompressSync(new Uint8Array(0)), 0))).toBe('')
    const big = new Uint8Array(300_000).map((_, i) => (i * i) >> 5)
    expect(Buffer.compare(decompressFrame(zstdCompressSync(big), big.length), big)).toBe(0)
  })

  test('of an RLE block', () => {
    expect(hex(decompressFrame(bytes(RLE), 300))).toBe('61'.repeat(300))
  })

  test.each([
    ['bytes behind', `${RAW}00`, 3],
    ['a second frame', RAW + RAW, 6],
    ['a skippable frame first', `502a4d1800000000${RAW}`, 3],
    ['an early end', RAW.slice(0, -2), 3],
    ['a checksum that is missing', RAW.replace('fd20', 'fd24'), 3],
    ['a dictionary', '28b52ffd' + '21' + '01' + '03' + '190000' + '616263', 3],
    ['a reserved bit', RAW.replace('fd20', 'fd28'), 3],
    ['a reserved block', '28b52ffd' + '20' + '00' + '070000', 0],
    ['another size in the header', RAW, 4],
    ['another size than in the header', '28b52ffd' + '00' + '58' + '190000' + '616263', 4],
    ['more than expected', '28b52ffd' + '00' + '58' + '190000' + '616263', 2],
    ['nothing at all', '', 0],
  ])('refuse %s', (_name, input, size) => {
    expect(() => decompressFrame(bytes(input), size)).toThrow(FormatError)
  })
})

describe('columns', () => {
  test('are plain or compressed', () => {
    expect(decodeColumn(bytes('00', '02000000', '0102'), 2, 2, 'c')).toEqual(bytes('0102'))
    const raw = new Uint8Array(1000).fill(7)
    const column = join(Uint8Array.of(1), u32(1000), zstdCompressSync(raw))
    expect(new Uint8Array(decodeColumn(column, 1000, 5000, 'c'))).toEqual(raw)
  })

  test.each([
    ['a short one', '00000000'],
    ['an unknown codec', '02' + '01000000' + '01'],
    ['a body that is longer', '00' + '01000000' + '0102'],
    ['a raw length above the limit', '00' + '03000000' + '010203'],
    ['a raw length below the limit', '00' + '00000000'],
  ])('refuses %s', (_name, input) => {
    expect(() => decodeColumn(bytes(input), 1, 2, 'c')).toThrow(refusal('BAD_FORMAT', 'column'))
  })
})

describe('documents', () => {
  // The hash was computed by Python over {"version":1,"a":"b"}.
  const TEXT = '{"version":1,"a":"b","sha256":"c47d9fe978dfcce033bb46ac7f7ebb62a3f6546c1fc2eb7840559a7a33f4e93c"}\n'
  const parse = (text: string): Promise<unknown> => parseHashedDocument(ascii(text), ['version', 'a'], 'd')

  test('are read', async () => {
    expect(await parse(TEXT)).toMatchObject({ version: 1, a: 'b' })
  })

  test.each([
    ['no newline', TEXT.trimEnd()],
    ['white space', TEXT.replace(',', ', ')],
    ['an escape that is not needed', TEXT.replace('"b"', '"\\u0062"')],
    ['a member twice', TEXT.replace('"a":"b"', '"a":"b","a":"b"')],
    ['an unknown version', TEXT.replace('1', '2')],
    ['an unknown member', TEXT.replace('"a":"b"', '"a":"b","c":1')],
    ['another order', TEXT.replace('"version":1,"a":"b"', '"a":"b","version":1')],
    ['a missing member', TEXT.replace(',"a":"b"', '')],
    ['no object', '[]\n'],
    ['no JSON', '{\n'],
    ['too large', TEXT.replace('"b"', `"${'b'.repeat(65_536)}"`)],
  ])('refuse: %s', async (_name, text) => {
    await expect(parse(text)).rejects.toThrow(refusal('BAD_FORMAT', '^d: '))
  })

  test('refuse another hash', async () => {
    await expect(parse(TEXT.replace('"b"', '"c"'))).rejects.toThrow(refusal('CORRUPT', 'sha256'))
  })
})

describe('chunks', () => {
  const page = new Uint8Array(PAGE).map((_, i) => i * 7)
  const payload = join(Uint8Array.of(0), u32(PAGE), page)
  const key = new Uint8Array(32).fill(5)

  test('are sealed', async () => {
    const chunk = await sealFromPayload(payload, new Uint8Array(32).fill(0x11), new Uint8Array(32).fill(0x22))
    expect(hex(chunk.key)).toBe('2648b6f8ff3bd0f98e288be3accf1cbed86f622fbc0a971a557ceed80e50317b')
    expect(hex(chunk.sealed.subarray(0, 8))).toBe('ef82edfda01eaa18')
    expect(hex(chunk.id)).toBe('8e6df9bd08c97d2d5ac7f8fec7536d330d64c0b56a8e808658922067a2215ac5')
    expect(await openChunk(chunk.sealed, chunk.key, 1)).toEqual(page)
  })

  test.each([
    ['4095 bytes of padding', join(payload, new Uint8Array(4095))],
    ['a zstd frame', ((frame: Uint8Array) => join(Uint8Array.of(1), u32(frame.length), frame))(zstdCompressSync(page))],
  ])('open: %s', async (_name, input) => {
    expect(new Uint8Array(await openChunk(await aesCtr(key, input), key, 1))).toEqual(page)
  })

  test.each([
    ['padding of a page', join(payload, new Uint8Array(PAGE))],
    ['padding that is not zero', join(payload, Uint8Array.of(0, 1))],
    ['a body beyond the payload', payload.subarray(0, -1)],
    ['an unknown codec', join(Uint8Array.of(2), payload.subarray(1))],
    ['a body that is too short', join(Uint8Array.of(0), u32(PAGE - 1), page.subarray(1))],
    ['no header', payload.subarray(0, 4)],
    ['more than a chunk may have', new Uint8Array(528_385)],
  ])('refuse: %s', async (_name, input) => {
    await expect(openChunk(await aesCtr(key, input), key, 1)).rejects.toThrow(refusal('BAD_FORMAT', 'chunk'))
  })

  test.each([
    [0n, 0n],
    [1n, 0x5692161d100b05e5n],
    [127n, 0xa09d66d4686ad125n],
    [4096n, 0xf06041805d06b780n],
    [268_435_455n, 0xd35e03ea1b854414n],
    [0x9e3779b97f4a7c15n, 0xe220a8397b1dcdafn],
    [0xffffffffffffffffn, 0xb4d055fcf2cbbd7bn],
  ])('mix64(%d)', (p, mixed) => {
    expect(mix64(p)).toBe(mixed)
  })

  test('mix64 ends packs', () => {
    const ends = Array.from({ length: 1000 }, (_, p) => p).filter(p => (mix64(BigInt(p)) & 127n) === 0n)
    expect(ends).toEqual([0, 69, 143, 205, 304, 369, 505, 582, 731, 861])
  })

  test('range digests', async () => {
    expect(hex(await rangeDigest(new Uint8Array(16).fill(0x33), page))).toBe('3ad088dae71ac33e09fd2d0acc3a3dc1')
  })
})

describe('snapshots', () => {
  const access = (store: TinyStore) =>
    [
      async (key: string) => store.files.get(key),
      async (prefix: string) => [...store.files.keys()].filter(key => key.startsWith(prefix)),
    ] as const
  const keys = new Map([[UNWRAP_KEY_ID, UNWRAP_KEY]])
  const EMPTY_IMAGE: Packable = ['m', 2, 0, 0, plainColumn(), plainColumn(), bytes()]
  const open = async (store: TinyStore) => await readSnapshot(...access(store), await commit(store), keys)

  test('are read', async () => {
    const { images, ...rest } = await open(await tinyStore())
    expect(rest).toEqual({
      layer: 2,
      parent: ORIGIN,
      sameContentAs: null,
      tenant: 'acme',
      createdAt: 1_700_000_000_000,
      labels: [
        ['app', 'résumé'],
        ['b/c', ''],
      ],
      chunkCount: 2,
      segments: [
        { origin: ORIGIN, layer: 0, domain: OS_DOMAIN, count: 1 },
        { origin: null, layer: 2, domain: OWN_DOMAIN, count: 1 },
      ],
    })
    expect(images.map(({ name, kind, sizeBytes }) => [name, kind, sizeBytes])).toEqual([
      ['mem', 'memory', IMAGE_SIZE],
      ['none', 'blob', 0],
    ])
    expect(Buffer.compare((await images[0]?.bytes()) ?? bytes(), imageBytes())).toBe(0)
    expect(await images[1]?.bytes()).toEqual(bytes())
  })

  test('the store and its roots', async () => {
    const [files, list] = access(await tinyStore())
    expect(await readStoreDocument(files)).toMatchObject({ store: STORE, domains: new Map([[OS_DOMAIN, 'c'.repeat(32)]]) })
    expect(await readRoots(files, list)).toMatchObject([{ root: ROOT, state: 'retired', stateSeq: 2 }])
  })

  test('are refused without a key, or with a wrong one', async () => {
    const store = await tinyStore()
    const id = await commit(store)
    await expect(readSnapshot(...access(store), id, new Map())).rejects.toThrow(refusal('NO_KEY', UNWRAP_KEY_ID))
    const wrong = new Map([[UNWRAP_KEY_ID, new Uint8Array(32)]])
    await expect(readSnapshot(...access(store), id, wrong)).rejects.toThrow(refusal('CORRUPT', 'authenticate'))
    await expect(readSnapshot(...access(store), '0'.repeat(64), keys)).rejects.toThrow(refusal('NOT_FOUND', 'manifest'))
  })

  test('a bit of any object is noticed', async () => {
    const store = await tinyStore()
    const id = await commit(store)
    for (const [key, content] of store.files) {
      if (key === 'store.json' || key.includes('00bb') || key.endsWith('/00000001')) continue
      const flipped = content.slice()
      flipped[flipped.length - 10] = (flipped[flipped.length - 10] ?? 0) ^ 1
      store.files.set(key, flipped)
      const all = async () => {
        const { images } = await readSnapshot(...access(store), id, keys)
        for (const image of images) await image.bytes()
      }
      await expect(all(), key).rejects.toThrow(FormatError)
      store.files.set(key, content)
    }
  })

  test.each<[string, string, 'clear' | 'sealed', number, (old: Packable) => Packable]>([
    ['an unknown version', 'version', 'clear', 1, () => 2],
    ['an unknown layer', 'layer', 'clear', 2, () => 3],
    ['a short parent', 'parent', 'clear', 3, () => bytes('00')],
    ['an unknown key', 'unknown key', 'clear', 8, () => 0],
    ['segments that do not add up', 'add up', 'clear', 5, () => [[bytes(), 2, OWN_DOMAIN, 1]]],
    ['ids that are cut', 'ids', 'clear', 6, () => bytes('00')],
    ['a sealed length of 0', 'sealed length', 'clear', 7, () => plainColumn(0, 1)],
    ['a tenant that is none', 'tenant', 'sealed', 1, () => 'Acme'],
    [
      'labels that are not sorted',
      'sorted',
      'sealed',
      3,
      () => [
        ['b', ''],
        ['a', ''],
      ],
    ],
    [
      'a label twice',
      'twice',
      'sealed',
      3,
      () => [
        ['a', ''],
        ['a', ''],
      ],
    ],
    ['a label with a newline', 'label', 'sealed', 3, () => [['a', '\n']]],
    ['a short lineage key', 'lineage', 'sealed', 4, () => bytes('00')],
    ['a chunk of 129 pages', '128 pages', 'sealed', 6, () => plainColumn(128, 0)],
    ['an image twice', 'one name', 'sealed', 7, () => [EMPTY_IMAGE, EMPTY_IMAGE]],
    ['a kind 3', 'kind', 'sealed', 7, () => [['m', 3, 0, 0, plainColumn(), plainColumn(), bytes()]]],
    ['runs that do not add up', 'add up', 'sealed', 7, () => [['m', 0, 4097, 1, plainColumn(0, 0), plainColumn(0), bytes()]]],
    ['a chunk that does not exist', 'exist', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(7, 0, 0), plainColumn(2), bytes()]]],
    ['a run outside of its chunk', 'within', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(3, 0, 8), plainColumn(2), bytes()]]],
    ['a run before its chunk', 'within', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(3, 0, 1), plainColumn(2), bytes()]]],
    ['bytes behind the runs', 'behind', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(0, 0, 0), plainColumn(0), bytes()]]],
    ['a digest too many', 'digests', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(0, 0), plainColumn(0), new Uint8Array(16)]]],
    ['a range state 3', 'state', 'sealed', 7, () => [['m', 0, 1, 1, plainColumn(0, 0), plainColumn(3), bytes()]]],
    ['too many runs', 'runs', 'sealed', 7, () => [['m', 0, 1, 8_388_609, plainColumn(0, 0), plainColumn(0), bytes()]]],
    ['too large an image', '1 TiB', 'sealed', 7, () => [['m', 0, 2 ** 40 + 1, 1, plainColumn(0, 0), plainColumn(0), bytes()]]],
  ])('refuse %s', async (_name, reason, part, key, change) => {
    const store = await tinyStore()
    const entries = store.parts[part]
    const old = entries.find(entry => entry[0] === key)
    if (old === undefined) entries.push([key, change(0)])
    else old[1] = change(old[1])
    await expect(open(store)).rejects.toThrow(refusal('BAD_FORMAT', reason))
  })

  test.each<[string, string, Packable[]]>([
    ['a range that is said to be zero', 'CORRUPT', ['m', 0, PAGE, 1, plainColumn(3, 0, 0), plainColumn(0), bytes()]],
    ['another digest', 'CORRUPT', ['m', 0, PAGE, 1, plainColumn(3, 0, 0), plainColumn(1), new Uint8Array(16)]],
    ['a short last page that is not filled with zeros', 'BAD_FORMAT', ['m', 0, 1, 1, plainColumn(3, 0, 0), plainColumn(2), bytes()]],
  ])('refuse on reading: %s', async (_name, code, table) => {
    const store = await tinyStore()
    const entry = store.parts.sealed.find(([key]) => key === 7)
    if (entry !== undefined) entry[1] = [table]
    const { images } = await open(store)
    await expect(images[0]?.bytes()).rejects.toThrow(refusal(code, ''))
  })

  test('manifests that are cut or longer are refused', async () => {
    const manifest = await buildManifest((await tinyStore()).parts)
    for (const other of [manifest.subarray(1), manifest.subarray(0, -1), join(manifest, Uint8Array.of(0)), manifest.subarray(0, 12)]) {
      await expect(decodeManifest(other, UNWRAP_KEY)).rejects.toThrow(refusal('BAD_FORMAT', 'manifest'))
    }
  })
})

describe('tags', () => {
  const SIGNER = '00000000000000f1'
  const SNAPSHOT = 'ef'.repeat(32)

  async function signed(change: object) {
    const { subtle } = globalThis.crypto
    const pair = await subtle.generateKey('Ed25519', true, ['sign', 'verify'])
    if (!('privateKey' in pair)) throw new Error('no pair')
    const at = '2026-01-02T03:04:05Z'
    const place = { version: 1, store: STORE, tenant: 'acme', name: 'resize:7' }
    const members = { ...place, seq: 3, snapshot: SNAPSHOT, root: ROOT, at, nonce: '5566778899aabbcc', signer: SIGNER, ...change }
    const signature = await subtle.sign('Ed25519', pair.privateKey, ascii(`thaw-tag-1\n${JSON.stringify(members)}`))
    const text = `${JSON.stringify({ ...members, signature: Buffer.from(signature).toString('base64') })}\n`
    const publicKey = new Uint8Array(await subtle.exportKey('raw', pair.publicKey))
    return { text, publicKeys: new Map([[SIGNER, publicKey]]) }
  }

  async function read(text: string, publicKeys: Map<string, Uint8Array>) {
    const files = new Map([
      ['tags/acme/resize%3A7/000000000002', ascii('an older one')],
      ['tags/acme/resize%3A7/000000000003', ascii(text)],
      ['tags/acme/resize%3A70/000000000009', ascii('of another tag')],
    ])
    const list = async (prefix: string) => [...files.keys()].filter(key => key.startsWith(prefix))
    return await readTag(async key => files.get(key), list, STORE, 'acme', 'resize:7', publicKeys)
  }

  test('are read', async () => {
    const { text, publicKeys } = await signed({})
    expect(await read(text, publicKeys)).toMatchObject({ seq: 3, snapshot: SNAPSHOT, root: ROOT, signer: SIGNER })
    const tombstone = await signed({ snapshot: null })
    expect(await read(tombstone.text, tombstone.publicKeys)).toMatchObject({ snapshot: null })
  })

  test.each([
    ['tenant', { tenant: null }],
    ['name', { name: 'resize:8' }],
    ['seq', { seq: 4 }],
    ['store', { store: '6'.repeat(32) }],
  ])('another %s is refused', async (_name, change) => {
    const { text, publicKeys } = await signed(change)
    await expect(read(text, publicKeys)).rejects.toThrow(refusal('CORRUPT', 'of another'))
  })

  test('a signature that does not verify is refused', async () => {
    const { text, publicKeys } = await signed({})
    const { publicKeys: others } = await signed({})
    await expect(read(text, others)).rejects.toThrow(refusal('CORRUPT', 'signature'))
    await expect(read(text.replace(SNAPSHOT, '0'.repeat(64)), publicKeys)).rejects.toThrow(refusal('CORRUPT', 'signature'))
    await expect(read(text, new Map())).rejects.toThrow(refusal('NO_KEY', SIGNER))
  })

  test.each([
    ['without a nonce', { nonce: undefined }],
    ['with a nonce of another form', { nonce: 'AABBCCDDEEFF0011' }],
  ])('an entry %s is refused', async (_name, change) => {
    const { text, publicKeys } = await signed(change)
    await expect(read(text, publicKeys)).rejects.toThrow(refusal('BAD_FORMAT', 'nonce'))
  })

  test('names', async () => {
    const none = async () => []
    const nothing = async () => undefined
    expect(await readTag(nothing, none, STORE, null, 'latest', new Map())).toBeUndefined()
    for (const name of ['', 'Upper', '-a', 'deadbeef', 'a'.repeat(129)]) {
      await expect(readTag(nothing, none, STORE, null, name, new Map())).rejects.toThrow(refusal('BAD_FORMAT', 'tag'))
    }
  })
})
