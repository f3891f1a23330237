/** Opens chunks: from the slab, into the arena. It knows no store and keeps no key. */
import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { Arena } from '../arena.ts'
import { OpenedChunk } from '../seal.ts'
import { failureOf } from '../util/failure.ts'
import { Slab } from '../util/slab.ts'
import type { OpeningMemory, OpeningReply, OpeningRequest } from './opening-threads.ts'

assert(parentPort !== null)
const port = parentPort
const memory = workerData as OpeningMemory
const arena = new Arena(memory.arena)

port.on('message', (request: OpeningRequest) => port.postMessage(open(request)))
port.postMessage(undefined satisfies OpeningReply)

function open({ slot, sealedSlot, sealedBytes, ...chunk }: OpeningRequest): OpeningReply {
  try {
    OpenedChunk.open(Slab.view(memory.slab, sealedSlot).subarray(0, sealedBytes), chunk, arena.pages(slot))
    return undefined
  } catch (error) {
    return failureOf(error)
  }
}
