/** A process that may open no more files: what cannot be started is an error with a code, what runs is ended, and nothing is left. Needs root, as CI has. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

it('starts front ends or does not, and leaves nothing of them', async () => {
  const child = join(import.meta.dirname, 'no-descriptors-child.ts')
  const { stdout } = await promisify(execFile)(process.execPath, [child])
  const tried = stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line))
  expect(tried).toHaveLength(15)
  expect(tried.filter(({ outcome }) => outcome !== 'served' && outcome !== 'UNAVAILABLE')).toEqual([])
  expect(tried.filter(({ left }) => left.length > 1 || left[0] !== 0)).toEqual([])
  for (const kind of ['nbd', 'uffd', 'fuse']) expect(tried.findLast(one => one.kind === kind)).toMatchObject({ outcome: 'served' })
}, 60_000)
