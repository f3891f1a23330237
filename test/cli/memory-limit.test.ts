/** Under a limit of memory that is set with `ulimit`, as shells and batch systems do. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { PROGRAM, Workplace } from './program.ts'

/** KiB. Node's first thread takes 560 MiB by itself, and each further one would take 530, of which thaw needs 30. */
const DATA_KIB = 1_400_000

let place: Workplace
beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  await place.writeImage('a.img', 4)
})
afterAll(() => place[Symbol.asyncDispose]())

it('its threads start', async () => {
  const command = `ulimit -d ${DATA_KIB} && exec "$0" "$@"`
  const run = (...args: string[]): Promise<unknown> =>
    promisify(execFile)('/bin/sh', ['-c', command, process.execPath, PROGRAM, ...args], { cwd: place.folder })
  await run('push', '--layer', 'os', '--tag', 'a', 'memory=a.img')
  await run('verify', 'a')
  expect(await run('pull', 'a', 'out')).toMatchObject({ stderr: '' })
})
