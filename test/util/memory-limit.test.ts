/** What a process may use, by who limits it; and that the default of the cache follows. */
import { execFileSync } from 'node:child_process'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { memoryLimitBytes } from '../../src/util/memory-limit.ts'

const MIB = 2 ** 20

function limitWith(files: Readonly<Record<string, string>>): number {
  return memoryLimitBytes(path => files[path])
}

describe('the limit of memory', () => {
  it('is the memory of the machine where nothing else is said', () => {
    expect(limitWith({})).toBe(totalmem())
    expect(limitWith({ '/proc/self/cgroup': '0::/a\n', '/sys/fs/cgroup/a/memory.max': 'max\n' })).toBe(totalmem())
  })

  it('is that of the tightest control group, be it one above', () => {
    const files = {
      '/proc/self/cgroup': '0::/a/b/c\n',
      '/sys/fs/cgroup/a/b/c/memory.max': 'max\n',
      '/sys/fs/cgroup/a/b/memory.max': `${300 * MIB}\n`,
      '/sys/fs/cgroup/a/memory.max': `${100 * MIB}\n`,
    }
    expect(limitWith(files)).toBe(100 * MIB)
  })

  it('is that of the container, which sees its group as the root', () => {
    expect(limitWith({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/memory.max': `${64 * MIB}\n` })).toBe(64 * MIB)
  })

  it('is that of a group of version 1', () => {
    const files = {
      '/proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/a\n',
      '/sys/fs/cgroup/memory/a/memory.limit_in_bytes': `${70 * MIB}\n`,
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    }
    expect(limitWith(files)).toBe(70 * MIB)
  })

  it.each(['as', 'data'])('is that of the process itself (%s)', kind => {
    const module = join(import.meta.dirname, '../../src/util/memory-limit.ts')
    const program = `import { memoryLimitBytes } from ${JSON.stringify(module)}; console.log(memoryLimitBytes())`
    const limit = 64 * 2 ** 30 > totalmem() ? Math.floor(totalmem() / 2 / 4096) * 4096 : 64 * 2 ** 30
    const said = execFileSync('prlimit', [`--${kind}=${limit}:`, process.execPath, '--input-type=module', '-e', program], {
      env: {},
      encoding: 'utf8',
    })
    expect(Number(said)).toBe(limit)
  })
})

describe('a cache', () => {
  it('takes a quarter of it by default, where that is less than 512 MiB', () => {
    const library = join(import.meta.dirname, '../../src/open-cache.ts')
    const program = `
      import { createCache } from ${JSON.stringify(library)}
      await using cache = await createCache({ thread: 'main' })
      console.log(cache.engine.arena.slots * 512 * 1024)`
    // Enough for Node itself.
    const limit = 1536 * MIB
    const said = execFileSync('prlimit', [`--data=${limit}:`, process.execPath, '--input-type=module', '-e', program], {
      env: {},
      encoding: 'utf8',
    })
    expect(Number(said)).toBe(limit / 4)
  })
})
