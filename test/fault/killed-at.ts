/**
 * Programs that are killed at the n-th call of the file system, n = 1, 2, 3, … until one comes to its
 * end: every state in which a crash can leave files is seen.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** What a program begins with: after `arm()`, the call of that number kills the process before it is made. */
const prelude = (call: number): string => `
  import fs from 'node:fs'
  import { syncBuiltinESMExports } from 'node:module'
  import 'koffi'
  let left = Infinity
  for (const calls of [fs, fs.promises]) for (const [name, made] of Object.entries(calls)) {
    if (typeof made !== 'function' || !/^[a-z]/.test(name)) continue
    calls[name] = (...args) => {
      if (--left === 0) process.kill(process.pid, 'SIGKILL')
      return made.apply(calls, args)
    }
  }
  syncBuiltinESMExports()
  const arm = () => void (left = ${call})
`

/** Where a program imports a file of src from, as the text of an expression. */
export function sourceUrl(file: string): string {
  return JSON.stringify(new URL(`../../src/${file}`, import.meta.url).href)
}

/** Runs a program of ESM that calls `arm()`. Resolves to whether it was killed. */
async function isKilledAt(call: number, program: string): Promise<boolean> {
  try {
    await promisify(execFile)(process.execPath, ['--input-type=module', '-e', `${prelude(call)}\n${program}`])
    return false
  } catch (error) {
    if ((error as { signal?: string }).signal === 'SIGKILL') return true
    throw error
  }
}

/** Kills the program at each of its calls in turn, and has every state looked at; resolves to how many there were. */
export async function killAtEveryCall(program: string, look: (call: number) => Promise<void>): Promise<number> {
  for (let call = 1; ; call++) {
    const killed = await isKilledAt(call, program)
    await look(call)
    if (!killed) return call - 1
  }
}
