/** The engine's thread: starts an engine with the options it was given, and serves it until it is ended. */
import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { failureOf } from '../util/failure.ts'
import { EngineHost } from './host.ts'
import type { FromHost } from './messages.ts'
import { type EngineOptions, startEngine } from './start.ts'

assert(parentPort !== null)
try {
  new EngineHost(await startEngine(workerData as EngineOptions), parentPort)
} catch (error) {
  parentPort.postMessage({ kind: 'notStarted', failure: failureOf(error) } satisfies FromHost)
}
