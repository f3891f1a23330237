/**
 * The programs that are compared, as the commands that a user would type. Each keeps its store and all its other files in one folder, so that a copy of the folder
 * is a fresh store.
 *
 * Settings: each tool's own defaults, but for borg, which gets fixed chunks of 512 KiB and zstd 1 (what thaw does), and no encryption. restic encrypts
 * always; casync and desync never.
 */
import { basename, dirname, join } from 'node:path'
import { findProgram } from '../../scripts/find-program.ts'
import type { Command } from './command.ts'

export interface Tool {
  readonly name: string
  /** Commands that make an empty store in the folder `dir`, which is there. */
  init(dir: string): readonly Command[]
  /** Stores the file at `image` under `name`; `parent` is the name of an earlier one, for tools that can use it. */
  push(dir: string, name: string, image: string, parent?: string): Command
  /** Writes the image `name` into the folder `into`, which is there and empty. `image` is the path it was pushed from. */
  pull(dir: string, name: string, image: string, into: string): Command
  /** Where `pull` puts it. */
  pulledPath(image: string, into: string): string
  /** The folder whose files are what was stored. */
  storedAt(dir: string): string
}

/** thaw itself, started by `node ENTRY`. */
export function thaw(entry: string): Tool {
  const run = (dir: string, command: string, ...args: string[]): Command => ({
    argv: [process.execPath, entry, command, '--store', join(dir, 'store'), '--keyring', join(dir, 'keys'), ...args],
    cwd: dir,
  })
  return {
    name: 'thaw',
    init: dir => [run(dir, 'init', '--config', join(dir, 'thaw.json'))],
    push: (dir, name, image, parent) => {
      const from = parent === undefined ? [] : ['--parent', tagOf(parent)]
      return run(dir, 'push', '--json', '--layer', layerOf(name), '--tag', tagOf(name), ...from, `memory=${image}`)
    },
    pull: (dir, name, _image, into) => run(dir, 'pull', tagOf(name), into),
    pulledPath: (_image, into) => join(into, 'memory'),
    storedAt: dir => join(dir, 'store'),
  }
}

function layerOf(name: string): string {
  return name === 'os' ? 'os' : name === 'rt' ? 'runtime' : 'function'
}

function tagOf(name: string): string {
  return `${name}:1`
}

const restic: Tool = {
  name: 'restic',
  init: dir => [resticRun(dir, 'init')],
  push: (dir, _name, image) => ({ ...resticRun(dir, 'backup', basename(image)), cwd: dirname(image) }),
  pull: (dir, _name, _image, into) => resticRun(dir, 'restore', 'latest', '--target', into),
  pulledPath: (image, into) => join(into, basename(image)),
  storedAt: dir => join(dir, 'repository'),
}

function resticRun(dir: string, ...args: string[]): Command {
  const env = { RESTIC_PASSWORD: 'bench', RESTIC_CACHE_DIR: join(dir, 'cache') }
  return { argv: ['restic', '-r', join(dir, 'repository'), ...args], env }
}

const borg: Tool = {
  name: 'borg',
  init: dir => [borgRun(dir, 'init', '--encryption=none', join(dir, 'repository'))],
  push: (dir, name, image) => {
    const settings = ['--chunker-params', 'fixed,524288', '--compression', 'zstd,1']
    return { ...borgRun(dir, 'create', ...settings, `${join(dir, 'repository')}::${name}`, basename(image)), cwd: dirname(image) }
  },
  pull: (dir, name, _image, into) => ({ ...borgRun(dir, 'extract', `${join(dir, 'repository')}::${name}`), cwd: into }),
  pulledPath: (image, into) => join(into, basename(image)),
  storedAt: dir => join(dir, 'repository'),
}

function borgRun(dir: string, ...args: string[]): Command {
  const env = {
    BORG_BASE_DIR: join(dir, 'home'),
    // It asks before it uses a repository that is not encrypted, or that was moved.
    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes',
    BORG_RELOCATED_REPO_ACCESS_IS_OK: 'yes',
  }
  return { argv: ['borg', ...args], env }
}

/** casync and desync: two programs for one format. */
const chunkStore = (name: string, store: (dir: string) => string[]): Tool => ({
  name,
  init: dir => [{ argv: ['mkdir', join(dir, 'chunks')] }],
  push: (dir, image, path) => ({ argv: [name, 'make', ...store(dir), join(dir, 'chunks', `${image}.caibx`), path] }),
  pull: (dir, image, path, into) => ({
    argv: [name, 'extract', ...store(dir), join(dir, 'chunks', `${image}.caibx`), join(into, basename(path))],
  }),
  pulledPath: (path, into) => join(into, basename(path)),
  storedAt: dir => join(dir, 'chunks'),
})

const PEERS: readonly Tool[] = [
  restic,
  chunkStore('casync', dir => [`--store=${join(dir, 'chunks')}`]),
  borg,
  chunkStore('desync', dir => ['-s', join(dir, 'chunks')]),
]

/** The peers that this machine has, and the names of those it has not. */
export function findPeers(): { readonly present: readonly Tool[]; readonly missing: readonly string[] } {
  const isHere = ({ name }: Tool): boolean => findProgram(name) !== undefined
  return { present: PEERS.filter(isHere), missing: PEERS.filter(tool => !isHere(tool)).map(({ name }) => name) }
}
