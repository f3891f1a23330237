/** The MinIO of `test/servers/minio.ts`, killed and started again over what it had stored. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Minio } from '../servers/minio.ts'

const READY_WITHIN_MS = 20_000
const READY_POLL_MS = 50

/** A server that was killed: how it had been started. */
export interface Killed {
  /** Starts it again at the same address, and waits until it is ready. Disposing kills it. */
  restart(): Promise<AsyncDisposable>
}

/** Kills the server at once, as a power cut would but for its disk. */
export async function killMinio({ pid, endpoint, credentials }: Minio): Promise<Killed> {
  const [binary, ...args] = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1)
  process.kill(pid, 'SIGKILL')
  const env = {
    ...process.env,
    MINIO_ROOT_USER: credentials.accessKeyId,
    MINIO_ROOT_PASSWORD: credentials.secretAccessKey,
    MINIO_BROWSER: 'off',
  }
  return {
    async restart() {
      const server = spawn(binary!, args, { env, stdio: 'ignore' })
      await once(server, 'spawn')
      await waitReady(endpoint)
      return { [Symbol.asyncDispose]: () => kill(server) }
    },
  }
}

async function waitReady(endpoint: string): Promise<void> {
  const signal = AbortSignal.timeout(READY_WITHIN_MS)
  for (;;) {
    const answer = await fetch(`${endpoint}/minio/health/ready`, { signal }).catch(() => undefined)
    await answer?.body?.cancel()
    if (answer?.ok === true) return
    await sleep(READY_POLL_MS, undefined, { signal })
  }
}

async function kill(server: ChildProcess): Promise<void> {
  const exited = once(server, 'exit')
  server.kill('SIGKILL')
  await exited
}
