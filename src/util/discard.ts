/**
 * Frees the memory of large buffers that native code allocates for each result (zlib, OpenSSL) as soon as it was used. The collector knows only their small
 * handles: it would let megabytes pile up, and then look through the whole heap for them (measured: a tenth of the time of a push, an eighth of a pull's).
 */

/** Node's pool of small buffers has 64 KiB: what is larger has a memory of its own. */
const POOL_BYTES = 64 * 1024

/** Gives back the memory behind a buffer that nobody will use any more; small ones, which may share theirs, are left to the collector. */
export function discard({ buffer }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength > POOL_BYTES) buffer.transfer(0)
}
