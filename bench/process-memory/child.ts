/**
 * The process whose memory is captured. It goes into the stage it is sent and answers with its name: os is Node alone, rt adds modules
 * as a function platform's runtime has them loaded, fn adds a function's data, the same table as the guest's.
 */
import { createHash } from 'node:crypto'

const STAGES: Readonly<Record<string, () => Promise<unknown>>> = {
  os: async () => undefined,
  rt: () =>
    Promise.all([import('@aws-sdk/client-s3'), import('typescript'), import('node:http2'), import('node:sqlite'), import('node:readline')]),
  fn: async () => new Map(Array.from({ length: 60_000 }, (_, i) => [String(i), createHash('sha256').update(String(i)).digest('hex')])),
}

/** What the stages made stays reachable, or the collector might have emptied it before it is captured. */
const kept: unknown[] = []

process.on('message', async stage => {
  kept.push(await STAGES[String(stage)]?.())
  process.send?.(stage)
})
// A parent that is gone captures nothing any more.
process.on('disconnect', () => process.exit())
