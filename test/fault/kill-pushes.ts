/**
 * A push killed with SIGKILL at moments between its start and its end: nothing half is ever visible, and running it again stores what is
 * missing and no more.
 *
 * The moments are seeded: a step of the push (it says which it is in) and a wait that would end within it, had the machine nothing else to do. How much of the
 * step is done when the signal comes is the machine's affair.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { hash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { createFileKeyring, type FileKeyring, initStore, openStore, type SnapshotStore } from '../../src/index.ts'
import { forEachAtOnce } from '../../src/util/at-once.ts'

const CHILD = fileURLToPath(new URL('./push-child.ts', import.meta.url))
const IMAGE_BYTES = 8 * 2 ** 20

const STORES_AT_ONCE = 2

/** Steps of a push, each named by the word that begins it, and which share of the kills falls into it and those before. */
export const STEPS = [
  { word: 'started', until: 0.1 },
  { word: 'opened', until: 0.2 },
  { word: 'reading', until: 0.4 },
  { word: 'sync', until: 0.75 },
  { word: 'publish', until: 1 },
] as const
type Step = (typeof STEPS)[number]['word']

/** A step may take longer than it did when it was measured, and the last kills of it come too late then. */
const WAIT_SHARE_MAX = 1.3

interface Moment {
  readonly step: Step
  /** How long after the step began, as a share of the time it took when nothing disturbed it. */
  readonly share: number
}

let dir: string
let bytes: Buffer
let image: string
let keyring: FileKeyring
let durationMs: ReadonlyMap<Step, number>

/**
 * @param killsPerStore for each store how many pushes to it are killed, before one completes it
 * @returns how many were still under way when they were killed, by the step in which they were
 */
export async function killPushes(killsPerStore: readonly number[]): Promise<ReadonlyMap<Step, number>> {
  dir = await mkdtemp(join(tmpdir(), 'thaw-kill-'))
  try {
    await prepare()
    return await killAll(killsPerStore)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function prepare(): Promise<void> {
  image = join(dir, 'image')
  bytes = randomBytes(IMAGE_BYTES)
  await writeFile(image, bytes)
  keyring = await createFileKeyring(join(dir, 'keys'))
  // The first run fills the compile cache.
  await measure(join(dir, 'warm'))
  durationMs = await measure(join(dir, 'measured'))
}

async function killAll(killsPerStore: readonly number[]): Promise<ReadonlyMap<Step, number>> {
  const random = seeded(20_261_121)
  const moments = killsPerStore.map(kills => Array.from({ length: kills }, () => momentOf(random)))
  const killedIn = new Map<Step, number>()
  await forEachAtOnce(moments.entries(), STORES_AT_ONCE, async ([index, kills]) => {
    const url = join(dir, `store-${index}`)
    await initStore(url, { keyring })
    const checked = new Set<string>()
    for (const moment of kills) {
      if (await pushKilledAt(url, moment)) killedIn.set(moment.step, (killedIn.get(moment.step) ?? 0) + 1)
      await expectWhole(url, checked)
    }
    await expectCompleted(url)
    await expectWhole(url, checked)
    await rm(url, { recursive: true })
  })
  return killedIn
}

function momentOf(random: () => number): Moment {
  const [at, share] = [random(), random() * WAIT_SHARE_MAX]
  const step = STEPS.find(({ until }) => at < until)!
  return { step: step.word, share }
}

/** mulberry32: the same moments in every run. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

function startPush(url: string): ChildProcess & { stdout: NodeJS.ReadableStream } {
  // Compiling thaw anew a hundred times would take longer than the pushes.
  const env = { ...process.env, NODE_COMPILE_CACHE: join(dir, 'compiled') }
  const child = spawn(process.execPath, [CHILD, url, keyring.name, image], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  return child as ChildProcess & { stdout: NodeJS.ReadableStream }
}

/** How long each step takes. */
async function measure(url: string): Promise<Map<Step, number>> {
  await initStore(url, { keyring })
  const beganAt = new Map<string, number>([['started', performance.now()]])
  const child = startPush(url)
  const exited = once(child, 'exit')
  for await (const word of createInterface({ input: child.stdout })) beganAt.set(word, performance.now())
  expect(await exited).toEqual([0, null])
  const words = [...STEPS.map(({ word }) => word), 'done']
  expect([...beganAt.keys()]).toEqual(words)
  return new Map(STEPS.map(({ word }, index) => [word, beganAt.get(words[index + 1]!)! - beganAt.get(word)!]))
}

/** Resolves to whether the push was still under way. */
async function pushKilledAt(url: string, { step, share }: Moment): Promise<boolean> {
  const child = startPush(url)
  const exited = once(child, 'exit')
  if (step !== 'started') for await (const word of createInterface({ input: child.stdout })) if (word === step) break
  await sleep(share * durationMs.get(step)!)
  child.kill('SIGKILL')
  const [code, signal] = (await exited) as [number | null, NodeJS.Signals | null]
  expect(signal ?? code).toSatisfy(end => end === 'SIGKILL' || end === 0)
  return signal === 'SIGKILL'
}

/** No file under a chunk's name has other bytes; every manifest that is listed opens and gives the image; the tag, if it is there, names one of them. */
async function expectWhole(url: string, checked: Set<string>): Promise<void> {
  for (const { name, path } of await chunkFiles(url)) expect(hash('sha256', await readFile(path))).toBe(name)
  await using store = await openStore(url, { keyring })
  const ids = (await Array.fromAsync(store.list())).map(({ id }) => id)
  for (const id of ids) if (!checked.has(id)) await expectImage(store, id)
  for (const id of ids) checked.add(id)
  const tagged = await Array.fromAsync(store.tags())
  expect(ids).toEqual(expect.arrayContaining(tagged.map(({ snapshot }) => snapshot)))
}

/** Reads it on this thread: a verification starts worker threads, and for that costs ten times as much. */
async function expectImage(store: SnapshotStore, id: string): Promise<void> {
  await using snapshot = await store.open(id)
  const memory = snapshot.image('memory')
  expect(bytes.equals(await memory.read(0, memory.sizeBytes + 1))).toBe(true)
}

/** The same push again, to its end: what is there is found, and only the rest is stored. */
async function expectCompleted(url: string): Promise<void> {
  const there = (await chunkFiles(url)).length
  await using store = await openStore(url, { keyring })
  const { id, chunks, counts } = await store.push({ layer: 'os', tag: 'image:1', images: { memory: { path: image } } })
  expect(counts).toMatchObject({ foundChunks: there, storedChunks: chunks - there })
  expect((await chunkFiles(url)).length).toBe(chunks)
  expect(await store.resolve('image:1')).toMatchObject({ id })
}

async function chunkFiles(url: string): Promise<{ name: string; path: string }[]> {
  const roots = join(url, 'roots')
  const files = (await readdir(roots, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile())
  return files
    .map(({ name, parentPath }) => ({ name, path: join(parentPath, name) }))
    .filter(({ path }) => /\/chunks\/[0-9a-f]{16}\/[0-9a-f]{2}\/[0-9a-f]{64}$/.test(path))
}
