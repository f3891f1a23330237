/** The engine's thread in the bundled library: its file is found, and it and the main bundle speak the same language. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')

const PROGRAM = `
import { randomBytes } from 'node:crypto'
import { createCache, createFileKeyring, initStore, openStore } from './dist/index.js'

const bytes = randomBytes(1_000_000)
async function* image() {
  yield bytes
}

const keyring = await createFileKeyring('keys')
await initStore('store', { keyring })
await using cache = await createCache({ memoryBytes: 0, disk: { path: 'cache', sizeBytes: 2 ** 24 }, thread: 'worker' })
await using store = await openStore('store', { cache, keyring })
const { id } = await store.push({ layer: 'os', images: { memory: { stream: image() } } })
await using snapshot = await store.open(id)
const read = await snapshot.image('memory').read(0, bytes.length)
await cache.settled()
const { origin } = await cache.stats()
const [{ entries }] = await cache.describe()
// Two chunks came from the store; on disk they lie with the manifest.
console.log(bytes.equals(read), origin.hits, entries)
`

let dir: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-bundle-'))
  await symlink(join(ROOT, 'node_modules'), join(dir, 'node_modules'))
  await writeFile(join(dir, 'package.json'), '{ "type": "module" }\n')
  await writeFile(join(dir, 'program.js'), PROGRAM)
  const rolldown = join(ROOT, 'node_modules/.bin/rolldown')
  await promisify(execFile)(rolldown, ['-c', 'rolldown.config.ts', '--dir', join(dir, 'dist'), '--logLevel', 'warn'], { cwd: ROOT })
})

afterAll(() => rm(dir, { recursive: true, force: true }))

it('serves a program', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['program.js'], { cwd: dir, timeout: 30_000 })
  expect(stdout).toBe('true 3 3\n')
})
