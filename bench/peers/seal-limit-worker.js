/**
 * One thread of the sealing limit (`seal-limit.ts`): every `step`-th range of a file from the `first` on. Posts the number of sealed bytes.
 *
 * Plain JavaScript, because its start is part of what is timed: Node takes 50 ms a thread to get ready for stripping types, and a published package has
 * none to strip.
 */
import { createCipheriv, createHmac, hash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { constants, zstdCompressSync } from 'node:zlib'

const RANGE_BYTES = 512 * 1024
const ZERO_RANGE = Buffer.alloc(RANGE_BYTES)
const ZERO_IV = Buffer.alloc(16)
const SECRET = Buffer.alloc(32, 9)
const ZSTD_OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }
const COMPRESSED_SHARE_MAX = 0.9

/**
 * @param {{ path: string, first: number, step: number }} share
 * @returns {number} sealed bytes
 */
function sealShare({ path, first, step }) {
  const file = openSync(path)
  const { size } = fstatSync(file)
  const buffer = Buffer.allocUnsafe(RANGE_BYTES)
  let sealedBytes = 0
  for (let at = first * RANGE_BYTES; at < size; at += step * RANGE_BYTES) {
    const range = buffer.subarray(0, readSync(file, buffer, 0, RANGE_BYTES, at))
    if (!range.equals(ZERO_RANGE.subarray(0, range.length))) sealedBytes += seal(range)
  }
  closeSync(file)
  return sealedBytes
}

/**
 * @param {Buffer} range
 * @returns {number} its length, sealed
 */
function seal(range) {
  const frame = zstdCompressSync(range, ZSTD_OPTIONS)
  const payload = frame.length > range.length * COMPRESSED_SHARE_MAX ? range : frame
  const key = createHmac('sha256', SECRET)
    .update(hash('sha256', payload, 'buffer'))
    .digest()
  const sealed = createCipheriv('aes-256-ctr', key, ZERO_IV).update(payload)
  hash('sha256', sealed, 'buffer')
  return sealed.length
}

parentPort.postMessage(sealShare(workerData))
