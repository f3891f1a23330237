/**
 * What tests that start guests must not leave: mounts, processes and listening sockets that have to do with their folder. Found as anybody would find them, in /proc; so a
 * process counts that works in the folder, was told of it or inherited it in its environment, whoever started it.
 */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'

/** A process that was killed takes a moment until it is gone. */
const GONE_WITHIN_MS = 10_000

/** Waits until nothing is left of what was started in `folder`, and of overlays in its `overlays`; its other files may be there still. Fails with what is left. */
export async function nothingIsLeftOf(folder: string): Promise<void> {
  await expect.poll(() => leftovers(folder), { timeout: GONE_WITHIN_MS, interval: 100 }).toEqual([])
  expect(await readdir(join(folder, 'overlays')).catch(() => [])).toEqual([])
}

async function leftovers(folder: string): Promise<string[]> {
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter(line => line.includes(folder))
  const sockets = (await readFile('/proc/net/unix', 'utf8')).split('\n').filter(line => line.includes(folder))
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
  const processes = await Promise.all(pids.map(pid => processOf(pid, folder)))
  return [...mounts, ...sockets, ...processes.filter(found => found !== undefined)]
}

/** Its command line, if it has to do with the folder. */
async function processOf(pid: string, folder: string): Promise<string | undefined> {
  const [command, environment, cwd] = await Promise.all([
    ...['cmdline', 'environ'].map(file => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '')),
    readlink(`/proc/${pid}/cwd`).catch(() => ''),
  ])
  if (![command, environment, cwd].some(text => text?.includes(folder))) return undefined
  return `process ${pid}: ${command?.replaceAll('\0', ' ')}`
}
