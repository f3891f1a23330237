/** An owner of a guard, driven line by line: one command a line of standard input, one line of JSON for each on standard output. guard.test.ts starts and kills it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { startGuard, type Watched } from '../../src/guard.ts'
import { type Clock, systemClock } from '../../src/util/clock.ts'
import { loadNative } from '../../src/util/native.ts'
import { codeOfAsync } from '../code-of.ts'

const native = await loadNative('the test')
const events: string[] = []
let hurry = 1
const clock: Clock = { ...systemClock, after: (ms, call) => systemClock.after(ms / hurry, call) }
const guard = await startGuard({ onEvent: ({ kind }) => events.push(kind), clock })
const watched = new Map<string, Watched>()

/** Processes whose parent this one is. */
function children(): number[] {
  const lists = readdirSync('/proc/self/task').map(task => readFileSync(`/proc/self/task/${task}/children`, 'utf8'))
  return lists.flatMap(list => list.split(' ').filter(Boolean).map(Number))
}

/** The descriptor is closed as soon as it is watched: the guard's own must do. */
async function watchProcess(pid: string): Promise<void> {
  const pidfd = native.pidfdOpen(Number(pid), 0)
  try {
    watched.set(pid, await guard.watchProcess(pidfd, Number(pid)))
  } finally {
    native.close(pidfd)
  }
}

const COMMANDS: Readonly<Record<string, (argument: string) => unknown>> = {
  process: pid => watchProcess(pid),
  mount: async path => void watched.set(path, await guard.watchMount(path)),
  release: key => watched.get(key)!.release(),
  guard: () => children(),
  ended: async () => {
    const child = spawn('true')
    const pidfd = native.pidfdOpen(child.pid!, 0)
    await once(child, 'exit')
    return await codeOfAsync(() => guard.watchProcess(pidfd, child.pid!))
  },
  wrong: async () => await codeOfAsync(() => guard.watchProcess(9_999_999, 1)),
  close: () => guard.close(),
  after: async () => await codeOfAsync(() => guard.watchMount('/')),
  second: async () => await (await startGuard()).close(),
  events: () => events,
  /** Answers are waited for that much shorter. */
  hurry: times => {
    hurry = Number(times)
  },
  busy: () => {
    process.stdout.write('null\n')
    for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000)
  },
  /** From here on only the guard is left of what could keep this process. */
  leave: () => process.stdin.destroy(),
}

const lines = createInterface({ input: process.stdin })
for await (const line of lines) {
  const [name = '', ...words] = line.split(' ')
  process.stdout.write(`${JSON.stringify((await COMMANDS[name]!(words.join(' '))) ?? null)}\n`)
  if (name === 'leave') break
}
