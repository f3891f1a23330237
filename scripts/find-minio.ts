/** Where the MinIO server is, for the tests that start one and for the setup that builds it if it is nowhere. */
import { join } from 'node:path'
import { cacheHome } from './cache-home.ts'
import { findProgram, isExecutable } from './find-program.ts'

/** Where `npm run setup` puts the server it builds. */
export function builtMinio(): string {
  return join(cacheHome(), 'bin', 'minio')
}

/**
 * The path of a MinIO server: `$MINIO_BIN`, else `minio` on PATH, else the one that `npm run setup` built; undefined if there is none.
 * A `$MINIO_BIN` that cannot be run is an error, not a reason to take another server than the one asked for.
 */
export function findMinio(): string | undefined {
  const asked = process.env.MINIO_BIN
  if (asked) {
    if (!isExecutable(asked)) throw new Error(`MINIO_BIN names no program that can be run: ${asked}`)
    return asked
  }
  const built = builtMinio()
  return findProgram('minio') ?? (isExecutable(built) ? built : undefined)
}
