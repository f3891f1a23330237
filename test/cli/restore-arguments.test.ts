/** Flags of `restore`, `mount` and `serve`, as what they ask for; and how it is told what went wrong with guests that were served. */
import { resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { EndFailed, failureOf, UsageError } from '../../src/cli/exit.ts'
import { frontEndRequests, mountOptions, nbdOptions, restoreSettings, uffdOptions } from '../../src/cli/restore-arguments.ts'
import { ThawError } from '../../src/errors.ts'

describe('settings of a restore', () => {
  it('are left to the library if nothing is said', () => {
    expect(restoreSettings({})).toEqual({
      id: undefined,
      overlay: { dir: undefined, sizeMax: undefined, keep: undefined },
      pageDeadlineMs: undefined,
      spinMicroseconds: undefined,
      onResume: undefined,
    })
  })

  it('have their units', () => {
    const flags = { id: 'a', overlayDir: 'o', overlayMax: '2M', keepOverlay: true, onResume: 'x', pageDeadline: '1.5', spin: '0' }
    expect(restoreSettings(flags)).toEqual({
      id: 'a',
      overlay: { dir: resolve('o'), sizeMax: 2 ** 21, keep: true },
      pageDeadlineMs: 1500,
      spinMicroseconds: 0,
      onResume: 'x',
    })
  })

  it.each([{ overlayMax: 'x' }, { pageDeadline: '0' }, { pageDeadline: '-1' }, { pageDeadline: '' }, { spin: '-1' }, { spin: 'fast' }])(
    'refuse %j',
    flags => {
      expect(() => restoreSettings(flags)).toThrow(UsageError)
    },
  )
})

describe('front ends', () => {
  it('begin with files, and a disk has one writer', () => {
    const flags = {
      ...{ uffd: ['memory=u.sock'], nbd: ['rootfs=n=1.sock'], fuse: 'dir', file: ['state=s'] },
      ...{ writable: true, socketUid: '7', socketMode: '660', fileMode: '0440' },
    }
    const owner = { mode: 0o660, uid: 7, gid: undefined }
    const look = { allowOther: undefined, readAheadBytes: undefined, mode: 0o440, uid: undefined, gid: undefined }
    expect(frontEndRequests(flags)).toEqual([
      { kind: 'file', image: 'state', path: resolve('s') },
      { kind: 'nbd', image: 'rootfs', options: { socket: resolve('n=1.sock'), writable: true, ...owner } },
      { kind: 'fuse', dir: resolve('dir'), options: { writable: true, ...look }, writtenElsewhere: ['rootfs', 'memory'] },
      { kind: 'uffd', image: 'memory', options: { socket: resolve('u.sock'), ...owner } },
    ])
  })

  it.each([{}, { uffd: ['memory'] }, { nbd: ['=x'] }, { file: ['state='] }, { fuse: 'd', fileMode: '8' }, { fuse: 'd', fileUid: '-1' }])(
    'refuse %j',
    flags => {
      expect(() => frontEndRequests(flags)).toThrow(UsageError)
    },
  )

  it('of a mount read ahead as far as is said', () => {
    expect(mountOptions({ readAhead: '128k' }).readAheadBytes).toBe(2 ** 17)
    expect(() => mountOptions({ readAhead: 'far' })).toThrow(UsageError)
  })

  it('on sockets need to know which', () => {
    expect(uffdOptions({ socket: 's' }).socket).toBe(resolve('s'))
    expect(() => uffdOptions({})).toThrow(UsageError)
    expect(() => nbdOptions({})).toThrow(UsageError)
    expect(() => nbdOptions({ socket: 's', listen: ':1' })).toThrow(UsageError)
  })

  it('of NBD are on TCP, with TLS, for so many', () => {
    const flags = { listen: '[::1]:0', connections: '3', exportName: 'disk', tlsCert: 'c', tlsKey: 'k', tlsCa: 'a' }
    expect(nbdOptions(flags)).toMatchObject({
      socket: undefined,
      listen: { host: '::1', port: 0 },
      connectionsMax: 3,
      exportName: 'disk',
      tls: { certFile: resolve('c'), keyFile: resolve('k'), caFile: resolve('a') },
    })
    for (const wrong of [{ connections: '0' }, { connections: '1.5' }, { tlsKey: 'k' }, { tlsCa: 'a' }, { listen: 'x' }])
      expect(() => nbdOptions({ ...(wrong.listen === undefined && { listen: ':0' }), ...wrong }), JSON.stringify(wrong)).toThrow(UsageError)
  })
})

describe('what went wrong at the end of a restore', () => {
  const full = new ThawError('NO_SPACE', 'cannot keep the overlay', { object: '/overlays/1' })
  const shown = { exitCode: 1, code: 'NO_SPACE', object: '/overlays/1' }

  it('is told as it is', () => {
    expect(failureOf(new EndFailed(full))).toMatchObject(shown)
  })

  it('is the first of several errors', () => {
    const later = new SuppressedError(new Error('later'), full)
    expect(failureOf(new EndFailed(new SuppressedError(new Error('last'), later)))).toMatchObject(shown)
  })
})
