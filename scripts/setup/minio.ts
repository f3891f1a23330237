/**
 * MinIO, the S3 server of the tests. Its makers publish source only, so where there is none it is built, once per user, by the Go
 * toolchain at a pinned version.
 */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { builtMinio, findMinio } from '../find-minio.ts'
import { findProgram } from '../find-program.ts'
import { runQuietly } from './run.ts'

const MODULE = 'github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c'
const GO_MINOR_MIN = 24

/** Two to three minutes on two free cores; a loaded machine takes several times that. */
const BUILD_TIMEOUT_MS = 30 * 60_000

/** Builds the server if there is none. True if it did. */
export async function installMinio(): Promise<boolean> {
  if (findMinio() !== undefined) return false
  const go = await requireGo()
  const target = builtMinio()
  await mkdir(dirname(target), { recursive: true })
  // Built beside and renamed: a build that is killed half-way leaves nothing that looks like a server.
  const workshop = await mkdtemp(join(dirname(target), '.minio-'))
  try {
    console.log('setup: building minio from source; this takes 2 to 3 minutes, once')
    await runQuietly(go, ['install', MODULE], {
      env: { ...process.env, GOBIN: workshop, GOFLAGS: '', GOTOOLCHAIN: 'local', CGO_ENABLED: '0' },
      timeoutMs: BUILD_TIMEOUT_MS,
      onStillRunning: seconds => console.log(`setup: still building minio (${seconds} s)`),
    })
    await rename(join(workshop, 'minio'), target)
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
  return true
}

async function requireGo(): Promise<string> {
  const wanted = `minio is not installed, and building it needs Go 1.${GO_MINOR_MIN} or later`
  const other = 'install Go, or put a minio server on PATH or its path into MINIO_BIN'
  const go = findProgram('go')
  if (go === undefined) throw new Error(`${wanted}, which is not on PATH: ${other}`)
  const { stdout } = await promisify(execFile)(go, ['env', 'GOVERSION'], { timeout: 30_000 })
  const minor = /^go1\.(\d+)/.exec(stdout)?.[1]
  if (minor === undefined || Number(minor) < GO_MINOR_MIN) throw new Error(`${wanted}; ${go} is ${stdout.trim()}: ${other}`)
  return go
}
