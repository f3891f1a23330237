/**
 * Whether the disk has taken what was written to an overlay's file so far. A write is done when the page cache has it; if the disk refuses it later, the kernel takes the page for clean,
 * and who reads it again may get what was there before. It tells that once to each who asks, by the file as a whole.
 */
import { loadNative } from '../util/native.ts'
import { damage, type SharedOverlay } from './image-overlay.ts'

/** <fcntl.h>: SYNC_FILE_RANGE_WAIT_BEFORE. Of the first byte alone: it begins no write and hardly ever waits for one, and is told of errors anywhere in the file. */
const WAIT_BEFORE = 1

/** Damages the image if it has not. */
export async function checkWrittenBack(shared: SharedOverlay): Promise<void> {
  if (shared.fd < 0) return
  const native = await loadNative('an overlay')
  if (native.syncFileRange(shared.fd, 0, 1, WAIT_BEFORE) < 0) damage(shared)
}
