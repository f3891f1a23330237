/** Starting a program must not copy the arena's page tables: the kernel says of each mapping whether a child gets it (proc_pid_smaps(5), VmFlags: `dc`). */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { startEngine } from '../../src/engine/start.ts'
import { loadNative } from '../../src/util/native.ts'

const native = await loadNative('the test')
const PAGE_BYTES = 4096

/** Whether a child gets the mapping that this address lies in. */
function isCopiedAtFork(address: number): boolean {
  let isInside = false
  for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? []
    if (from !== undefined && to !== undefined) isInside = address >= Number.parseInt(from, 16) && address < Number.parseInt(to, 16)
    else if (isInside && line.startsWith('VmFlags:')) return !line.split(' ').includes('dc')
  }
  throw new Error(`nothing is mapped at ${address.toString(16)}`)
}

describe('the memory of an engine', () => {
  it('that is large is in no child: neither the arena nor the slab', async () => {
    await using engine = await startEngine({ memoryBytes: 160 * 2 ** 20 })
    const large = engine.sharedMemory.filter(({ byteLength }) => byteLength > 32 * 2 ** 20)
    expect(large).toHaveLength(3)
    for (const memory of large) {
      const start = native.addressOf(new Uint8Array(memory))
      for (const address of [start + PAGE_BYTES, start + memory.byteLength - 2 * PAGE_BYTES]) expect(isCopiedAtFork(address)).toBe(false)
    }
  })

  it('that may be a piece of the heap is as before', async () => {
    await using engine = await startEngine({ memoryBytes: 8 * 2 ** 20 })
    expect(isCopiedAtFork(native.addressOf(new Uint8Array(engine.sharedMemory[0]!)))).toBe(true)
  })
})
