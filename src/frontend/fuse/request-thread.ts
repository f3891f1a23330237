/**
 * The thread that reads the requests of one mount where there is no koffi, and so nothing that waits for many descriptors: it does nothing but wait in read(2). Not libuv's pool:
 * four such reads would hold up all files of the process.
 *
 * It ends with the mount, or when it is told to and a request wakes it: that one it refuses itself, for nobody else is there to do it.
 */
import assert from 'node:assert/strict'
import { readSync, writeSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { errnoOfSystem, isPassing, refusalOf, UNMOUNTED } from './device.ts'
import { RequestRing, type RequestThreadInput } from './request-ring.ts'

assert(parentPort !== null)
const port = parentPort
const { fd, ring: memory }: RequestThreadInput = workerData
const ring = new RequestRing(memory)
ring.begin()
try {
  run()
} finally {
  ring.end()
}

function run(): void {
  for (let request = ring.free(); request !== undefined; request = ring.free()) {
    const sizeBytes = receive(request)
    if (sizeBytes === UNMOUNTED) return
    if (ring.isStopped) refuse(request)
    else if (ring.put(sizeBytes)) port.postMessage(undefined)
  }
}

function receive(request: Buffer): number {
  for (;;) {
    try {
      return readSync(fd, request, 0, request.length, null)
    } catch (error) {
      if (!isPassing(errnoOfSystem(error))) return UNMOUNTED
    }
  }
}

function refuse(request: Buffer): void {
  try {
    writeSync(fd, refusalOf(request))
  } catch {
    // Nobody waits for it.
  }
}
