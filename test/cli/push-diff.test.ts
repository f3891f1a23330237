/** `thaw push --diff`: a VMM's diff file in place of a whole image. */
import { open, readFile, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { errorLine, Workplace } from './program.ts'

const PAGE_BYTES = 4096
const PUSH = ['push', '--layer', 'function']

let place: Workplace
let parent: Buffer
let parentId: string

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  parent = await place.writeImage('parent.img', 3)
  await writeFile(place.path('vm.state'), 'device state')
  parentId = await place.mustRun('push', '--layer', 'runtime', '--tag', 'base', 'memory=parent.img', 'rootfs=parent.img')
  await writeDiff('memory.diff', parent.length, 5, 7)
  await writeDiff('rootfs.diff', parent.length, 300, 9)
  await writeDiff('short.diff', PAGE_BYTES, 0, 1)
})

afterAll(() => place[Symbol.asyncDispose]())

/** A sparse file with one page in it. */
async function writeDiff(name: string, sizeBytes: number, page: number, fill: number): Promise<void> {
  await using file = await open(place.path(name), 'w')
  await file.truncate(sizeBytes)
  await file.write(Buffer.alloc(PAGE_BYTES, fill), 0, undefined, page * PAGE_BYTES)
}

function changed(page: number, fill: number): Buffer {
  return Buffer.from(parent).fill(fill, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
}

describe('push --diff', () => {
  it('stores what changed, of several images, beside whole ones', async () => {
    const diffs = ['--diff', 'memory=memory.diff', '--diff', 'rootfs=rootfs.diff']
    const pushed = await place.document(...PUSH, '--parent', 'base', ...diffs, 'state=vm.state')
    expect(pushed).toMatchObject({ parent: parentId, counts: { ownBytes: 3 * PAGE_BYTES } })
    await place.mustRun('pull', String(pushed.id), 'out')
    expect((await readFile(place.path('out/memory'))).equals(changed(5, 7))).toBe(true)
    expect((await readFile(place.path('out/rootfs'))).equals(changed(300, 9))).toBe(true)
    expect(await readFile(place.path('out/state'), 'utf8')).toBe('device state')
  })

  it('prints the id alone, and takes what is not named with --inherit', async () => {
    const id = await place.mustRun(...PUSH, '--parent', 'base', '--inherit', '--diff', 'rootfs=rootfs.diff')
    expect(id).toMatch(/^[0-9a-f]{64}$/)
    await place.mustRun('pull', id, 'heir')
    expect((await readFile(place.path('heir/memory'))).equals(parent)).toBe(true)
    expect((await readFile(place.path('heir/rootfs'))).equals(changed(300, 9))).toBe(true)
  })

  it('is in the help', async () => {
    expect(await place.mustRun('push', '--help')).toContain('--diff <name=file>')
  })

  it.each<readonly [string, number, readonly string[]]>([
    ['USAGE', 2, ['--diff', 'memory=memory.diff']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'memory=memory.diff', '--diff', 'memory=memory.diff']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'memory=memory.diff', 'memory=parent.img']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'memory']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'memory=-']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'other=memory.diff']],
    ['USAGE', 2, ['--parent', 'base', '--diff', 'memory=short.diff']],
    ['NOT_FOUND', 1, ['--parent', 'base', '--diff', 'memory=missing.diff']],
  ])('%s, exit code %d: %j', async (code, exitCode, args) => {
    const ended = await place.run('--json', ...PUSH, ...args)
    expect(JSON.parse(errorLine(ended)).error.code).toBe(code)
    expect(ended).toMatchObject({ code: exitCode, stdout: '' })
  })
})
