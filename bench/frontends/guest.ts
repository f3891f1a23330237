/**
 * The real guest: from the start of QEMU until the function has answered, its memory a local file, a writable mount with empty caches over a directory store, and one whose pages are in memory. And how long it
 * took to boot and load the function instead. The unit is seconds.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { loadLibrary, programPath } from '../built.ts'
import { cachedGuest } from '../guest/cached.ts'
import { captureGuest, copySparse, type GuestCapture, resumeGuest } from '../guest/capture.ts'
import { type Bench, type Contestant, inTurns, type Run, type Section, speedup } from '../harness.ts'
import { Serving } from './serving.ts'

const CACHE_BYTES = 512 * 2 ** 20

export async function guest(bench: Bench): Promise<Section[]> {
  bench.note('capturing a guest, if that was not done before (15 s)')
  const capture = await cachedGuest()
  const { url, id } = await push(bench, capture)
  const base = { dir: bench.dir, store: url, ref: id, memoryBytes: CACHE_BYTES, spinMicroseconds: undefined }
  await using warm = await Serving.start(bench, { ...base, warm: true })
  const cold: Contestant = {
    name: 'empty caches',
    async run() {
      await using serving = await Serving.start(bench, { ...base, warm: false })
      return await resumed(bench, capture, serving)
    },
  }
  const contestants = [localFile(bench, capture), { name: 'warm caches', run: () => resumed(bench, capture, warm) }, cold]
  const timings = await inTurns(contestants, bench.runs)
  // 20 s, and nothing of thaw's in it.
  const boot = bench.smoke ? [] : await inTurns([{ name: 'boot', run: () => booted(bench) }], 1)
  return [
    {
      name: 'guest',
      title: 'A real guest, from the start of QEMU until its function answered: seconds',
      timings: [...timings, ...boot],
      goals: [
        { what: 'times the local file, caches empty', value: speedup(timings, 'local file', 'empty caches'), bound: 'at most', target: 3 },
        { what: 'times the local file, caches warm', value: speedup(timings, 'local file', 'warm caches'), bound: 'at most', target: 1.6 },
        { what: 'times as fast as booting', value: speedup([...timings, ...boot], 'empty caches', 'boot'), bound: 'at least', target: 20 },
      ],
      notes: [],
    },
  ]
}

async function push({ smoke, dir, note }: Bench, { images, states }: GuestCapture): Promise<{ readonly url: string; readonly id: string }> {
  note('pushing its three snapshots')
  const thaw = await loadLibrary(smoke)
  const url = join(dir, 'guest-store')
  const keyring = await thaw.fileKeyring(join(dir, 'keys')).catch(() => thaw.createFileKeyring(join(dir, 'keys')))
  await thaw.initStore(url, { keyring })
  await using store = await thaw.openStore(url, { keyring })
  const files = (stage: 'os' | 'rt' | 'fn') => ({ memory: { path: images[stage] }, state: { path: states[stage] } })
  const os = await store.push({ layer: 'os', images: files('os') })
  const runtime = await store.push({ layer: 'runtime', parent: os.id, images: files('rt') })
  const { id } = await store.push({ layer: 'function', parent: runtime.id, images: files('fn') })
  return { url, id }
}

async function resumed({ dir, smoke, signal }: Bench, { dir: capture }: GuestCapture, serving: Serving): Promise<Run> {
  const path = join(dir, 'guest-mount')
  await serving.ask({ kind: 'mount', path, writable: true, readAheadBytes: 0 })
  try {
    const launcher = [process.execPath, programPath(smoke), 'exec', '--']
    const { answeredMs } = await resumeGuest({ dir: capture, memory: join(path, 'memory'), state: join(path, 'state'), launcher, signal })
    return { seconds: answeredMs / 1000 }
  } finally {
    await serving.ask({ kind: 'end' })
  }
}

/** A copy that is in the page cache, started in the same way. */
function localFile({ dir, smoke, signal }: Bench, { dir: capture, images }: GuestCapture): Contestant {
  return {
    name: 'local file',
    async run() {
      const memory = join(dir, 'local.img')
      await copySparse(images.fn, memory, signal)
      const launcher = [process.execPath, programPath(smoke), 'exec', '--']
      const { answeredMs } = await resumeGuest({ dir: capture, memory, launcher, signal })
      await rm(memory)
      return { seconds: answeredMs / 1000 }
    },
  }
}

async function booted({ dir, signal }: Bench): Promise<Run> {
  const boot = join(dir, 'boot')
  await mkdir(boot)
  let ms = 0
  const onStage = ({ elapsedMs }: { readonly elapsedMs: number }): void => {
    ms += elapsedMs
  }
  await captureGuest({ dir: boot, signal, onStage })
  await rm(boot, { recursive: true })
  return { seconds: ms / 1000 }
}
