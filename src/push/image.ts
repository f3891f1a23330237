/**
 * One image: its bytes become runs of a page map, and chunks on their way to the store.
 *
 * Without a parent each range is sealed by the thread that reads it. With one, ranges whose digest is the parent's are taken over unread and unsealed; of the
 * others each page is compared with the parent's, and only what changed is packed. Where the changes are known, ranges without any are not even looked at.
 */
import assert from 'node:assert/strict'
import type { ImageKind, ManifestImage } from '../manifest.ts'
import { type ImageContext, ImageWriter, type ParentImage } from './image-writer.ts'
import { type ScannedRange, type ScanOptions, scanRanges } from './scan.ts'
import { scanChanges } from './scan-changes.ts'
import type { Source } from './source.ts'

/** Reads the source to its end. Chunk indices in the map are the writer's. */
export async function pushImage(
  name: string,
  kind: ImageKind,
  source: Source,
  parent: ParentImage | undefined,
  context: ImageContext,
): Promise<ManifestImage> {
  const image = new ImageWriter(parent, context)
  try {
    const options = { name, parent: parent?.image, onDiffers: (range: number, marks: Uint8Array) => image.prefetch(range, marks) }
    for await (const range of scan(source, context, options)) {
      await image.append(range)
      context.counts.doneBytes += range.sizeBytes
      context.report()
    }
    image.end()
  } catch (error) {
    image.discard()
    throw error
  }
  return { name, kind, ...image.finish(source.sizeBytes ?? 0) }
}

function scan(
  source: Source,
  { pool, lineageKey, signal }: ImageContext,
  options: Omit<ScanOptions, 'lineageKey' | 'signal'>,
): AsyncGenerator<ScannedRange> {
  const all = { ...options, lineageKey, signal }
  if (source.kind === 'whole') return scanRanges(source, pool, all)
  const { parent } = options
  assert(parent !== undefined)
  return scanChanges(source.changes, pool, { ...all, parent })
}
