/**
 * The worker thread of a push, pull or verification: takes tasks, works on slots of shared memory, replies. All of it is synchronous; nothing here
 * knows of stores or manifests.
 */
import assert from 'node:assert/strict'
import { createCipheriv } from 'node:crypto'
import { fstatSync, readSync, writeSync } from 'node:fs'
import { constants, setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { CHUNK_PAGES, gather, isZeroPage, markPages, PAGE_BYTES, pageCount, stretchesOf } from '../chunk.ts'
import { fromErrno, ThawError } from '../errors.ts'
import { encodePayload, OpenedChunk, SEALED_BYTES_MAX, sealPayload, verifyChunk } from '../seal.ts'
import { failureOf } from '../util/failure.ts'
import { Slab } from '../util/slab.ts'
import {
  type ChangesResult,
  type ChangesTask,
  type OpenTask,
  PAGE_MARK,
  type Placement,
  type Reply,
  type Request,
  type ResultOf,
  type ScanResult,
  type ScanTask,
  type SealedPages,
  type SealedSlot,
  type SealingKey,
  type Task,
  type WorkerOptions,
  type WriteTask,
} from './tasks.ts'

/** A payload that is sealed, or pages that are written. */
const working = Buffer.alloc(SEALED_BYTES_MAX)
const GMAC_IV = Buffer.alloc(12)

assert(parentPort !== null)
const port = parentPort
let options: WorkerOptions | undefined
port.on('message', (message: WorkerOptions | readonly Request[]) => {
  if (isRequests(message)) for (const request of message) port.postMessage(reply(request))
  else accept(message)
})

function isRequests(message: WorkerOptions | readonly Request[]): message is readonly Request[] {
  return Array.isArray(message)
}

function accept(given: WorkerOptions): void {
  options = given
  // Of this thread alone, on Linux. There is no way back without privilege, and none is needed.
  if (given.nice) setPriority(constants.priority.PRIORITY_LOW)
}

function reply({ slot, task }: Request): Reply {
  try {
    assert(options !== undefined)
    return { result: run(slot, task, options) }
  } catch (error) {
    return { failure: failureOf(error) }
  }
}

function run(slot: number | undefined, task: Task, options: WorkerOptions): ResultOf[Task['kind']] {
  switch (task.kind) {
    case 'scan':
      return scan(own(slot, options), task, options.sealing)
    case 'changes':
      return changes(own(slot, options), task)
    case 'seal':
      return seal(own(slot, options), task.pages, options.sealing)
    case 'open':
      open(own(slot, options), lent(task.sealed, options), task)
      return undefined
    case 'write':
      return write(lent(task.sealed, options), task)
    case 'verify':
      verifyChunk(lent(task.sealed, options), task.id)
      return undefined
  }
}

function own(slot: number | undefined, { slab }: WorkerOptions): Buffer {
  assert(slot !== undefined)
  return Slab.view(slab, slot)
}

function lent({ index, sizeBytes }: SealedSlot, { sealedSlab }: WorkerOptions): Buffer {
  assert(sealedSlab !== undefined)
  return Slab.view(sealedSlab, index).subarray(0, sizeBytes)
}

function scan(bytes: Buffer, task: ScanTask, sealing: SealingKey | undefined): ScanResult {
  if (task.file !== undefined) readRange(bytes.subarray(0, task.sizeBytes), task.file)
  const found = judge(bytes, task)
  if (found.state !== 'differs' || task.layout === 'compare') return found
  const stretches = stretchesOf(found.marks, pageCount(task.sizeBytes))
  return { state: 'sealed', digest: found.digest, stretches, chunk: seal(bytes, gather(bytes, stretches), sealing) }
}

function changes(bytes: Buffer, task: ChangesTask): ChangesResult {
  const { marks, sizeBytes } = task
  for (const piece of task.pieces) readRange(bytes.subarray(piece.at, piece.at + piece.sizeBytes), piece)
  if (!marks.includes(PAGE_MARK.same)) {
    fillZeroPages(bytes, marks)
    return judge(bytes, task)
  }
  bytes.fill(0, sizeBytes, marks.length * PAGE_BYTES)
  marks.forEach((mark, page) => {
    if (mark === PAGE_MARK.used && isZeroPage(bytes, page * PAGE_BYTES)) marks[page] = PAGE_MARK.zero
  })
  return { state: 'changed', marks }
}

/** By runs of pages: a call of `fill` costs more than a page. */
function fillZeroPages(bytes: Buffer, marks: Uint8Array): void {
  for (let page = 0; page < marks.length; ) {
    let next = page + 1
    while (next < marks.length && marks[next] === marks[page]) next++
    if (marks[page] === PAGE_MARK.zero) bytes.fill(0, page * PAGE_BYTES, next * PAGE_BYTES)
    page = next
  }
}

type Judged = Exclude<ScanResult, { readonly state: 'sealed' }>

/** Of a range that lies in its slot: is it zero, is it as the digest says, which pages are used? Fills its last page with zeros. */
function judge(bytes: Buffer, { sizeBytes, lineageKey, digest: known }: Pick<ScanTask, 'sizeBytes' | 'lineageKey' | 'digest'>): Judged {
  const pages = pageCount(sizeBytes)
  bytes.fill(0, sizeBytes, pages * PAGE_BYTES)
  const marks = new Uint8Array(CHUNK_PAGES)
  if (markPages(bytes.subarray(0, pages * PAGE_BYTES), marks) === 0) return { state: 'zero' }
  const digest = rangeDigest(bytes.subarray(0, sizeBytes), lineageKey)
  return known !== undefined && digest.equals(known) ? { state: 'same' } : { state: 'differs', digest, marks }
}

function readRange(bytes: Buffer, { fd, offset }: { readonly fd: number; readonly offset: number }): void {
  let done = 0
  while (done < bytes.length) {
    const read = readChecked(fd, bytes.subarray(done), offset + done)
    if (read === 0)
      throw new ThawError('CONFLICT', `the file ended at ${offset + done} bytes while it was read (it has ${fstatSync(fd).size} now)`)
    done += read
  }
}

function readChecked(fd: number, target: Uint8Array, offset: number): number {
  try {
    return readSync(fd, target, 0, target.length, offset)
  } catch (error) {
    throw fromErrno(error, 'cannot read the image', `byte ${offset}`)
  }
}

/** GMAC of the bytes (docs/FORMAT.md section 6): 45 µs a range where SHA-256 takes 256. */
function rangeDigest(bytes: Uint8Array, lineageKey: Uint8Array): Buffer {
  const gmac = createCipheriv('aes-128-gcm', lineageKey, GMAC_IV)
  gmac.setAAD(bytes)
  gmac.final()
  return gmac.getAuthTag()
}

function seal(bytes: Buffer, pages: number, sealing: SealingKey | undefined): SealedPages {
  assert(sealing !== undefined)
  const payloadBytes = encodePayload(bytes, pages, sealing, working)
  return { pages, ...sealPayload(working.subarray(0, payloadBytes), sealing.secret, sealing.salt, bytes) }
}

function open(pages: Buffer, sealed: Buffer, { chunk }: OpenTask): void {
  OpenedChunk.open(sealed, chunk, pages)
}

function write(sealed: Buffer, { chunk, placements }: WriteTask): number {
  const opened = OpenedChunk.open(sealed, chunk, working).bytes
  let written = 0
  for (const { fd, path, offset, from, sizeBytes } of placements) {
    for (let done = 0; done < sizeBytes; ) done += writeChecked({ fd, path }, opened, from + done, sizeBytes - done, offset + done)
    written += sizeBytes
  }
  return written
}

function writeChecked(
  { fd, path }: Pick<Placement, 'fd' | 'path'>,
  bytes: Uint8Array,
  from: number,
  sizeBytes: number,
  offset: number,
): number {
  try {
    return writeSync(fd, bytes, from, sizeBytes, offset)
  } catch (error) {
    throw fromErrno(error, `cannot write the image at byte ${offset}`, path)
  }
}
