/** What becomes of a guest when its pages cannot be had, or its server is gone: it dies. It never hangs, and never reads zeros. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { cp, mkdir, open as openFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { randomImage } from '../small-store.ts'
import { MemoryStore } from '../uffd/serving.ts'
import { startVmm } from '../uffd/vmm.ts'

const IMAGE_PAGES = 512
const KILLED = { code: null, signal: 'SIGKILL' }
const CHILD = join(import.meta.dirname, '../fault/uffd-server-child.ts')

let memory: MemoryStore
let pristine: string

beforeAll(async () => {
  memory = await MemoryStore.of(randomImage(IMAGE_PAGES))
  pristine = join(memory.small.dir, 'pristine')
  await cp(memory.small.url, pristine, { recursive: true })
})

afterAll(() => memory[Symbol.asyncDispose]())

beforeEach(async () => {
  await rm(memory.small.url, { recursive: true })
  await cp(pristine, memory.small.url, { recursive: true })
})

async function chunkFiles(): Promise<string[]> {
  const roots = join(memory.small.url, 'roots')
  const files = await readdir(roots, { recursive: true, withFileTypes: true })
  return files.filter(file => file.isFile() && file.parentPath.includes('/chunks/')).map(file => join(file.parentPath, file.name))
}

describe('a page that cannot be had', () => {
  it('because the store has lost it kills the VMM', async () => {
    for (const file of await chunkFiles()) await rm(file)
    await diesOf('NOT_FOUND', 'unreadable')
  })

  it('because the store has other bytes kills the VMM', async () => {
    for (const file of await chunkFiles()) {
      const handle = await openFile(file, 'r+')
      await handle.write(Buffer.from([1, 2, 3]), 0, 3, 1000)
      await handle.close()
    }
    await diesOf('CORRUPT', 'corrupt')
  })

  it('before its deadline kills the VMM', async () => {
    const files = await chunkFiles()
    for (const file of files) {
      await rename(file, `${file}.away`)
      execFileSync('mkfifo', [file])
    }
    // Who waits at a pipe is let go.
    const letGo = async (): Promise<void> => {
      for (const file of files) await (await openFile(file, 'r+')).close()
    }
    await diesOf('TIMEOUT', 'unreadable', { pageDeadlineMs: 500, letGo })
  })

  async function diesOf(
    code: string,
    kind: string,
    { pageDeadlineMs = 20_000, letGo = async () => undefined }: { pageDeadlineMs?: number; letGo?: () => Promise<void> } = {},
  ): Promise<void> {
    await using open = await memory.open()
    await using _ = { [Symbol.asyncDispose]: letGo }
    await using served = await open.serve({}, { pageDeadlineMs })
    await using vmm = await open.vmm(served)
    await vmm.hang(0, 0).catch(() => undefined)
    // By the poison in its page's place, if it was faster to touch that than the signal.
    expect(['SIGKILL', 'SIGBUS']).toContain((await vmm.ended()).signal)
    expect(await served.pager.closed).toMatchObject({ reason: 'killed', pid: vmm.pid, page: 0, code })
    expect(served.events.map(event => event.kind)).toEqual(['connected', kind, 'killed', 'disconnected', 'closed'])
  }
})

/** Resolves when a process has a descriptor of that kind open. */
async function untilHolds(pid: number, kind: string): Promise<void> {
  const links = (): string[] => readdirSync(`/proc/${pid}/fd`).map(fd => readlinkSync(`/proc/${pid}/fd/${fd}`))
  while (!links().some(link => link.includes(kind))) await sleep(10)
}

describe('a server that is killed', () => {
  it('takes its VMM along', async () => {
    const socket = memory.socket()
    const { small, id, file, image } = memory
    const child = spawn(process.execPath, [CHILD, small.url, join(small.dir, 'keys'), id, socket, join(small.dir, 'child-overlays')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    try {
      await lineOf(child)
      await using vmm = await startVmm({ socket, image: file, regions: [{ sizeBytes: image.length, offsetBytes: 0 }] })
      expect(await vmm.verify(0, 0, 10)).toMatchObject({ wrong: 0 })
      child.kill('SIGKILL')
      await once(child, 'exit')
      // It either waits for a page, or is dead before it asks: but no page that it reads is zero.
      await vmm.hang(0, 200).catch(() => undefined)
      expect(await vmm.ended()).toEqual(KILLED)
      expect(vmm.stderr).toBe('')
    } finally {
      child.kill('SIGKILL')
    }
  })

  it('leaves no zeros to a VMM that has closed its userfaultfd, however long the guard takes', async () => {
    const socket = memory.socket()
    const { small, id, file, image } = memory
    const child = spawn(process.execPath, [CHILD, small.url, join(small.dir, 'keys'), id, socket, join(small.dir, 'child-overlays')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let guard: number | undefined
    try {
      await lineOf(child)
      await using vmm = await startVmm({ socket, image: file, regions: [{ sizeBytes: image.length, offsetBytes: 0 }], forgetful: true })
      expect(await vmm.verify(0, 0, 10)).toMatchObject({ wrong: 0 })
      guard = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8'))
      await untilHolds(guard, 'userfaultfd')
      process.kill(guard, 'SIGSTOP')
      child.kill('SIGKILL')
      await once(child, 'exit')
      const read = vmm.read(0, 200).then(
        () => 'read',
        () => 'killed',
      )
      // With nobody left who has the userfaultfd open, the kernel would have given it zeros by now.
      expect(await Promise.race([read, sleep(500).then(() => 'waits')])).toBe('waits')
      process.kill(guard, 'SIGCONT')
      expect(await read).toBe('killed')
      expect(await vmm.ended()).toEqual(KILLED)
    } finally {
      child.kill('SIGKILL')
      if (guard !== undefined && existsSync(`/proc/${guard}`)) process.kill(guard, 'SIGCONT')
    }
  })
})

describe('a socket', () => {
  it('that a dead server left is replaced, another file is not', async () => {
    await using open = await memory.open()
    const path = memory.socket()
    await writeFile(path, 'mine')
    await expect(open.serve({ socket: path })).rejects.toMatchObject({ code: 'CONFLICT' })
    await rm(path)
    execFileSync('python3', ['-c', `import socket\nsocket.socket(socket.AF_UNIX).bind(${JSON.stringify(path)})`])
    await using served = await open.serve({ socket: path })
    await expect(open.serve({ socket: path })).rejects.toMatchObject({ code: 'CONFLICT' })
    await using vmm = await open.vmm(served)
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
  })

  it('may lie deeper than an address reaches', async () => {
    await using open = await memory.open()
    const deep = join(memory.small.dir, 'a'.repeat(60), 'b'.repeat(60))
    await mkdir(deep, { recursive: true })
    const link = join(memory.small.dir, 'jail')
    execFileSync('ln', ['-s', deep, link])
    await using served = await open.serve({ socket: join(deep, 'u.sock') })
    await using vmm = await startVmm({
      socket: join(link, 'u.sock'),
      image: memory.file,
      regions: [{ sizeBytes: memory.image.length, offsetBytes: 0 }],
    })
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
    expect((await readdir(deep)).filter(name => name.startsWith('.thaw'))).toEqual([])
    await served.pager.close()
  })

  it('belongs to whom it is made for', async () => {
    await using open = await memory.open()
    await using served = await open.serve({ uid: 1234, gid: 4321, mode: 0o620 })
    const stat = execFileSync('stat', ['-c', '%u %g %a', served.pager.socket]).toString().trim()
    expect(stat).toBe('1234 4321 620')
    execFileSync('chmod', ['755', memory.small.dir])
    execFileSync('chmod', ['644', memory.file])
    await using vmm = await open.vmm(served, { uid: 1234 })
    expect(await vmm.verifyAll()).toMatchObject({ wrong: 0 })
  })
})

async function lineOf({ stdout }: ChildProcess): Promise<void> {
  await once(stdout!, 'data')
}
