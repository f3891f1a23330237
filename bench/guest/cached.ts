/**
 * One captured guest shared by every test and benchmark of this user: booting costs 12 s, and equal inputs make an equally good guest.
 *
 * A capture is made in a folder beside and renamed, so a folder under its key is complete. Two callers who find none both capture; the
 * second's rename fails and it takes the first's. Captures are read-only by agreement: copy an image before a guest resumes from it.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheHome } from '../../scripts/cache-home.ts'
import { type CaptureOptions, captureGuest, DEFAULT_SIZE_MIB, type GuestCapture, readCapture } from './capture.ts'
import { GUEST_FILES } from './programs.ts'
import { type QemuParts, requireQemu } from './qemu.ts'

/** Raised when a change of this folder makes other captures from equal inputs. */
const CAPTURE_VERSION = 2
/** 0.45 GB each; a new kernel or QEMU makes a new key and leaves the old one behind. */
const CAPTURES_MAX = 4
/** A capture in the making that is older than this was killed. */
const ABANDONED_MS = 3_600_000

const IN_THE_MAKING = '.capture-'

/** The capture for these options, made now if there is none. Throws as `captureGuest` does. */
export async function cachedGuest(options: Omit<CaptureOptions, 'dir'> = {}): Promise<GuestCapture> {
  const parts = requireQemu()
  const home = join(cacheHome(), 'guest')
  const dir = join(home, await keyOf(parts, options))
  const found = await readCapture(dir).catch(() => undefined)
  if (found === undefined) await captureInto(home, dir, options)
  // Its time is its last use, by which `prune` chooses.
  await utimes(dir, new Date(), new Date())
  return found ?? (await readCapture(dir))
}

async function captureInto(home: string, dir: string, options: Omit<CaptureOptions, 'dir'>): Promise<void> {
  await mkdir(home, { recursive: true })
  await prune(home)
  const making = await mkdtemp(join(home, IN_THE_MAKING))
  try {
    await captureGuest({ ...options, dir: making })
    await rename(making, dir)
  } catch (error) {
    // Another process may have been first: then its capture is as good.
    if ((await readCapture(dir).catch(() => undefined)) === undefined) throw error
  } finally {
    await rm(making, { recursive: true, force: true })
  }
}

/** Everything that the captured pages follow from. */
async function keyOf(parts: QemuParts, options: Omit<CaptureOptions, 'dir'>): Promise<string> {
  const { sizeMiB = DEFAULT_SIZE_MIB, function: name = 'table', diskMiB = 0 } = options
  const { stdout: version } = await promisify(execFile)(parts.qemu, ['--version'], { timeout: 10_000 })
  const inputs = [CAPTURE_VERSION, sizeMiB, name, diskMiB, version, parts.kernel, parts.modules, parts.python, GUEST_FILES]
  return createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 16)
}

/** Leaves room for one capture more, and no remains of killed ones. */
async function prune(home: string): Promise<void> {
  const entries = await Promise.all(
    (await readdir(home)).map(async name => ({ name, usedAt: (await stat(join(home, name)).catch(() => undefined))?.mtimeMs ?? 0 })),
  )
  const making = entries.filter(entry => entry.name.startsWith(IN_THE_MAKING))
  const captures = entries.filter(entry => !entry.name.startsWith(IN_THE_MAKING)).sort((a, b) => b.usedAt - a.usedAt)
  const abandoned = making.filter(entry => Date.now() - entry.usedAt > ABANDONED_MS)
  for (const { name } of [...abandoned, ...captures.slice(CAPTURES_MAX - 1)]) await rm(join(home, name), { recursive: true, force: true })
}
