/**
 * What a guest is made from: QEMU, Debian's cloud kernel, busybox and Debian's Python, all of this machine. `npm run setup` installs
 * them. Software emulation only: it needs no /dev/kvm and makes the same pages everywhere.
 */
import { existsSync, globSync, readFileSync, realpathSync } from 'node:fs'
import { basename, join } from 'node:path'
import { findProgram } from '../../scripts/find-program.ts'
import { ThawError } from '../../src/errors.ts'

/** Absolute paths. */
export interface QemuParts {
  readonly qemu: string
  readonly kernel: string
  readonly busybox: string
  /** Debian's interpreter itself, such as /usr/bin/python3.11, never a link or another one on PATH. */
  readonly python: string
  /** The standard library of `python`. */
  readonly pythonLibrary: string
  /** Modules of `kernel` that the guest loads, each after those it needs; without those that the kernel has built in. */
  readonly modules: readonly string[]
}

export type QemuAvailability =
  | { readonly kind: 'available'; readonly parts: QemuParts }
  | { readonly kind: 'missing'; readonly missing: readonly string[] }

/** A disk, and the generation of the machine: Debian's cloud kernel is built without the latter's driver, later ones may have it. */
const WANTED_MODULES = ['virtio_pci', 'virtio_blk', 'vmgenid']

/** The parts, or the names of those that this machine lacks. */
export function qemuAvailable(): QemuAvailability {
  const python = existsSync('/usr/bin/python3') ? realpathSync('/usr/bin/python3') : undefined
  const parts = {
    qemu: findProgram('qemu-system-x86_64'),
    kernel: globSync('/boot/vmlinuz-*cloud-amd64').sort(byVersion).at(-1),
    busybox: findProgram('busybox'),
    python,
    pythonLibrary: python?.replace('/bin/', '/lib/'),
  }
  const { qemu, kernel, busybox, pythonLibrary } = parts
  const here: Readonly<Record<string, boolean>> = {
    'qemu-system-x86_64': qemu !== undefined,
    '/boot/vmlinuz-*cloud-amd64': kernel !== undefined,
    busybox: busybox !== undefined,
    cpio: findProgram('cpio') !== undefined,
    '/usr/bin/python3 with its library': pythonLibrary !== undefined && existsSync(join(pythonLibrary, 'sqlite3')),
  }
  const missing = Object.keys(here).filter(name => !here[name])
  if (missing.length > 0 || !qemu || !kernel || !busybox || !python || !pythonLibrary) return { kind: 'missing', missing }
  return { kind: 'available', parts: { qemu, kernel, busybox, python, pythonLibrary, modules: modulesOf(kernel) } }
}

/** The parts; throws UNSUPPORTED naming all that are missing. */
export function requireQemu(): QemuParts {
  const found = qemuAvailable()
  if (found.kind === 'available') return found.parts
  throw new ThawError('UNSUPPORTED', `no guest can run here, missing: ${found.missing.join(', ')}; run npm run setup`)
}

/**
 * Read from `modules.dep` (man 5 modules.dep): a line names a module and all that it needs, the nearest first. Compressed modules are
 * left out: busybox cannot load them.
 */
function modulesOf(kernel: string): string[] {
  const home = join('/lib/modules', basename(kernel).replace('vmlinuz-', ''))
  const table = join(home, 'modules.dep')
  const lines = existsSync(table) ? readFileSync(table, 'utf8').split('\n') : []
  const wanted = WANTED_MODULES.flatMap(name => {
    const [module, needed] = lines.find(line => line.split(':')[0]!.endsWith(`/${name}.ko`))?.split(':') ?? []
    return module === undefined ? [] : [...(needed?.trim().split(' ').filter(Boolean).reverse() ?? []), module]
  })
  return [...new Set(wanted)].map(module => join(home, module))
}

/** 6.1.0-9 before 6.1.0-10. */
function byVersion(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}
