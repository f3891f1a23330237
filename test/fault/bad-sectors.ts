/** Files whose every read fails with EIO, as a disk does where a sector is bad. Others that take their names are sound. */
import fs from 'node:fs'
import { vi } from 'vitest'

export interface BadSectors extends Disposable {
  /** Reads that failed. */
  readonly reads: number
}

/** Until it is disposed, of those files that lie there now, whoever opens them in this process. */
export function badSectors(files: readonly string[]): BadSectors {
  // Held open, so that their numbers are not given to new files.
  const held = files.map(file => fs.openSync(file, 'r'))
  const bad = new Set(held.map(fd => fs.fstatSync(fd).ino))
  const real = fs.read
  let reads = 0
  const reading = vi.spyOn(fs, 'read').mockImplementation(((fd: number, ...rest: unknown[]) => {
    if (!bad.has(fs.fstatSync(fd).ino)) return Reflect.apply(real, fs, [fd, ...rest])
    reads++
    const done = rest.at(-1) as (error: Error) => void
    setImmediate(done, Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', errno: -5, syscall: 'read' }))
  }) as typeof fs.read)
  return {
    get reads() {
      return reads
    },
    [Symbol.dispose]() {
      reading.mockRestore()
      for (const fd of held) fs.closeSync(fd)
    },
  }
}
