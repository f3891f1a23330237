/** The folder that is mounted at, when somebody who may write to a folder above it swaps it for a link. Needs root, as CI has. */
import { execFileSync } from 'node:child_process'
import { chownSync, closeSync, lchownSync, mkdirSync, readdirSync, renameSync, symlinkSync } from 'node:fs'
import { mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type MountFolder, mountAt, openFuseDevice, prepareFolder, releaseFolder, unmountAt } from '../../src/frontend/fuse/mounting.ts'
import { detachNewMounts } from '../../src/guard/mounts.ts'
import { listMounts, topMountAt } from '../../src/util/mounts.ts'
import { loadNative } from '../../src/util/native.ts'
import { codeOfAsync } from '../code-of.ts'

const NOBODY = 65_534

let dir: string
let jail: string
let victim: string
let device: number

beforeEach(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'thaw-folder-')))
  jail = join(dir, 'jail')
  victim = join(dir, 'victim')
  for (const folder of [jail, victim]) mkdirSync(folder)
  device = openFuseDevice()
})

afterEach(async () => {
  // Nobody serves it: what is still there is dead.
  closeSync(device)
  for (const path of mounted()) execFileSync('umount', ['-l', path])
  expect(mounted()).toEqual([])
  await rm(dir, { recursive: true })
})

function mounted(): string[] {
  return listMounts()
    .map(({ path }) => path)
    .filter(path => path.startsWith(dir))
}

function mountHere(folder: MountFolder): Promise<string> {
  return mountAt(folder, { fd: device, source: 'test', isWritable: false, allowOther: false })
}

/** What another user does to a folder of his own. */
function swap(path: string): void {
  renameSync(path, `${path}-moved`)
  symlinkSync(victim, path)
  lchownSync(path, NOBODY, NOBODY)
}

describe('a folder to mount at', () => {
  it('is the one that was looked at, whatever is at its path by then', async () => {
    const folder = await prepareFolder(join(jail, 'mnt'))
    swap(join(jail, 'mnt'))
    await mountHere(folder)
    expect(mounted()).toEqual([join(jail, 'mnt-moved')])
    expect(topMountAt(join(jail, 'mnt-moved'))?.type).toBe('fuse.thaw')
  })

  it('is not looked for behind a link of another user, nor made there', async () => {
    swap(jail)
    expect(await codeOfAsync(() => prepareFolder(jail))).toBe('CONFLICT')
    expect(await codeOfAsync(() => prepareFolder(join(jail, 'mnt')))).toBe('CONFLICT')
    expect(readdirSync(victim)).toEqual([])
  })

  it('is not looked for behind a link of ours that another user could have put there', async () => {
    symlinkSync(victim, join(jail, 'link'))
    chownSync(jail, NOBODY, NOBODY)
    expect(await codeOfAsync(() => prepareFolder(join(jail, 'link')))).toBe('CONFLICT')
  })

  it('may lie behind links of root and of this user', async () => {
    symlinkSync('jail', join(dir, 'link'))
    const folder = await prepareFolder(join(dir, 'link', 'a', 'b'))
    expect(folder).toMatchObject({ path: join(jail, 'a', 'b'), made: 2 })
    await releaseFolder(folder)
    expect(readdirSync(jail)).toEqual([])
  })

  it('that was made is removed where it is, and nothing else', async () => {
    mkdirSync(join(victim, 'mnt'))
    const folder = await prepareFolder(join(jail, 'mnt'))
    swap(jail)
    await releaseFolder(folder)
    expect(readdirSync(victim)).toEqual(['mnt'])
  })
})

describe('a mount', () => {
  it('is taken off where it is, if a folder above it was renamed', async () => {
    const folder = await prepareFolder(join(jail, 'mnt'))
    const mount = await mountHere(folder)
    swap(jail)
    closeSync(device)
    expect(await unmountAt(folder, mount)).toBe('off')
    expect(mounted()).toEqual([])
    device = openFuseDevice()
  })

  it('is not what is behind a link that was put in its place, for the guard too', async () => {
    mkdirSync(join(jail, 'mnt'))
    mkdirSync(join(victim, 'mnt'))
    const other = await prepareFolder(join(victim, 'mnt'))
    await mountHere(other)
    swap(jail)
    detachNewMounts(await loadNative('the test'), join(jail, 'mnt'), [])
    expect(mounted()).toEqual([join(victim, 'mnt')])
  })
})
