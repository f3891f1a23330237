/** Columns in shared memory, for threads to read: posting a view of other memory would copy all that lies behind it, be it a whole manifest. */
export function sharedCopy({ buffer, byteOffset, byteLength }: ArrayBufferView): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(byteLength)
  new Uint8Array(memory).set(new Uint8Array(buffer, byteOffset, byteLength))
  return memory
}
