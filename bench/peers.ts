/**
 * Question: is a push or a pull by thaw faster than with what a user would pick today, and is less stored?
 *
 * Workload: the memory of a real guest (512 MiB, a third of it not zero; os, runtime and function stage) and a dense image of 1 GiB made of its pages, directory stores, all
 * caches warm. Unit: seconds of whole commands, the start of the process included, in turns; the median counts. Peers: restic, casync, borg, and desync where it is on
 * PATH; for a push also the sealing limit (`peers/seal-limit.ts`), which is the same work without a store.
 *
 * thaw's time includes making its data durable, in few large steps rather than one wait a chunk. Every pull is checked against the hash of what was pushed.
 *
 *     npm run bench:peers -- [--runs N] [--only fn/push] [--json] [--save] [--smoke]
 */
import { formatBytes } from '../src/cli/format.ts'
import { programPath } from './built.ts'
import { type Bench, type Contestant, type Goal, inTurns, runBench, type Section, speedup, type Timing } from './harness.ts'
import { measure } from './peers/command.ts'
import { dirtyPages } from './peers/dirty-pages.ts'
import { denseInput, type StageInputs, sha256Of, stageInputs } from './peers/inputs.ts'
import { sealLimit } from './peers/seal-limit.ts'
import { findPeers, type Tool, thaw } from './peers/tools.ts'
import { bytesBelow, makeStore, type Pushed, pulling, pushing } from './peers/whole-commands.ts'

const LIMIT = 'sealing limit'
/** How many times as long a peer must take as thaw. */
const PUSH_TARGETS: Readonly<Record<string, number>> = { restic: 4, casync: 7, borg: 2, desync: 4 }
const PULL_TARGETS: Readonly<Record<string, number>> = { restic: 4, casync: 2.5, borg: 3.5, desync: 1.2 }
const LIMIT_TARGET = 0.7
const UNCHANGED_TARGET = 2.5
const WITH_PARENT_TARGET = 2
const STORED_TARGET = 0.85
const FUNCTION_LAYER_TARGET = 1.15

/** What is compared: thaw first. */
interface Field extends Bench {
  readonly tools: readonly [Tool, ...Tool[]]
  readonly missing: readonly string[]
}

async function peers(bench: Bench): Promise<readonly Section[]> {
  const { present, missing } = findPeers()
  for (const name of missing) bench.note(`${name} is not on PATH: left out`)
  const field: Field = { ...bench, tools: [thaw(programPath(bench.smoke)), ...present], missing }
  const sections: Section[] = []
  if (['fn/push', 'fn/pull', 'fn/parent', 'stored'].some(bench.wants)) sections.push(...(await compareStages(field)))
  if (['dense/push', 'dense/pull', 'dense/parent'].some(bench.wants)) {
    const dense: Pushed = { name: 'dense', image: await denseInput(bench) }
    sections.push(...(await compareImage(field, dense, "a guest's pages, none of them zero, none twice")))
  }
  return sections
}

async function compareStages(field: Field): Promise<Section[]> {
  const stages = await stageInputs(field)
  const fn: Pushed = { name: 'fn', image: stages.fn }
  const sections = await compareImage(field, fn, stages.what, stages)
  return field.wants('stored') ? [...sections, await compareStored(field, stages)] : sections
}

async function compareImage(field: Field, pushed: Pushed, what: string, stages?: StageInputs): Promise<Section[]> {
  const { name } = pushed
  const sections: Section[] = []
  if (field.wants(`${name}/push`)) sections.push(await comparePush(field, pushed, what))
  if (field.wants(`${name}/pull`)) sections.push(await comparePull(field, pushed, what))
  if (field.wants(`${name}/parent`)) sections.push(await compareParents(field, pushed, what, stages))
  return sections
}

async function comparePush(field: Field, pushed: Pushed, what: string): Promise<Section> {
  const { tools, runs, note } = field
  note(`${pushed.name}: push`)
  const contestants: Contestant[] = []
  for (const tool of tools) contestants.push(pushing(tool.name, tool, await makeStore(tool, [], field), pushed, field))
  const timings = await inTurns([...contestants, { name: LIMIT, run: () => sealLimit(pushed.image) }], runs)
  const limit: Goal = { what: `share of the ${LIMIT}`, value: speedup(timings, 'thaw', LIMIT), bound: 'at least', target: LIMIT_TARGET }
  return {
    name: `${pushed.name}/push`,
    title: `push into an empty store (${what})`,
    timings,
    goals: [...peerGoals(timings, PUSH_TARGETS), limit],
    notes: notesOn(field),
  }
}

async function comparePull(field: Field, pushed: Pushed, what: string): Promise<Section> {
  const { tools, runs, note } = field
  note(`${pushed.name}: pull`)
  const sha256 = await sha256Of(pushed.image)
  const contestants: Contestant[] = []
  for (const tool of tools) contestants.push(pulling(tool, await makeStore(tool, [pushed], field), pushed, sha256, field))
  const timings = await inTurns(contestants, runs)
  return {
    name: `${pushed.name}/pull`,
    title: `pull into an empty folder (${what})`,
    timings,
    goals: peerGoals(timings, PULL_TARGETS),
    notes: [...notesOn(field), `sha256 of every result: ${sha256}`],
  }
}

/** What a parent saves: nothing else is compared, as no peer knows of one. */
async function compareParents(field: Field, pushed: Pushed, what: string, stages?: StageInputs): Promise<Section> {
  const { tools, runs, note } = field
  const [tool] = tools
  note(`${pushed.name}: push with a parent`)
  const again: Pushed = { name: `${pushed.name}-again`, image: pushed.image, parent: pushed.name }
  const contestants = [
    pushing('first push', tool, await makeStore(tool, [], field), pushed, field),
    pushing('unchanged', tool, await makeStore(tool, [pushed], field), again, field),
  ]
  if (stages !== undefined) {
    const template = await makeStore(tool, below(stages), field)
    contestants.push(pushing('with parent rt', tool, template, { ...pushed, parent: 'rt' }, field))
  }
  const timings = await inTurns(contestants, runs)
  const goal = (name: string, target: number): Goal => ({
    what: `first push / ${name}`,
    value: speedup(timings, name, 'first push'),
    bound: 'at least',
    target,
  })
  return {
    name: `${pushed.name}/parent`,
    title: `push with a parent (${what})`,
    timings,
    goals: [goal('unchanged', UNCHANGED_TARGET), ...(stages === undefined ? [] : [goal('with parent rt', WITH_PARENT_TARGET)])],
    notes: [],
  }
}

/** What `fn` stands on. */
function below(stages: StageInputs): Pushed[] {
  return [
    { name: 'os', image: stages.os },
    { name: 'rt', image: stages.rt, parent: 'os' },
  ]
}

async function compareStored(field: Field, stages: StageInputs): Promise<Section> {
  const { tools, note, signal } = field
  note('stored bytes')
  const stored = new Map<string, number>()
  let layer = { storedBytes: 0, manifestBytes: 0 }
  for (const tool of tools) {
    const home = await makeStore(tool, below(stages), field)
    const { stdout } = await measure(tool.push(home, 'fn', stages.fn, 'rt'), signal)
    stored.set(tool.name, await bytesBelow(tool.storedAt(home)))
    if (tool === tools[0]) layer = layerOf(stdout)
  }
  const dirty = await dirtyPages(stages.rt, stages.fn)
  const share = (part: number, whole = Number.NaN): number => part / whole
  return {
    name: 'stored',
    title: `bytes stored for os, rt and fn (${stages.what})`,
    timings: [],
    goals: [
      { what: 'thaw / restic', value: share(stored.get('thaw')!, stored.get('restic')), bound: 'at most', target: STORED_TARGET },
      {
        what: 'fn layer / its dirty pages compressed',
        value: share(layer.storedBytes, dirty.compressedBytes),
        bound: 'at most',
        target: FUNCTION_LAYER_TARGET,
      },
    ],
    notes: [
      ...Array.from(stored, ([name, bytes]) => `${name}: ${formatBytes(bytes)}, all files of its store`),
      `fn layer: ${formatBytes(layer.storedBytes)} in chunks, padding included, and a manifest of ${formatBytes(layer.manifestBytes)}`,
      `dirty pages of fn: ${formatBytes(dirty.bytes)}, as one zstd 1 frame ${formatBytes(dirty.compressedBytes)}`,
      ...notesOn(field),
    ],
  }
}

function layerOf(stdout: string): { storedBytes: number; manifestBytes: number } {
  const { counts, manifestBytes } = JSON.parse(stdout)
  return { storedBytes: counts.storedBytes, manifestBytes }
}

function peerGoals(timings: readonly Timing[], targets: Readonly<Record<string, number>>): Goal[] {
  return timings.flatMap(({ name }) => {
    const target = targets[name]
    return target === undefined
      ? []
      : [{ what: `${name} / thaw`, value: speedup(timings, 'thaw', name), bound: 'at least' as const, target }]
  })
}

function notesOn({ missing }: Field): string[] {
  return missing.length === 0 ? [] : [`not on PATH, so not compared: ${missing.join(', ')}`]
}

await runBench('peers', peers)
