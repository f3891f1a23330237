/**
 * The guest's root file system: busybox, Debian's Python with its standard library, the shared libraries both need and a few modules of
 * the kernel, packed by cpio.
 *
 * It is compressed, although unpacking slows the boot: an uncompressed archive would lie a second time in the guest's memory and
 * make its os layer larger than any real one.
 */
import { execFile } from 'node:child_process'
import { chmod, copyFile, cp, glob, mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { GUEST_FILES } from './programs.ts'
import type { QemuParts } from './qemu.ts'
import { within } from './within.ts'

const run = promisify(execFile)

const BUILD_TIMEOUT_MS = 120_000

/** Parts of the standard library that no guest imports: they would double the archive. */
const LEFT_OUT = new Set(['test', 'idlelib', 'ensurepip', 'lib2to3', 'pydoc_data', 'dist-packages', '__pycache__'])
const isWanted = (path: string): boolean => !LEFT_OUT.has(basename(path)) && !basename(path).startsWith('config-')

/** Writes the archive to `file`, replacing one that is there. */
export async function buildInitrd(file: string, parts: QemuParts, signal?: AbortSignal): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'thaw-initrd-'))
  try {
    await within('building the initrd', BUILD_TIMEOUT_MS, signal, async signal => {
      await fill(root, parts, signal)
      await pack(root, file, signal)
    })
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}

async function fill(root: string, parts: QemuParts, signal: AbortSignal): Promise<void> {
  for (const folder of ['bin', 'dev', 'proc', 'sys', 'tmp', 'usr/bin', 'functions', 'modules'])
    await mkdir(join(root, folder), { recursive: true })
  const busybox = join(root, 'bin/busybox')
  const python = join(root, 'usr/bin/python3')
  await copyFile(parts.busybox, busybox)
  await copyFile(parts.python, python)
  await cp(parts.pythonLibrary, join(root, parts.pythonLibrary), { recursive: true, dereference: true, filter: isWanted })
  const extensions = await Array.fromAsync(glob(join(root, parts.pythonLibrary, 'lib-dynload/*.so')))
  for (const library of await librariesOf([busybox, python, ...extensions], signal)) {
    await mkdir(dirname(join(root, library)), { recursive: true })
    await copyFile(await realpath(library), join(root, library))
  }
  // Numbered, so that init loads them in this order.
  for (const [index, module] of parts.modules.entries()) {
    await copyFile(module, join(root, 'modules', `${String(index).padStart(2, '0')}-${basename(module)}`))
  }
  for (const [path, text] of Object.entries(GUEST_FILES)) await writeFile(join(root, path), text)
  await chmod(join(root, 'init'), 0o755)
}

/** Paths of the shared libraries and of the loader that `files` name, as they name them. */
async function librariesOf(files: readonly string[], signal: AbortSignal): Promise<ReadonlySet<string>> {
  const libraries = new Set<string>()
  for (const file of files) {
    // ldd fails on a static program, which needs nothing; a library that is missing shows when the guest starts.
    const { stdout } = await run('ldd', [file], { signal }).catch(() => {
      signal.throwIfAborted()
      return { stdout: '' }
    })
    for (const [path] of stdout.matchAll(/(?<=\s)\/\S+/g)) libraries.add(path)
  }
  return libraries
}

/** Names are sorted and inodes renumbered, so that equal files make an equal archive but for their times. */
async function pack(root: string, file: string, signal: AbortSignal): Promise<void> {
  const script = 'set -o pipefail; find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet --reproducible | gzip -n -1 > "$0"'
  await run('bash', ['-c', script, file], { cwd: root, signal })
}
