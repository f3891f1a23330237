/** What a push has done so far: counted where it happens, shown by whoever asked. */

/** Bytes and chunks of a push; all figures only grow. */
export interface PushCounts {
  /** Image bytes dealt with, holes included. */
  doneBytes: number
  /** Pages that are zero, in bytes. */
  zeroBytes: number
  /** Pages taken over from the parent, in bytes. */
  inheritedBytes: number
  /** Pages put into chunks of this snapshot, in bytes, before compression. */
  ownBytes: number
  /** Sealed bytes of own chunks that the store did not have. */
  storedBytes: number
  storedChunks: number
  /** Sealed bytes of own chunks that were there already: pushed before, or by someone who shares the layer. */
  foundBytes: number
  foundChunks: number
  /** Own chunks that the L2 cache was given and keeps. */
  primedChunks: number
  /** Own chunks that it did not keep, and the manifest if it did not keep that. */
  primeFailures: number
}

export interface PushProgress extends Readonly<PushCounts> {
  readonly phase: 'images' | 'sync' | 'publish'
  /** The image being read, in phase `images`. */
  readonly image: string | undefined
  /** Bytes of all images; undefined while the length of a stream is not known. */
  readonly totalBytes: number | undefined
}

export function newPushCounts(): PushCounts {
  return {
    doneBytes: 0,
    zeroBytes: 0,
    inheritedBytes: 0,
    ownBytes: 0,
    storedBytes: 0,
    storedChunks: 0,
    foundBytes: 0,
    foundChunks: 0,
    primedChunks: 0,
    primeFailures: 0,
  }
}
