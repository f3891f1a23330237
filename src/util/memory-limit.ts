/**
 * How much memory this process may use, whoever says so: the machine, its control groups up to the root, or its own limits (ulimit). What is chosen by default follows it.
 */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { dirname, join } from 'node:path'

/** As text, or undefined if it cannot be read. For tests. */
export type ReadText = (path: string) => string | undefined

const GROUPS = '/sys/fs/cgroup'

/** In bytes. Limits of address space count as limits of memory: shared memory is mapped before it is used. */
export function memoryLimitBytes(read: ReadText = readText): number {
  return Math.min(totalmem(), ...ownLimits(read), ...groupLimits(read))
}

/** RLIMIT_AS and RLIMIT_DATA, soft. */
function ownLimits(read: ReadText): number[] {
  const limits = read('/proc/self/limits') ?? ''
  return [...limits.matchAll(/^Max (?:address space|data size)\s+(\d+)/gm)].map(([, bytes]) => Number(bytes))
}

/** Of the group that this process is in, and of all above it: any of them may be the tightest. Version 2 is mounted at the top, version 1 by controller. */
function groupLimits(read: ReadText): number[] {
  const lines = (read('/proc/self/cgroup') ?? '').split('\n').map(line => line.split(':'))
  return lines.flatMap(([, controllers = '', ...path]) => {
    const [top, file] = controllers === '' ? [GROUPS, 'memory.max'] : [join(GROUPS, 'memory'), 'memory.limit_in_bytes']
    if (controllers !== '' && !controllers.split(',').includes('memory')) return []
    return upwards(path.join(':')).flatMap(group => {
      const limit = read(join(top, group, file))?.trim() ?? ''
      // "max", and where the path is that of another namespace, nothing.
      return /^\d+$/.test(limit) ? [Number(limit)] : []
    })
  })
}

function upwards(path: string): string[] {
  const above = dirname(path)
  return above === path ? [path] : [path, ...upwards(above)]
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
}
