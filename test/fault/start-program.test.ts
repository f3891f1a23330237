/** Programs that cannot be started because this process is out of descriptors: an error for who wanted them, and nothing else. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const CHILD = join(import.meta.dirname, 'few-descriptors-child.ts')
const DESCRIPTORS = 64
/** Node itself loses one when it has made a pipe and fails then: with so few left it does not come to that. */
const BEFORE_PIPE = 3

it('a process that is out of descriptors lives on, and can start programs when some are free again', async () => {
  const command = `ulimit -n ${DESCRIPTORS} && exec "$0" "$1"`
  const { stdout } = await promisify(execFile)('/bin/sh', ['-c', command, process.execPath, CHILD])
  const rounds = stdout.trimEnd().split('\n')
  const guards = rounds.map(line => JSON.parse(line).guard)
  expect(guards.slice(0, BEFORE_PIPE)).toEqual(Array(BEFORE_PIPE).fill({ code: 'UNAVAILABLE', lost: 0 }))
  expect(new Set(guards.map(({ code }) => code))).toEqual(new Set(['UNAVAILABLE', undefined]))
  expect(JSON.parse(rounds[0]!).program.code).toBe('Error')
  expect(JSON.parse(rounds.at(-1)!)).toMatchObject({ guard: { lost: 0 }, program: { lost: 0 } })
}, 30_000)
