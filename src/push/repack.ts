/**
 * Chunks of the parent of which the new snapshot would use less than a quarter are not worth their transfer: their pages move into packs of its own.
 */
import { PAGE_BYTES } from '../chunk.ts'
import type { ManifestImage } from '../manifest.ts'
import { type PageMap, PageMapBuilder, ZERO } from '../pagemap.ts'
import type { ChunkReader } from '../reader/chunk-reader.ts'
import type { ImageContext } from './image-writer.ts'
import { Packer } from './packer.ts'

/** A chunk is kept if at least this share of its pages is used. */
const USED_SHARE_MIN = 0.25

/**
 * The images with their map changed where that pays.
 * @param chunkPages pages of each of the parent's chunks; higher indices are new chunks and stay.
 */
export async function repackImages(
  images: readonly ManifestImage[],
  chunkPages: Uint8Array,
  reader: ChunkReader,
  context: ImageContext,
): Promise<ManifestImage[]> {
  const wasteful = wastefulChunks(images, chunkPages)
  if (!wasteful.includes(1)) return [...images]
  const repacked: ManifestImage[] = []
  for (const image of images) repacked.push({ ...image, map: await repack(image.map, wasteful, reader, context) })
  return repacked
}

/** Marks chunks that are used, but too little. Pages that several runs use count each time: it errs towards keeping. */
function wastefulChunks(images: readonly ManifestImage[], chunkPages: Uint8Array): Uint8Array {
  const used = new Uint32Array(chunkPages.length)
  for (const { map } of images) {
    for (const { chunk, count } of map.runs()) if (chunk !== ZERO && chunk < used.length) used[chunk]! += count
  }
  return chunkPages.map((pages, chunk) => (used[chunk]! > 0 && used[chunk]! < pages * USED_SHARE_MIN ? 1 : 0))
}

async function repack(map: PageMap, wasteful: Uint8Array, reader: ChunkReader, context: ImageContext): Promise<PageMap> {
  const builder = new PageMapBuilder()
  const packer = new Packer(context.pool, context.outbox)
  try {
    for (const run of map.runs()) {
      if (wasteful[run.chunk] !== 1) {
        builder.append(run.count, run.chunk, run.first)
        continue
      }
      for (let i = 0; i < run.count; i++) {
        await packer.prepare()
        const bytes = await reader.chunk(run.chunk, { signal: context.signal })
        const { chunk, first } = packer.add(run.page + i, bytes, (run.first + i) * PAGE_BYTES)
        builder.append(1, chunk, first)
      }
      context.counts.inheritedBytes -= run.count * PAGE_BYTES
      context.counts.ownBytes += run.count * PAGE_BYTES
    }
    packer.end()
    return builder.build()
  } catch (error) {
    packer.discard()
    throw error
  }
}
