import { randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { Packr } from 'msgpackr'
import { describe, expect, it } from 'vitest'
import { PAGE_BYTES, RANGE_BYTES, rangeCount } from '../src/chunk.ts'
import { LAYERS } from '../src/keys.ts'
import { decodeManifest, decodeOutline } from '../src/manifest/decode.ts'
import { encodeManifest } from '../src/manifest/encode.ts'
import { decodeMap } from '../src/manifest/messagepack.ts'
import { IMAGE_KINDS, type Manifest, type ManifestImage } from '../src/manifest.ts'
import { PageMapBuilder } from '../src/pagemap.ts'
import { codeOf } from './code-of.ts'

const DATA_KEY = Buffer.alloc(32, 7)
const ID = 'ab'.repeat(32)

const hexId = fc.uint8Array({ minLength: 32, maxLength: 32 }).map(bytes => Buffer.from(bytes).toString('hex'))

const image = (name: string, chunks: number): fc.Arbitrary<ManifestImage> =>
  fc
    .record({
      kind: fc.constantFrom(...IMAGE_KINDS),
      runs: fc.array(fc.tuple(fc.integer({ min: -1, max: chunks - 1 }), fc.integer({ min: 1, max: 128 }), fc.nat(127)), { maxLength: 30 }),
      short: fc.nat(PAGE_BYTES - 1),
      states: fc.infiniteStream(fc.constantFrom(0, 1, 2)),
    })
    .map(({ kind, runs, short, states }) => {
      const builder = new PageMapBuilder()
      for (const [chunk, count, first] of runs) builder.append(Math.min(count, 128 - first), chunk, first)
      const map = builder.build()
      const sizeBytes = Math.max(0, map.pageCount * PAGE_BYTES - short)
      const ranges = rangeCount(sizeBytes)
      const digests = { states: Uint8Array.from([...states.take(ranges)]), digests: new Uint8Array(ranges * 16) }
      digests.states.forEach((state, range) => {
        if (state === 1) digests.digests.fill(range + 1, range * 16, range * 16 + 16)
      })
      return { name, kind, sizeBytes, map, digests }
    })

const manifests: fc.Arbitrary<Manifest> = fc.integer({ min: 0, max: 40 }).chain(chunks => {
  const column = (bytes: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: bytes * chunks, maxLength: bytes * chunks })
  return fc.record({
    layer: fc.constantFrom(...LAYERS),
    parent: fc.option(hexId, { nil: undefined }),
    sameContentAs: fc.option(hexId, { nil: undefined }),
    segments: fc.tuple(hexId, fc.nat(chunks)).map(([origin, own]) => [
      { origin, layer: 'os' as const, domain: '0123456789abcdef', count: chunks - own },
      { origin: undefined, layer: 'function' as const, domain: 'fedcba9876543210', count: own },
    ]),
    ids: column(32),
    sealedBytes: fc
      .array(fc.integer({ min: 5, max: 528_384 }), { minLength: chunks, maxLength: chunks })
      .map(list => Uint32Array.from(list)),
    tenant: fc.option(fc.constantFrom('acme', 'a.b-c_d'), { nil: undefined }),
    createdAtMs: fc.integer({ min: 0, max: 4e12 }),
    labels: fc
      .dictionary(fc.stringMatching(/^[a-z][a-z0-9./-]{0,8}$/), fc.stringMatching(/^[ -~é]{0,20}$/))
      .map(o => new Map(Object.entries(o).sort(([a], [b]) => (a < b ? -1 : 1)))),
    lineageKey: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    keys: column(32),
    pages: fc.constant(new Uint8Array(chunks).fill(128)),
    images: fc.tuple(image('memory', chunks), image('rootfs', chunks)),
  })
})

function plain(manifest: Manifest): unknown {
  const bytes = (array: ArrayLike<number>): number[] => Array.from(array)
  return {
    ...manifest,
    ids: bytes(manifest.ids),
    keys: bytes(manifest.keys),
    pages: bytes(manifest.pages),
    sealedBytes: bytes(manifest.sealedBytes),
    lineageKey: bytes(manifest.lineageKey),
    images: manifest.images.map(({ digests, ...rest }) => ({ ...rest, states: bytes(digests.states), digests: bytes(digests.digests) })),
  }
}

describe('a manifest', () => {
  it('survives its codec', () => {
    fc.assert(
      fc.property(manifests, manifest => {
        const bytes = encodeManifest(manifest, DATA_KEY)
        expect(plain(decodeManifest(bytes, DATA_KEY, ID))).toEqual(plain(manifest))
        const { layer, parent, segments } = decodeOutline(bytes, ID)
        expect({ layer, parent, segments }).toEqual({ layer: manifest.layer, parent: manifest.parent, segments: manifest.segments })
      }),
    )
  })

  it('is not made if no reader would take it', () => {
    const [image] = fc.sample(manifests, 1)[0]!.images
    const large = { ...image!, sizeBytes: 2 ** 39 + 1 }
    const manifest = { ...fc.sample(manifests, 1)[0]!, images: [large, { ...large, name: 'other' }] }
    expect(codeOf(() => encodeManifest(manifest, DATA_KEY))).toBe('RangeError')
  })

  it('opens under its data key only', () => {
    const bytes = encodeManifest(fc.sample(manifests, 1)[0]!, DATA_KEY)
    expect(codeOf(() => decodeManifest(bytes, randomBytes(32), ID))).toBe('WRONG_KEY')
  })

  it('is refused with any byte changed or missing', () => {
    const bytes = encodeManifest(fc.sample(manifests, { numRuns: 1, seed: 4 })[0]!, DATA_KEY)
    for (let at = 0; at < bytes.length; at++) {
      const bad = Buffer.from(bytes)
      bad[at]! ^= 1 << (at % 8)
      expect(['WRONG_KEY', 'BAD_FORMAT']).toContain(codeOf(() => decodeManifest(bad, DATA_KEY, ID)))
      expect(codeOf(() => decodeManifest(bytes.subarray(0, at), DATA_KEY, ID))).toBe('BAD_FORMAT')
    }
  })
})

describe('the decoder', () => {
  it('answers any bytes with BAD_FORMAT', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(200), (noise, clear) => {
        const framed = Buffer.concat([
          Buffer.from('THAWMAN1'),
          u32(Math.min(clear, noise.length)),
          u32(noise.length - Math.min(clear, noise.length)),
          noise,
        ])
        expect(codeOf(() => decodeOutline(framed, ID))).toBe('BAD_FORMAT')
        expect(codeOf(() => decodeOutline(noise, ID))).toBe('BAD_FORMAT')
      }),
    )
  })

  const fields = (changes: Iterable<readonly [number, unknown]>): Buffer => {
    const map = new Map<number, unknown>([
      [1, 1],
      [2, 0],
      [5, []],
      [6, Buffer.alloc(0)],
      [7, column(Buffer.alloc(0))],
    ])
    for (const [key, value] of changes) map.set(key, value)
    const clear = new Packr({ useRecords: false, mapsAsObjects: false }).pack(new Map([...map].sort(([a], [b]) => a - b)))
    return Buffer.concat([Buffer.from('THAWMAN1'), u32(clear.length), u32(16), clear, Buffer.alloc(16)])
  }

  it('takes the least outline there is, and unknown keys from 128 on', () => {
    expect(codeOf(() => decodeOutline(fields([]), ID))).toBeUndefined()
    expect(codeOf(() => decodeOutline(fields([[128, 'later']]), ID))).toBeUndefined()
  })

  it.each<[string, readonly (readonly [number, unknown])[]]>([
    ['another version', [[1, 2]]],
    ['an unknown layer', [[2, 3]]],
    ['an unknown key', [[8, 1]]],
    ['a float', [[128, 1.5]]],
    ['a negative number', [[128, -1]]],
    ['nil', [[128, null]]],
    ['a date, which msgpackr would revive', [[128, new Date(0)]]],
    ['a nested map', [[128, new Map([[1, 1]])]]],
    ['deep nesting', [[128, [[[[1]]]]]]],
    ['a parent of the wrong length', [[3, Buffer.alloc(31)]]],
    ['ids that are no ids', [[6, Buffer.alloc(33)]]],
    ['segments that do not add up', [[5, [[Buffer.alloc(0), 0, '0123456789abcdef', 1]]]]],
    ['a domain with a slash', [[5, [[Buffer.alloc(0), 0, '../../etc/passwd', 0]]]]],
    ['a column that promises more than it may', [[7, column(Buffer.alloc(6))]]],
    ['a column with bytes behind its end', [[7, column(Buffer.alloc(1))]]],
  ])('refuses %s', (_, changes) => {
    expect(codeOf(() => decodeOutline(fields(changes), ID))).toBe('BAD_FORMAT')
  })

  it('does not decompress a bomb', () => {
    const bomb = zstdCompressSync(Buffer.alloc(2 ** 28))
    const header = Buffer.concat([Buffer.of(1), u32(2 ** 28)])
    const lying = Buffer.concat([Buffer.of(1), u32(0)])
    expect(codeOf(() => decodeOutline(fields([[7, Buffer.concat([header, bomb])]]), ID))).toBe('BAD_FORMAT')
    const before = process.memoryUsage().rss
    expect(codeOf(() => decodeOutline(fields([[7, Buffer.concat([lying, bomb])]]), ID))).toBe('BAD_FORMAT')
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 26)
  })

  it('bounds the number of items before it decodes', () => {
    const many = Buffer.concat([Buffer.of(0x81, 0xcc, 128), Buffer.of(0xdc, 0xff, 0xff), Buffer.alloc(0xffff, 0xdc)])
    expect(() => decodeMap(many)).toThrow(RangeError)
  })
})

it('of a 30 GiB image stays within 0.02 % of it', () => {
  const ranges = 61_440
  const builder = new PageMapBuilder()
  for (let range = 0; range < ranges; range++) {
    builder.append(40 + (range % 48), range, 0)
    builder.append(128 - 40 - (range % 48), -1, 0)
  }
  const manifest: Manifest = {
    layer: 'os',
    parent: undefined,
    sameContentAs: undefined,
    segments: [{ origin: undefined, layer: 'os', domain: '0123456789abcdef', count: ranges }],
    ids: randomBytes(ranges * 32),
    sealedBytes: Uint32Array.from({ length: ranges }, (_, i) => 100_000 + ((i * 7919) % 65_536)),
    tenant: undefined,
    createdAtMs: 1.7e12,
    labels: new Map(),
    lineageKey: randomBytes(16),
    keys: randomBytes(ranges * 32),
    pages: Uint8Array.from({ length: ranges }, (_, range) => 40 + (range % 48)),
    images: [
      {
        name: 'memory',
        kind: 'memory',
        sizeBytes: ranges * RANGE_BYTES,
        map: builder.build(),
        digests: { states: new Uint8Array(ranges).fill(1), digests: randomBytes(ranges * 16) },
      },
    ],
  }
  const bytes = encodeManifest(manifest, DATA_KEY)
  expect(bytes.length).toBeLessThan(0.0002 * ranges * RANGE_BYTES)
  expect(decodeManifest(bytes, DATA_KEY, ID).images[0]!.map.runCount).toBe(2 * ranges)
})

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function column(raw: Buffer): Buffer {
  return Buffer.concat([Buffer.of(0), u32(raw.length), raw])
}
