/** Signals in the middle of work, and readers that go away. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ended, errorLine, Workplace } from './program.ts'

const MIB_OF_IMAGE = 24

let place: Workplace
let image: Buffer

beforeEach(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  image = await place.writeImage('large.img', MIB_OF_IMAGE)
})

afterEach(() => place[Symbol.asyncDispose]())

/** Begins to write to the store, or ends. */
async function begun(child: ChildProcessWithoutNullStreams): Promise<void> {
  while (child.exitCode === null) {
    const names = await readdir(place.path('thaw-store'), { recursive: true })
    if (names.some(name => name.includes('/chunks/') || name.startsWith('tmp/'))) return
    await sleep(2)
  }
}

describe('an interrupted push', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('ends by %s with %d, in one line, and publishes nothing', async (signal, code) => {
    const child = place.start(['push', '--layer', 'os', 'memory=-', '--json'])
    child.stdin.write(image.subarray(0, image.length / 2))
    await begun(child)
    child.kill(signal)
    const result = await ended(child)
    expect(result).toMatchObject({ code, stdout: '' })
    expect(JSON.parse(errorLine(result)).error).toMatchObject({ code: 'INTERRUPTED', retryable: true })
    expect(await place.mustRun('ls', '--json')).toBe('')
  })

  it('ends of a file too, whenever the signal comes, and is completed by running it again', async () => {
    const child = place.start(['push', '--layer', 'os', 'memory=large.img'])
    child.stdin.end()
    await begun(child)
    child.kill('SIGINT')
    const { code, stdout } = await ended(child)
    // It may have been done before it was told to stop: then it says so.
    expect(code === 130 ? stdout === '' : code === 0 && stdout !== '').toBe(true)

    const id = await place.mustRun('push', '--layer', 'os', 'memory=large.img')
    expect(await place.document('verify', id)).toMatchObject({ opened: true, bad: [] })
    const again = await place.document('push', '--layer', 'os', 'memory=large.img')
    expect(again.counts).toMatchObject({ storedBytes: 0, foundChunks: MIB_OF_IMAGE })
  })
})

describe('a reader that goes away', () => {
  it('ends the program quietly', async () => {
    const child = place.start(['inspect', '--help'])
    child.stdout.destroy()
    child.stdin.end()
    let stderr = ''
    for await (const part of child.stderr) stderr += part
    expect({ stderr, code: child.exitCode ?? (await once(child, 'exit'))[0] }).toEqual({ stderr: '', code: 0 })
  })

  it('is head -1', async () => {
    const command = `"${process.execPath}" "${new URL('../../src/cli.ts', import.meta.url).pathname}" --help | head -1`
    const shell = spawn('bash', ['-o', 'pipefail', '-c', command], { cwd: place.folder })
    const result = await ended(shell)
    expect(result).toMatchObject({ code: 0, stderr: '' })
    expect(result.stdout.split('\n')).toHaveLength(2)
  })
})

describe('an output that is full', () => {
  it('is a failure', async () => {
    await writeFile(place.path('x.img'), 'x')
    const script = `"${process.execPath}" "${new URL('../../src/cli.ts', import.meta.url).pathname}" push --layer os x=x.img > /dev/full`
    const result = await ended(spawn('bash', ['-c', script], { cwd: place.folder }))
    expect(result.code).toBe(1)
    expect(errorLine(result)).toContain('ENOSPC')
  })
})
