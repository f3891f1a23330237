/** The main half when the pager's thread has died: a bug there must not leave a guest that hangs. The restore is a stand-in whose pager dies on demand; the process is real. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { serveUffd } from '../../src/frontend/uffd.ts'
import type { FrontEndHooks } from '../../src/pager/handle.ts'
import type { Restore } from '../../src/restore.ts'
import { loadNative } from '../../src/util/native.ts'

it('kills the VMM', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'thaw-died-'))
  const native = await loadNative('this test')
  const vmm = spawn('sleep', ['60'])
  try {
    const attached = Promise.withResolvers<FrontEndHooks>()
    const kinds: string[] = []
    const serving = {
      join: () => () => undefined,
      attach: async (_frontEnd: unknown, _spec: unknown, hooks: FrontEndHooks) => {
        attached.resolve(hooks)
        return { end: async () => undefined }
      },
    }
    const restore = {
      serving,
      image: () => ({ share: () => ({ starts: new Uint32Array([0, 1]), chunks: new Int32Array([0]) }) }),
      emit: ({ kind }: { readonly kind: string }) => kinds.push(kind),
    } as unknown as Restore
    const pager = await serveUffd(restore, 'memory', { socket: join(dir, 's') })
    const hooks = await attached.promise
    const own = { pidfd: native.pidfdOpen(vmm.pid!, 0), userfaultfd: openSync('/dev/null', 'r') }
    const event = { kind: 'vmm', pid: vmm.pid, ...own }
    hooks.onEvent(event)
    const exited = once(vmm, 'exit')
    hooks.onDied(new Error('a bug'))
    expect(await exited).toEqual([null, 'SIGKILL'])
    expect(await pager.closed).toMatchObject({ reason: 'killed', pid: vmm.pid })
    expect(kinds).toEqual(['connected', 'killed', 'closed'])
  } finally {
    vmm.kill('SIGKILL')
    await rm(dir, { recursive: true })
  }
})
