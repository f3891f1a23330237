/**
 * Starts a guard and a program with 0, 1, 2 … descriptors left, until both can be started. Prints a line of JSON for each number: how each ended, and how many descriptors the
 * guard left open. To be run with a low limit of them (start-program.test.ts).
 */
import { once } from 'node:events'
import { closeSync, openSync, readdirSync } from 'node:fs'
import { startGuard } from '../../src/guard.ts'
import { startProgram } from '../../src/util/start-program.ts'
import { codeOfAsync } from '../code-of.ts'

const LEFT_MAX = 24

async function guard(): Promise<void> {
  await (await startGuard()).close()
}

async function program(): Promise<void> {
  const child = await startProgram('true', [], { stdio: ['ignore', 'ignore', 'pipe'] })
  child.stderr!.resume()
  await once(child, 'close')
}

const open = (): number => readdirSync('/proc/self/fd').length

async function withFew(left: number, action: () => Promise<void>): Promise<{ readonly code: string | undefined; readonly lost: number }> {
  const before = open()
  const taken: number[] = []
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'))
  } catch {
    for (const fd of taken.splice(0, left)) closeSync(fd)
  }
  const code = await codeOfAsync(action)
  for (const fd of taken) closeSync(fd)
  return { code, lost: open() - before }
}

// What they load and keep is there from now on.
await guard()
await program()
for (let left = 0; left < LEFT_MAX; left++) {
  const round = { guard: await withFew(left, guard), program: await withFew(left, program) }
  console.log(JSON.stringify(round))
  if (round.guard.code === undefined && round.program.code === undefined) break
}
