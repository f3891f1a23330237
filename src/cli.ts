#!/usr/bin/env node
/**
 * The program `thaw`: turns on Node's cache of compiled modules, then loads the command line (`cli/main.ts`) through it.
 *
 * The cache lies in the user's own cache folder. Node's default is a folder below the shared temporary one, and what is read from there runs in a process
 * that holds keys. Where it cannot be written, Node goes on without it.
 */
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { isAbsolute, join } from 'node:path'

const { XDG_CACHE_HOME = '' } = process.env
const cacheHome = isAbsolute(XDG_CACHE_HOME) ? XDG_CACHE_HOME : join(homedir(), '.cache')
enableCompileCache(join(cacheHome, 'thaw', 'compiled'))

// Threads for chunks take as long to start as the rest takes to load.
if (/^(push|pull|verify)$/.test(process.argv[2] ?? '')) {
  const { warmUp } = await import('./seal/threads.ts')
  warmUp()
}

process.exitCode = (await execAtOnce()) ?? (await runCommand())

/** A VMM waits for `thaw exec`, which needs nothing of what the other commands load: that saves 10 to 20 ms. */
async function execAtOnce(): Promise<number | undefined> {
  const [command, ...args] = process.argv.slice(2)
  if (command !== 'exec') return undefined
  const exec = await import('./cli/exec.ts')
  return await exec.execAtOnce(args)
}

async function runCommand(): Promise<number> {
  const { main } = await import('./cli/main.ts')
  return await main(process.argv.slice(2), new URL('../package.json', import.meta.url))
}
