/**
 * A real guest out of the store, resumed more than once: `node examples/qemu/run.ts`.
 *
 * Boots a guest in QEMU and takes its snapshots after boot, after the runtime and after the function (once per user, then from a cache);
 * pushes the three as os, runtime and function layers; resumes the function twice at once through `thaw mount --writable`, each with a
 * generation of its own; shows that both answer, that their random numbers differ and that neither sees the other's writes; commits one
 * and resumes the commit. Everything lies in a temporary folder that is removed at the end.
 *
 *     node examples/qemu/run.ts [--keep]
 */
import { hash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { cachedGuest } from '../../bench/guest/cached.ts'
import { type GuestCapture, resumeMachine, STAGES, type Stage } from '../../bench/guest/capture.ts'
import type { Machine } from '../../bench/guest/machine.ts'
import { within } from '../../bench/guest/within.ts'
import { runMain } from '../../bench/interrupt.ts'
import { formatDuration } from '../../src/cli/format.ts'
import { type Place, placeOfItsOwn, run, Serving, shellWord, THAW } from '../thaw.ts'

const PUSHES: Readonly<Record<Stage, readonly string[]>> = {
  os: ['--layer', 'os', '--tag', 'linux:6'],
  rt: ['--layer', 'runtime', '--parent', 'linux:6', '--tag', 'python:3'],
  fn: ['--layer', 'function', '--tenant', 'acme', '--create-tenant', '--parent', 'python:3', '--tag', 'table:1'],
}
const STAGE_TITLES: Readonly<Record<Stage, string>> = { os: 'booted', rt: 'runtime loaded', fn: 'function ready' }
/** The guest's function has a table of the SHA-256 of numbers. */
const QUESTION = '7'
const HOOK_TIMEOUT_MS = 10_000
const POLL_MS = 5

async function main(signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false } } })
  const dir = await mkdtemp(join(tmpdir(), 'thaw-qemu-example-'))
  const place = placeOfItsOwn(dir)
  try {
    const capture = await captureGuest(signal)
    await pushLayers(place, capture, signal)
    await resumeTwice(place, capture, signal)
    await resumeCommit(place, capture, signal)
    console.log('\nEverything was as it should be.')
  } finally {
    if (values.keep) console.log(`\nkept: ${dir}`)
    else await rm(dir, { recursive: true, force: true })
  }
}

async function captureGuest(signal: AbortSignal): Promise<GuestCapture> {
  step('Booting a guest, with a snapshot after boot, runtime and function (20 s the first time) …')
  const capture = await cachedGuest({
    signal,
    onStage: ({ stage, elapsedMs }) => say(`${STAGE_TITLES[stage]}: ${formatDuration(elapsedMs)}`),
  })
  say(`three snapshots of ${capture.sizeMiB} MiB of memory`)
  return capture
}

async function pushLayers(place: Place, { images, states }: GuestCapture, signal: AbortSignal): Promise<void> {
  step('Pushing the three as layers …')
  await run(place, ['init'], signal)
  for (const stage of STAGES) {
    const started = performance.now()
    const id = await run(place, ['push', ...PUSHES[stage], `memory=${images[stage]}`, `state=${states[stage]}`], signal)
    say(`${id.slice(0, 12)}, ${formatDuration(performance.now() - started)}`)
  }
}

async function resumeTwice(place: Place, capture: GuestCapture, signal: AbortSignal): Promise<void> {
  step('Resuming the function twice at once, from the store …')
  await using one = await Guest.resume(place, 'table:1', 'vm1', capture, signal)
  await using two = await Guest.resume(place, 'table:1', 'vm2', capture, signal)

  step('Asking both …')
  for (const guest of [one, two]) await guest.mustAnswer()

  step('Comparing random numbers …')
  for (const request of ['generation', 'random', 'pseudorandom'] as const) {
    const [a, b] = [await one.machine.request(request, '16'), await two.machine.request(request, '16')]
    say(`${request}: ${a} and ${b}`)
    must(a !== b, `both guests have the same ${request}`)
  }

  step('Telling each a word …')
  await one.machine.request('remember', 'apple')
  await two.machine.request('remember', 'pear')
  await one.mustRecall('apple')
  await two.mustRecall('pear')

  step('Committing the first …')
  await one.commit('table:told')
}

async function resumeCommit(place: Place, capture: GuestCapture, signal: AbortSignal): Promise<void> {
  step('Resuming the commit, and once more the snapshot it came from …')
  await using child = await Guest.resume(place, 'table:told', 'vm3', capture, signal)
  await using fresh = await Guest.resume(place, 'table:1', 'vm4', capture, signal)
  await child.mustAnswer()
  await child.mustRecall('apple')
  await fresh.mustRecall('')
}

/** One restore and the QEMU that runs from it. Closed in the order that a restore wants: the VMM first. */
class Guest implements AsyncDisposable {
  readonly machine: Machine
  readonly #name: string
  readonly #place: Place
  readonly #serving: Serving
  readonly #signal: AbortSignal

  private constructor(name: string, place: Place, serving: Serving, machine: Machine, signal: AbortSignal) {
    this.#name = name
    this.#place = place
    this.#serving = serving
    this.machine = machine
    this.#signal = signal
  }

  /** Mounts `ref` for one guest alone, starts QEMU on it, and passes on the random bytes that the hook was given. */
  static async resume(place: Place, ref: string, name: string, capture: GuestCapture, signal: AbortSignal): Promise<Guest> {
    const [mount, random] = [join(place.dir, name), join(place.dir, `${name}.random`)]
    await mkdir(mount)
    // Written beside and renamed, so that whoever sees it sees all of it.
    const [file, part] = [shellWord(random), shellWord(`${random}.part`)]
    const hook = `umask 077; printf %s "$THAW_RANDOM" > ${part} && mv ${part} ${file}`
    const serving = await Serving.start(place, ['mount', ref, name, '--writable', '--on-resume', hook], signal)
    const started = performance.now()
    let machine: Machine | undefined
    try {
      const launcher = [...THAW, 'exec', '--']
      const paths = { memory: join(mount, 'memory'), state: join(mount, 'state') }
      machine = await resumeMachine({ dir: capture.dir, ...paths, launcher, signal })
      say(`${name}: restore ${serving.restore} runs, ${formatDuration(performance.now() - started)} after QEMU was started`)
      const guest = new Guest(name, place, serving, machine, signal)
      await guest.#renew(random)
      return guest
    } catch (error) {
      await machine?.close()
      await serving.close().catch(() => undefined)
      throw error
    }
  }

  async mustAnswer(): Promise<void> {
    const started = performance.now()
    const answer = await this.machine.request('call', QUESTION)
    must(answer === hash('sha256', QUESTION, 'hex'), `${this.#name} answered ${answer}, which is wrong`)
    say(
      `${this.#name}: asked for ${QUESTION}, answered ${answer.slice(0, 16)}…, which is right, ${formatDuration(performance.now() - started)}`,
    )
  }

  async mustRecall(words: string): Promise<void> {
    const recalled = await this.machine.request('recall')
    must(recalled === words, `${this.#name} remembers '${recalled}' where it was told '${words}'`)
    say(`${this.#name} remembers ${recalled === '' ? 'nothing' : `'${recalled}'`}`)
  }

  /** Stops the guest, saves the rest of its machine, ends it, and makes a snapshot of what it has written. */
  async commit(tag: string): Promise<void> {
    const state = `${this.#name}.state`
    await this.machine.save(join(this.#place.dir, state))
    await this.machine.close()
    const started = performance.now()
    await run(this.#place, ['commit', this.#serving.restore, `state=${state}`, '--tag', tag], this.#signal)
    say(`${tag}, ${formatDuration(performance.now() - started)}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machine.close()
    await this.#serving.close()
  }

  /** The hook runs beside the guest, which may already answer: whoever needs its bytes waits for them. */
  async #renew(file: string): Promise<void> {
    const random = await within(`waiting for ${file} of --on-resume`, HOOK_TIMEOUT_MS, this.#signal, async signal => {
      for (;;) {
        const text = await readFile(file, 'utf8').catch(() => undefined)
        if (text !== undefined) return text
        await sleep(POLL_MS, undefined, { signal })
      }
    })
    await this.machine.request('renew', random)
  }
}

function must(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(otherwise)
}

function step(title: string): void {
  console.log(`\n${title}`)
}

function say(text: string): void {
  console.log(`  ${text}`)
}

await runMain('examples/qemu', main)
