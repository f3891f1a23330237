/** Real clients of NBD against a server on a pager: every byte, holes, writes, many connections. */
import { readFile, rename, stat, writeFile } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type NbdOptions, type NbdServer, serveNbd } from '../../src/frontend/nbd.ts'
import type { Restore } from '../../src/index.ts'
import { codeOfAsync } from '../code-of.ts'
import { run, runWell, type ServedDisk, serveDisk, servedDisk } from './nbd-served.ts'

const PAGES = 3000

let disk: ServedDisk
beforeAll(async () => {
  disk = await servedDisk(PAGES)
})
afterAll(() => disk[Symbol.asyncDispose]())

describe('a read-only export', () => {
  let restore: Restore
  let server: NbdServer
  beforeAll(async () => {
    restore = (await disk.restore()).restore
    server = await serveDisk(disk, restore)
  })
  afterAll(() => restore.close())

  it('tells what it is', async () => {
    const { exports } = JSON.parse(await runWell('nbdinfo', ['--json', server.uri]))
    expect(exports).toMatchObject([
      {
        'export-name': 'rootfs',
        'export-size': disk.image.length,
        is_read_only: true,
        can_multi_conn: true,
        can_cache: true,
        can_df: true,
        contexts: ['base:allocation'],
        block_size_minimum: 1,
        block_size_preferred: 4096,
        block_size_maximum: 32 * 2 ** 20,
      },
    ])
    const listed = JSON.parse(await runWell('nbdinfo', ['--list', '--json', server.uri.replace('rootfs', '')]))
    expect(listed.exports.map((item: Record<string, unknown>) => item['export-name'])).toEqual(['rootfs'])
    expect((await run('nbdinfo', [server.uri.replace('rootfs', 'other')])).code).not.toBe(0)
  })

  it('tells its holes exactly', async () => {
    const map: { offset: number; length: number; type: number }[] = JSON.parse(await runWell('nbdinfo', ['--map', '--json', server.uri]))
    const zeros = Buffer.alloc(disk.image.length)
    expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(disk.image.length)
    for (const { offset, length, type } of map) {
      const isZero = disk.image.subarray(offset, offset + length).equals(zeros.subarray(0, length))
      if (type === 3) expect(isZero).toBe(true)
    }
    expect(map.filter(({ type }) => type === 3).length).toBeGreaterThan(4)
  })

  it.each([[['--connections=1', '--requests=1']], [['--connections=4', '--requests=64']], [['--synchronous']]])(
    'is copied by nbdcopy %j',
    async options => {
      const target = join(disk.dir, 'copy.img')
      await runWell('nbdcopy', [...options, server.uri, target])
      expect((await readFile(target)).equals(disk.image)).toBe(true)
    },
  )

  it('is the same to qemu-img, and sparse', async () => {
    const target = join(disk.dir, 'converted.img')
    await runWell('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', server.uri, disk.file])
    await runWell('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', server.uri, target])
    expect((await readFile(target)).subarray(0, disk.image.length).equals(disk.image)).toBe(true)
    expect((await stat(target)).blocks * 512).toBeLessThan(disk.image.length)
    const { 'virtual-size': size } = JSON.parse(await runWell('qemu-img', ['info', '--output=json', '-f', 'raw', server.uri]))
    expect(size).toBe(disk.image.length)
  })

  it('is not written to', async () => {
    expect((await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 4096', server.uri])).code).not.toBe(0)
    await runWell('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', server.uri, disk.file])
  })

  it('is read at random by many at once', async () => {
    const args = [
      '--name=r',
      '--ioengine=nbd',
      `--uri=${server.uri}`,
      '--rw=randread',
      '--bsrange=512-128k',
      '--iodepth=16',
      '--numjobs=4',
      `--size=${disk.image.length}`,
    ]
    await runWell('fio', [...args, '--io_size=20m', '--thread'])
  })

  it('is reached over TCP, and by a name of its own', async () => {
    await using other = await serveDisk(disk, restore, { listen: { host: '127.0.0.1', port: 0 }, exportName: 'a disk/1' })
    expect(other.address!.port).toBeGreaterThan(0)
    const target = join(disk.dir, 'tcp.img')
    await runWell('nbdcopy', [other.uri, target])
    expect((await readFile(target)).equals(disk.image)).toBe(true)
  })

  it('is reached over IPv6', async () => {
    await using other = await serveDisk(disk, restore, { listen: { host: '::1', port: 0 } })
    expect(await runWell('nbdinfo', ['--size', other.uri])).toBe(`${disk.image.length}\n`)
  })
})

describe('a writable export', () => {
  it('is written to by qemu-io, and only by itself', async () => {
    const { restore } = await disk.restore()
    const { restore: second } = await disk.restore()
    const server = await serveDisk(disk, restore, { writable: true })
    const other = await serveDisk(disk, second, { writable: true })
    const commands = [
      'write -P 0x5a 1000 100000',
      'write -P 7 -f 1M 64k',
      'write -z 300k 64k',
      'write -z -u 500k 80k',
      'discard 600k 80k',
      'flush',
    ]
    const checks = ['read -P 0x5a 1000 100000', 'read -P 7 1M 64k', 'read -P 0 300k 64k', 'read -P 0 500k 80k', 'read -P 0 600k 80k']
    const io = (uri: string, list: readonly string[]): Promise<string> =>
      runWell('qemu-io', ['-f', 'raw', ...list.flatMap(command => ['-c', command]), uri])
    await io(server.uri, commands)
    expect(await io(server.uri, checks)).not.toMatch(/verification failed/i)
    await runWell('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', other.uri, disk.file])
    const expected = Buffer.from(disk.image)
    expected.fill(0x5a, 1000, 101_000).fill(7, 2 ** 20, 2 ** 20 + 65_536)
    for (const [at, size] of [
      [300, 64],
      [500, 80],
      [600, 80],
    ] as const)
      expected.fill(0, at * 1024, (at + size) * 1024)
    const target = join(disk.dir, 'written.img')
    await runWell('nbdcopy', [server.uri, target])
    expect((await readFile(target)).equals(expected)).toBe(true)
    await restore.close()
    await second.close()
  })

  it('is verified by fio, over several connections', async () => {
    const { restore } = await disk.restore()
    const server = await serveDisk(disk, restore, { writable: true })
    const args = [
      '--name=v',
      '--ioengine=nbd',
      `--uri=${server.uri}`,
      '--rw=randrw',
      '--bsrange=4k-256k',
      '--iodepth=16',
      '--numjobs=3',
      '--size=3m',
      '--offset_increment=3m',
    ]
    await runWell('fio', [...args, '--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--thread', '--verify_state_save=0'])
    await restore.close()
  })

  it('takes a whole disk from nbdcopy', async () => {
    const { restore } = await disk.restore()
    const server = await serveDisk(disk, restore, { writable: true })
    const [source, target] = [join(disk.dir, 'source.img'), join(disk.dir, 'back.img')]
    const reversed = Buffer.from(disk.image).reverse()
    await writeFile(source, reversed)
    await runWell('nbdcopy', ['--connections=4', source, server.uri])
    await runWell('nbdcopy', [server.uri, target])
    expect((await readFile(target)).equals(reversed)).toBe(true)
    expect(restore.figures().overlay).toBeDefined()
    await restore.close()
  })

  it('is full when its overlay is', async () => {
    const { restore } = await disk.restore({ overlay: { dir: join(disk.dir, 'small'), sizeMax: 2 ** 20 } })
    const server = await serveDisk(disk, restore, { writable: true })
    const { errors, output } = await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 2M', server.uri])
    expect(errors + output).toMatch(/No space left/)
    await runWell('qemu-io', ['-f', 'raw', '-c', 'read 4M 1M', server.uri])
    await restore.close()
  })

  it('has one writer, and readers who see what it wrote', async () => {
    const { restore } = await disk.restore()
    const writer = await serveDisk(disk, restore, { writable: true })
    const reader = await serveDisk(disk, restore)
    await runWell('qemu-io', ['-f', 'raw', '-c', 'write -P 4 64k 64k', writer.uri])
    expect((await run('qemu-io', ['-f', 'raw', '-c', 'write -P 5 64k 64k', reader.uri])).code).not.toBe(0)
    expect(await runWell('qemu-io', ['-f', 'raw', '-r', '-c', 'read -P 4 64k 64k', reader.uri])).not.toMatch(/verification failed/i)
    expect(await codeOfAsync(() => serveDisk(disk, restore, { writable: true }))).toBe('CONFLICT')
    await restore.close()
  })
})

describe('a server', () => {
  it('gives an error for what cannot be had, and goes on', async () => {
    await using broken = await servedDisk(1000)
    const { restore, events } = await broken.restore({ pageDeadlineMs: 3000 })
    const server = await serveDisk(broken, restore)
    await runWell('qemu-io', ['-f', 'raw', '-r', '-c', 'read 0 4k', server.uri])
    await rename(join(broken.url, 'roots'), join(broken.url, 'gone'))
    const { errors, output } = await run('qemu-io', ['-f', 'raw', '-r', '-c', 'read 3M 4k', '-c', 'read 0 4k', server.uri])
    expect(errors + output).toMatch(/Input\/output error/)
    expect(output).toMatch(/read 4096\/4096 bytes at offset 0/)
    expect(events.map(({ kind }) => kind)).toContain('unreadable')
    await rename(join(broken.url, 'gone'), join(broken.url, 'roots'))
    await runWell('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', server.uri, broken.file])
    await restore.close()
  })

  it('cuts clients off when it is closed, and leaves no socket', async () => {
    const { restore, events } = await disk.restore()
    const server = await serveDisk(disk, restore, { mode: 0o660 })
    const path = new URL(server.uri).searchParams.get('socket')!
    expect((await stat(path)).mode & 0o777).toBe(0o660)
    const client = createConnection(path)
    const ended = new Promise(resolve => client.once('close', resolve))
    client.resume()
    await new Promise(resolve => client.once('data', resolve))
    await server.close()
    await server.close()
    await ended
    expect(await server.closed).toEqual({ reason: 'closed' })
    await expect(stat(path)).rejects.toThrow()
    expect(events.map(({ kind }) => kind)).toEqual(['closed'])
    await restore.close()
  })

  it('ends with its restore', async () => {
    const { restore } = await disk.restore()
    const server = await serveDisk(disk, restore)
    await restore.close()
    expect(await server.closed).toEqual({ reason: 'closed' })
    expect(await codeOfAsync(() => serveDisk(disk, restore))).toBe('CLOSED')
  })

  it.each<[string, NbdOptions & { readonly image?: string }, string]>([
    ['no image', { image: 'other' }, 'NOT_FOUND'],
    ['no place to listen', { socket: undefined }, 'TypeError'],
    ['two places', { listen: { host: '127.0.0.1', port: 0 } }, 'TypeError'],
    ['a port that is none', { socket: undefined, listen: { host: '127.0.0.1', port: 70_000 } }, 'RangeError'],
    ['an address of another machine', { socket: undefined, listen: { host: '192.0.2.1', port: 0 } }, 'NOT_FOUND'],
    ['no clients', { connectionsMax: 0 }, 'RangeError'],
    ['no time for a handshake', { handshakeTimeoutMs: 0 }, 'RangeError'],
    ['a certificate that is not there', { tls: { certFile: '/nonexistent/c', keyFile: '/nonexistent/k' } }, 'NOT_FOUND'],
  ])('is not started with %s', async (_what, { image = 'rootfs', ...options }, code) => {
    const { restore } = await disk.restore()
    expect(await codeOfAsync(() => serveNbd(restore, image, { socket: join(disk.dir, 'x.sock'), ...options }))).toBe(code)
    await restore.close()
  })

  it('does not take the place of another', async () => {
    const { restore } = await disk.restore()
    const socket = join(disk.dir, 'taken.sock')
    await using first = await serveDisk(disk, restore, { socket })
    expect(await codeOfAsync(() => serveDisk(disk, restore, { socket }))).toBe('CONFLICT')
    expect(await runWell('nbdinfo', ['--size', first.uri])).toBe(`${disk.image.length}\n`)
    await restore.close()
  })
})
