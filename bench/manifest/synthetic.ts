/** Manifests as large snapshots would have them, of random chunks that do not exist: their sizes and layout are what counts. */
import { randomBytes } from 'node:crypto'
import { CHUNK_PAGES, endsPack, pageCount, rangeCount } from '../../src/chunk.ts'
import { DIGEST_BYTES, type Manifest, RANGE_STATE } from '../../src/manifest.ts'
import { type PageMap, PageMapBuilder, ZERO } from '../../src/pagemap.ts'

/** The chunks that a layout refers to: how many pages each has, by index. */
interface Layout {
  readonly map: PageMap
  readonly pages: Uint8Array
  readonly positionChunks: number
}

const DOMAINS = { runtime: '00112233aabbccdd', function: '8899aabbccddeeff' } as const
/** Sealed lengths of real guest memory: 3.3 : 1, widely spread. */
const SEALED_BYTES = { lowest: 40_000, spread: 240_000 } as const

/**
 * A manifest of one image of that many bytes. Every range has one chunk and a run of zeros behind it; with `stretches`, that many stretches of each range come
 * from packs instead, as after changes all over it.
 */
export function syntheticManifest(sizeBytes: number, stretches: number): Manifest {
  const { map, pages, positionChunks } = layOut(sizeBytes, stretches)
  const chunks = pages.length
  const ranges = rangeCount(sizeBytes)
  const parent = chunks > positionChunks ? randomBytes(32).toString('hex') : undefined
  const segments = [
    { origin: parent, layer: 'runtime', domain: DOMAINS.runtime, count: positionChunks },
    { origin: undefined, layer: 'function', domain: DOMAINS.function, count: chunks - positionChunks },
  ] as const
  return {
    layer: parent === undefined ? 'runtime' : 'function',
    parent,
    sameContentAs: undefined,
    segments: segments.filter(({ count }) => count > 0),
    ids: randomBytes(32 * chunks),
    sealedBytes: Uint32Array.from({ length: chunks }, () => SEALED_BYTES.lowest + Math.floor(Math.random() * SEALED_BYTES.spread)),
    tenant: undefined,
    createdAtMs: Date.UTC(2026, 10, 21),
    labels: new Map(),
    lineageKey: randomBytes(DIGEST_BYTES),
    keys: randomBytes(32 * chunks),
    pages,
    images: [
      {
        name: 'memory',
        kind: 'memory',
        sizeBytes,
        map,
        digests: { states: new Uint8Array(ranges).fill(RANGE_STATE.known), digests: randomBytes(DIGEST_BYTES * ranges) },
      },
    ],
  }
}

/** Chunks by position first, packs behind them, as a push with a parent lists them. */
function layOut(sizeBytes: number, stretches: number): Layout {
  const builder = new PageMapBuilder()
  const ranges = pageCount(sizeBytes) / CHUNK_PAGES
  const used = Array.from({ length: ranges }, () => CHUNK_PAGES / 2 + randomBelow(CHUNK_PAGES / 2))
  const packs: number[] = []
  const pack = { pages: 0 }
  for (const [range, pages] of used.entries()) {
    const step = Math.floor(pages / (stretches + 1))
    for (let stretch = 0; stretch < stretches; stretch++) {
      const dirty = 1 + randomBelow(step >> 1)
      builder.append(step - dirty, range, stretch * step)
      for (let page = 0; page < dirty; page++) {
        builder.append(1, ranges + packs.length, pack.pages)
        pack.pages++
        if (endsPack(builder.pageCount - 1, pack.pages)) packs.push(takePages(pack))
      }
    }
    builder.append(pages - stretches * step, range, stretches * step)
    builder.append(CHUNK_PAGES - pages, ZERO, 0)
  }
  if (pack.pages > 0) packs.push(pack.pages)
  return { map: builder.build(), pages: Uint8Array.from([...used, ...packs]), positionChunks: ranges }
}

function takePages(pack: { pages: number }): number {
  const { pages } = pack
  pack.pages = 0
  return pages
}

function randomBelow(limit: number): number {
  return Math.floor(Math.random() * limit)
}
