/** A store of one snapshot, put together by hand, as input for the tests of this reader. Nothing here is used by the reader itself. */
import { zstdCompressSync } from 'node:zlib'
import { ascii, fromHex, hex, join, PAGE, u32 } from './bytes.ts'
import { type SealedChunk, sealFromPayload } from './chunks.ts'
import { gmac, hkdfSha256, sha256 } from './crypto.ts'

const { subtle } = globalThis.crypto

export const ROOT = '00000000000000aa'
export const OS_DOMAIN = '00000000000000d0'
export const OWN_DOMAIN = '00000000000000d2'
export const STORE = '5'.repeat(32)
export const UNWRAP_KEY_ID = '00000000000000e1'
export const UNWRAP_KEY = new Uint8Array(32).fill(0x77)
export const DATA_KEY = new Uint8Array(32).fill(0x66)
export const LINEAGE_KEY = new Uint8Array(16).fill(0x33)
export const ORIGIN = 'ab'.repeat(32)
export const IMAGE_SIZE = 256 * PAGE + 5000

export type Packable = number | string | Uint8Array | Packable[]

/** MessagePack, of lengths and values below 2³² and in forms that are mostly longer than they need be. */
export function pack(value: Packable): Uint8Array {
  if (typeof value === 'number') {
    const out = new Uint8Array(9).fill(0xcf, 0, 1)
    new DataView(out.buffer).setBigUint64(1, BigInt(value))
    return value < 128 ? Uint8Array.of(value) : out
  }
  const length = (count: number): Uint8Array => u32(count).reverse()
  if (typeof value === 'string') return join(Uint8Array.of(0xdb), length(ascii(value).length), ascii(value))
  if (value instanceof Uint8Array) return join(Uint8Array.of(0xc6), length(value.length), value)
  return join(Uint8Array.of(0xdd), length(value.length), ...value.map(pack))
}

export function packMap(entries: [number, Packable][]): Uint8Array {
  return join(Uint8Array.of(0x80 + entries.length), ...entries.flatMap(([key, value]) => [pack(key), pack(value)]))
}

export function plainColumn(...raw: number[]): Uint8Array {
  return join(Uint8Array.of(0), u32(raw.length), Uint8Array.from(raw))
}

export async function hashedDocument(members: object): Promise<Uint8Array> {
  const hash = hex(await sha256(ascii(JSON.stringify(members))))
  return ascii(`${JSON.stringify({ ...members, sha256: hash })}\n`)
}

export async function gcmSeal(key: Uint8Array, iv: Uint8Array, additionalData: Uint8Array, plaintext: Uint8Array): Promise<Uint8Array> {
  const imported = await subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt'])
  return new Uint8Array(await subtle.encrypt({ name: 'AES-GCM', iv, additionalData }, imported, plaintext))
}

/** Four pages and two pages; the second chunk's last one is the image's short last page. */
export const PAGES_A: Uint8Array = new Uint8Array(4 * PAGE).map((_, i) => 1 + (i >> 12))
export const PAGES_B: Uint8Array = new Uint8Array(2 * PAGE).fill(9, 0, 5000)

/** The image as the runs of `parts` below tell it. */
export function imageBytes(): Uint8Array {
  const zeros = (pages: number): Uint8Array => new Uint8Array(pages * PAGE)
  const page0 = PAGES_A.subarray(0, PAGE)
  return join(PAGES_A.subarray(2 * PAGE), zeros(3), page0, zeros(250), PAGES_B).subarray(0, IMAGE_SIZE)
}

export interface Parts {
  clear: [number, Packable][]
  sealed: [number, Packable][]
}

export interface TinyStore {
  files: Map<string, Uint8Array>
  chunks: SealedChunk[]
  parts: Parts
}

const SALT = new Uint8Array(32).fill(0x22)

export async function tinyStore(): Promise<TinyStore> {
  const a = await sealFromPayload(join(Uint8Array.of(0), u32(PAGES_A.length), PAGES_A), new Uint8Array(32).fill(1), SALT)
  const frame = zstdCompressSync(PAGES_B)
  const padding = new Uint8Array(PAGE - 5 - frame.length)
  const b = await sealFromPayload(join(Uint8Array.of(1), u32(frame.length), frame, padding), new Uint8Array(32).fill(2), SALT)

  const image = imageBytes()
  const digests = join(await gmac(LINEAGE_KEY, image.subarray(0, 128 * PAGE)), await gmac(LINEAGE_KEY, image.subarray(256 * PAGE)))
  // Chunk 0 from page 2, two pages; 3 zero pages; chunk 0 from page 0, one page; 250 zero pages; chunk 1 from page 0, two pages.
  const runs = plainColumn(3, 0, 1, 0, 3, 1, 2, 0, 0xf9, 0x01, 1, 4, 7, 0)
  const parts: Parts = {
    clear: [
      [1, 1],
      [2, 2],
      [3, fromHex(ORIGIN)],
      [
        5,
        [
          [fromHex(ORIGIN), 0, OS_DOMAIN, 1],
          [new Uint8Array(0), 2, OWN_DOMAIN, 1],
        ],
      ],
      [6, join(a.id, b.id)],
      // 16,389 and 4,096 as varints.
      [7, plainColumn(0x85, 0x80, 0x01, 0x80, 0x20)],
      [200, [[['deep enough']]]],
    ],
    sealed: [
      [1, 'acme'],
      [2, 1_700_000_000_000],
      [
        3,
        [
          ['app', 'résumé'],
          ['b/c', ''],
        ],
      ],
      [4, LINEAGE_KEY],
      [5, join(a.key, b.key)],
      [6, plainColumn(3, 1)],
      [
        7,
        [
          ['mem', 0, IMAGE_SIZE, 5, runs, plainColumn(1, 0, 1), digests],
          ['none', 2, 0, 0, plainColumn(), plainColumn(), new Uint8Array(0)],
        ],
      ],
    ],
  }

  const at = '2026-01-02T03:04:05.678Z'
  const profile = { codec: 'zstd', level: 1, zstd: '1.5.7' }
  const files = new Map<string, Uint8Array>()
  files.set('store.json', await hashedDocument({ version: 1, store: STORE, createdAt: at, domains: { [OS_DOMAIN]: 'c'.repeat(32) } }))
  files.set(`roots/${ROOT}/root.json`, await hashedDocument({ version: 1, root: ROOT, createdAt: at, salt: hex(SALT), profile }))
  files.set(`roots/${ROOT}/state/00000001`, await hashedDocument({ version: 1, root: ROOT, seq: 1, state: 'active', at }))
  files.set(`roots/${ROOT}/state/00000002`, await hashedDocument({ version: 1, root: ROOT, seq: 2, state: 'retired', at }))
  files.set('roots/00000000000000bb/root.json', ascii('a root that is being made'))
  for (const [chunk, domain] of [
    [a, OS_DOMAIN],
    [b, OWN_DOMAIN],
  ] as const) {
    const id = hex(chunk.id)
    files.set(`roots/${ROOT}/chunks/${domain}/${id.slice(0, 2)}/${id}`, chunk.sealed)
  }
  return { files, chunks: [a, b], parts }
}

export async function buildManifest(parts: Parts): Promise<Uint8Array> {
  const clear = packMap(parts.clear)
  const plain = packMap(parts.sealed)
  const before = join(ascii('THAWMAN1'), u32(clear.length), u32(plain.length + 16), clear)
  const key = await hkdfSha256(DATA_KEY, ascii('thaw-manifest-1'), 32)
  return join(before, await gcmSeal(key, new Uint8Array(12), before, plain))
}

/** Puts manifest and wrapped key into the store, and gives the snapshot's id. */
export async function commit(store: TinyStore): Promise<string> {
  const manifest = await buildManifest(store.parts)
  const id = await sha256(manifest)
  const iv = new Uint8Array(12).fill(0x12)
  const sealed = await gcmSeal(UNWRAP_KEY, iv, join(ascii('thaw-wrap-1'), id, ascii(UNWRAP_KEY_ID)), DATA_KEY)
  const wrapped = Buffer.from(join(iv, sealed)).toString('base64')
  const keys = [{ key: UNWRAP_KEY_ID, algorithm: 'A256GCM', wrapped }]
  store.files.set(`roots/${ROOT}/manifests/${hex(id)}`, manifest)
  store.files.set(`roots/${ROOT}/keys/${hex(id)}`, await hashedDocument({ version: 1, snapshot: hex(id), keys }))
  return hex(id)
}
