/** Which MinIO the tests use, and where the project keeps the one it builds. */
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { cacheHome } from '../../scripts/cache-home.ts'
import { builtMinio, findMinio } from '../../scripts/find-minio.ts'

let dir: string

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-minio-'))
  vi.stubEnv('MINIO_BIN', '')
  vi.stubEnv('PATH', '')
  vi.stubEnv('THAW_CACHE_HOME', dir)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(dir, { recursive: true, force: true })
})

async function program(path: string): Promise<string> {
  await mkdir(join(path, '..'), { recursive: true })
  await writeFile(path, '#!/bin/sh\n')
  await chmod(path, 0o755)
  return path
}

describe('findMinio', () => {
  it('finds nothing where there is none', () => {
    expect(findMinio()).toBeUndefined()
  })

  it('takes MINIO_BIN before PATH before the one that was built', async () => {
    const built = await program(builtMinio())
    expect(findMinio()).toBe(built)
    const onPath = await program(join(dir, 'path', 'minio'))
    vi.stubEnv('PATH', join(dir, 'path'))
    expect(findMinio()).toBe(onPath)
    const asked = await program(join(dir, 'asked'))
    vi.stubEnv('MINIO_BIN', asked)
    expect(findMinio()).toBe(asked)
  })

  it('refuses a MINIO_BIN that cannot be run, instead of taking another', async () => {
    await program(builtMinio())
    vi.stubEnv('MINIO_BIN', join(dir, 'nothing'))
    expect(() => findMinio()).toThrow()
  })

  it('passes over a file that cannot be run', async () => {
    await chmod(await program(builtMinio()), 0o644)
    expect(findMinio()).toBeUndefined()
  })
})

describe('cacheHome', () => {
  it('is one folder per user, unless told otherwise', () => {
    expect(cacheHome()).toBe(dir)
    vi.stubEnv('THAW_CACHE_HOME', '')
    vi.stubEnv('XDG_CACHE_HOME', '/x')
    expect(cacheHome()).toBe('/x/thaw')
    vi.stubEnv('XDG_CACHE_HOME', '')
    expect(cacheHome()).toMatch(/\.cache\/thaw$/)
  })
})
