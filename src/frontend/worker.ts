/** A pager's thread: knows the front ends, and serves until it is told to stop. */
import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import type { PagerInput } from '../pager/messages.ts'
import { PagerThread } from '../pager/thread.ts'
import { loadNative } from '../util/native.ts'
import { startFuse } from './fuse/server.ts'
import { startNbd } from './nbd/server.ts'
import { startUffd } from './uffd/server.ts'

assert(parentPort !== null)
const native = await loadNative('a pager')
const thread = new PagerThread(native, parentPort, { fuse: startFuse, nbd: startNbd, uffd: startUffd }, workerData as PagerInput)
// In a turn of its own: the thread counts as started when its module has been run.
setImmediate(() => thread.run())
