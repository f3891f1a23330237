/**
 * The package as others get it: packed, checked, installed from the tarball into an empty project, and used there. What is in the checkout and not in the
 * tarball is missed here and nowhere else: the worker's file, types, a dependency that is only a devDependency.
 */
import { execFile, execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { publint } from 'publint'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')
const TOOLS = join(ROOT, 'node_modules')
/** Whatever is started runs on this Node, not on the system's. */
const env = { ...process.env, PATH: [dirname(process.execPath), join(TOOLS, '.bin'), process.env.PATH].join(delimiter) }

/** What a user writes first, in TypeScript; it runs as it is once its types are taken off. */
const PROGRAM = `
import { randomBytes } from 'node:crypto'
import { createFileKeyring, initStore, openStore, type PushResult, type Snapshot, type SnapshotStore } from 'thaw'
import { type FaultStore, faultStore, memoryStore } from 'thaw/testing'

const bytes: Buffer = randomBytes(1_000_000)
async function* image(): AsyncGenerator<Uint8Array> {
  yield bytes
}

const keyring = await createFileKeyring('keys')
await initStore('store', { keyring })
await using store: SnapshotStore = await openStore('store', { keyring })
const { id }: PushResult = await store.push({ layer: 'os', images: { memory: { stream: image() } } })
await using snapshot: Snapshot = await store.open(id)
const read: Uint8Array = await snapshot.image('memory').read(0, bytes.length)
const objects: FaultStore = faultStore(memoryStore(), { plan: () => undefined })
await objects.put('a', read)
await objects.sync()
const { bad } = await store.verify(id)
console.log(bytes.equals(await objects.get('a', { sizeMax: read.length })), bad.length)
`

let dir: string
let tarball: string
/** The unpacked tarball. */
let unpacked: string
/** Paths in it. */
let files: string[]
/** An empty project with the package installed. */
let project: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-package-'))
  await run('npm', ['pack', '--pack-destination', dir], ROOT)
  tarball = join(dir, (await readdir(dir)).find(name => name.endsWith('.tgz'))!)
  await run('tar', ['-xzf', tarball], dir)
  unpacked = join(dir, 'package')
  const entries = await readdir(unpacked, { recursive: true, withFileTypes: true })
  files = entries.filter(entry => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name).slice(unpacked.length + 1))
  project = join(dir, 'project')
  await mkdir(project)
  await writeFile(join(project, 'package.json'), '{ "type": "module" }\n')
  await run('npm', ['install', tarball, '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'], project)
})

afterAll(() => rm(dir, { recursive: true, force: true }))

describe('the tarball', () => {
  it('holds what a user needs, and no more', () => {
    const needed = [
      'LICENSE',
      'README.md',
      'CHANGELOG.md',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/testing.js',
      'dist/testing.d.ts',
      'dist/cli.js',
    ]
    expect(files).toEqual(expect.arrayContaining(needed))
    const known = /^(package\.json|LICENSE|(README|CHANGELOG|SECURITY)\.md|docs\/[A-Z0-9]+\.md|dist\/.*\.(js|js\.map|d\.ts))$/
    expect(files.filter(file => !known.test(file) || /\.test\./.test(file))).toEqual([])
  })

  it('has the sources that its maps speak of', async () => {
    for (const file of files.filter(file => /\.(js|d\.ts)$/.test(file))) {
      const map = /\/\/# sourceMappingURL=(.+)\s*$/.exec(await readFile(join(unpacked, file), 'utf8'))?.[1]
      if (map === undefined) continue
      const text = await readFile(join(unpacked, dirname(file), map), 'utf8')
      const { sources, sourcesContent = [] } = JSON.parse(text) as { sources: string[]; sourcesContent?: (string | null)[] }
      const missing = sources.filter((source, i) => typeof sourcesContent[i] !== 'string' && !files.includes(join(dirname(file), source)))
      expect(missing, file).toEqual([])
    }
  })

  it('is fine with publint', async () => {
    const bytes = await readFile(tarball)
    const { messages } = await publint({ pack: { tarball: Uint8Array.from(bytes).buffer }, strict: true })
    expect(messages).toEqual([])
  })

  it('has types that resolve, for whoever imports it as ESM: it is nothing else', () => {
    execFileSync('attw', [tarball, '--profile', 'esm-only'], { env, stdio: 'pipe' })
  })
})

describe('installed', () => {
  it('is a library, with types', async () => {
    await writeFile(join(project, 'program.ts'), PROGRAM)
    const compilerOptions = {
      ...{ module: 'nodenext', target: 'es2024', lib: ['es2024', 'esnext.disposable'], strict: true, skipLibCheck: false },
      ...{ types: ['node'], typeRoots: [join(TOOLS, '@types')], outDir: 'built' },
    }
    await writeFile(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.ts'] }))
    await run('tsc', ['-p', project], project)
    expect(await run(process.execPath, [join('built', 'program.js')], project)).toBe('true 0\n')
  })

  it('is a program', async () => {
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string }
    const thaw = (...args: string[]) => run('npx', ['--no', '--', 'thaw', ...args], project)
    expect(await thaw('--version')).toBe(`${version}\n`)
    expect(await thaw('--help')).toMatch(/^Usage: thaw /)
    const at = ['--store', './snapshots', '--keyring', './publisher']
    await thaw('init', ...at)
    const id = await thaw('push', ...at, '--layer', 'os', 'image=package.json')
    expect(id).toMatch(/^[0-9a-f]{64}\n$/)
    await thaw('pull', ...at, id.trim(), 'pulled')
    expect(await readFile(join(project, 'pulled', 'image'))).toEqual(await readFile(join(project, 'package.json')))
  })
})

/** What it wrote on standard output. A failure says what it wrote on both: compilers complain on the first. */
async function run(program: string, args: readonly string[], cwd: string): Promise<string> {
  try {
    return (await promisify(execFile)(program, args, { cwd, env })).stdout
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    throw new Error(`${[program, ...args].join(' ')}:\n${stdout}${stderr}`, { cause: error })
  }
}
