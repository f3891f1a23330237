/**
 * The Debian packages that tests and benchmarks need. What counts is the file a test uses, not the package database: a QEMU built by
 * hand on PATH is as good, and looking at files takes no process.
 */
import { existsSync, globSync } from 'node:fs'
import { findProgram } from '../find-program.ts'
import { runQuietly } from './run.ts'

interface DebianPackage {
  readonly name: string
  /** Whether what the package is wanted for is on this machine. */
  isHere(): boolean
  /** Needed by `bench/peers` alone. */
  readonly peer?: true
}

const program = (name: string, file: string = name): DebianPackage => ({ name, isHere: () => findProgram(file) !== undefined })
const peer = (name: string, file: string = name): DebianPackage => ({ ...program(name, file), peer: true })

const PACKAGES: readonly DebianPackage[] = [
  program('qemu-system-x86', 'qemu-system-x86_64'),
  { name: 'linux-image-cloud-amd64', isHere: () => globSync('/boot/vmlinuz-*cloud-amd64').length > 0 },
  program('busybox-static', 'busybox'),
  program('cpio'),
  // Debian's own with its whole library, whatever python3 stands on PATH: its files go into the guest.
  { name: 'python3', isHere: () => existsSync('/usr/bin/python3') && globSync('/usr/lib/python3.*/sqlite3').length > 0 },
  program('redis-server'),
  program('openssl'),
  program('gcc'),
  // With linux-libc-dev, the kernel's headers.
  { name: 'libc6-dev', isHere: () => existsSync('/usr/include/stdio.h') && existsSync('/usr/include/linux/userfaultfd.h') },
  program('libnbd-bin', 'nbdinfo'),
  program('qemu-utils', 'qemu-img'),
  program('fio'),
  program('nbdkit'),
  peer('casync'),
  peer('restic'),
  peer('borgbackup', 'borg'),
]

/** A kernel package runs its triggers for a minute on a slow machine; the rest is download. */
const INSTALL_TIMEOUT_MS = 15 * 60_000

/** Names of the packages whose files are not here. */
export function missingPackages(withPeers: boolean): readonly string[] {
  return PACKAGES.filter(item => (withPeers || item.peer === undefined) && !item.isHere()).map(item => item.name)
}

/** Installs packages by name. Throws where that is not possible, with the command that the user has to run. */
export async function installPackages(names: readonly string[]): Promise<void> {
  const list = names.join(' ')
  if (findProgram('apt-get') === undefined) throw new Error(`not a Debian system: install what these packages have, then again: ${list}`)
  if (process.getuid?.() !== 0) throw new Error(`not root: run this, then again: sudo apt-get install -y --no-install-recommends ${list}`)
  console.log(`setup: installing ${list}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const quiet = ['-qq', '-o', 'DPkg::Lock::Timeout=300']
  await runQuietly('apt-get', [...quiet, 'update'], { env, timeoutMs: INSTALL_TIMEOUT_MS })
  await runQuietly('apt-get', [...quiet, 'install', '-y', '--no-install-recommends', ...names], { env, timeoutMs: INSTALL_TIMEOUT_MS })
  const still = PACKAGES.filter(item => names.includes(item.name) && !item.isHere()).map(item => item.name)
  if (still.length > 0) throw new Error(`apt-get succeeded but what they are for is not there: ${still.join(' ')}`)
}
