/**
 * Starting a program, so that it runs when the promise resolves, and every way in which it cannot be started is a rejection.
 *
 * `spawn` alone has three ways to say so: it throws, or the child tells of it later, and where this process is out of descriptors that child has no streams either. Who reaches for one
 * then throws before anybody listens to the error, and Node ends the process for an error that nobody listens to.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'

/** More than the pipes of one take. */
const DESCRIPTORS = 8

/** Descriptors in `stdio` may be closed when it settles. @throws the error of Node or the kernel */
export async function startProgram(program: string, args: readonly string[], options: SpawnOptions): Promise<ChildProcess> {
  checkDescriptors()
  const child = spawn(program, args, options)
  await once(child, 'spawn')
  return child
}

/** Where too few are left Node forgets the pipes that it could make, and they stay open for good. @throws EMFILE, ENFILE */
function checkDescriptors(): void {
  const fds: number[] = []
  try {
    while (fds.length < DESCRIPTORS) fds.push(openSync('/dev/null', 'r'))
  } finally {
    for (const fd of fds) closeSync(fd)
  }
}
