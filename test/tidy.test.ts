/**
 * Style as a test: what a reviewer would otherwise have to look for in every change. Sources are read as text, imports by one regular expression: the house
 * writes them in one form.
 *
 * The table of imports is the direction of the design, narrowed to what is true: a new import that does not fit is a decision, made here. It counts types
 * too. The security boundary is in it: what stores and caches see are keys and ciphertext, so they know nothing of seal, manifest and keys.
 */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const LINES_MAX = 400

/** What each area of src may import: `keys` is `src/keys.ts` and `src/keys/`. */
const MAY_IMPORT: Readonly<Record<string, string>> = {
  errors: '',
  util: 'errors',
  store: 'errors util',
  names: '',
  layout: 'names',
  document: 'errors store util',
  keys: 'document errors names util',
  chunk: '',
  changes: 'chunk errors util',
  overlay: 'changes chunk errors names util',
  pagemap: '',
  seal: 'chunk errors keys util',
  stats: 'errors util',
  cache: 'errors names stats store util',
  arena: 'chunk util',
  manifest: 'chunk errors keys names pagemap seal util',
  identity: 'document errors keys layout names store',
  root: 'document errors identity keys layout names seal store util',
  tag: 'document errors keys layout names store util',
  engine: 'arena cache errors layout manifest seal stats store util',
  reader: 'arena cache chunk engine errors find pagemap seal store util',
  find: 'document engine errors keys layout manifest names store',
  refs: 'errors find keys names store tag',
  inspect: 'chunk find keys manifest pagemap',
  diff: 'chunk find manifest pagemap',
  pull: 'cache chunk engine errors find manifest pagemap seal util',
  push: 'changes chunk engine errors find keys layout manifest names pagemap reader seal store util',
  warm: 'cache engine errors find manifest seal util',
  metrics: 'errors stats util',
  verify: 'chunk engine errors find manifest pagemap reader seal store util',
  pager: 'arena chunk engine errors manifest overlay pagemap reader util',
  commit: 'changes errors keys overlay push',
  restore: 'commit engine errors manifest overlay pager push reader snapshot-store util',
  snapshot: 'engine errors find keys manifest pager pull reader restore util',
  'open-cache': 'cache engine errors pager stats util',
  'snapshot-store':
    'commit diff engine errors find identity inspect keys layout manifest names open-cache push refs restore root seal snapshot stats store tag util verify warm',
  exec: 'errors util',
  guard: 'errors util',
  frontend: 'arena chunk errors guard pagemap pager reader restore util',
  'front-ends': 'frontend restore',
  notify: 'util',
  testing: 'store util',
  index:
    'cache changes commit diff engine errors exec find front-ends frontend inspect keys manifest metrics names notify open-cache overlay pager pull push reader refs restore snapshot snapshot-store stats store util verify warm',
  cli: 'index',
}

/** Single imports that go another way. */
const EXCEPTIONS: Readonly<Record<string, string>> = {
  'cli/exec.ts → exec.ts': 'a VMM waits for it, and it needs nothing else of the library',
  'cli.ts → seal/threads.ts': 'the threads start while the public entry loads, so it cannot be what starts them',
}

/** Where each package may be loaded, and whether everybody pays for it who loads that area, or only whoever needs it. */
const PACKAGES: Readonly<Record<string, { readonly area: string | readonly string[]; readonly load: 'static' | 'dynamic' }>> = {
  '@aws-sdk/client-s3': { area: 'store', load: 'dynamic' },
  '@aws-sdk/credential-provider-node': { area: 'store', load: 'dynamic' },
  '@smithy/node-http-handler': { area: 'store', load: 'dynamic' },
  koffi: { area: 'util', load: 'dynamic' },
  'hash-wasm': { area: 'cache', load: 'dynamic' },
  ioredis: { area: 'cache', load: 'dynamic' },
  'lru-cache': { area: 'reader', load: 'static' },
  'msgpackr/pack': { area: 'manifest', load: 'static' },
  'msgpackr/unpack': { area: 'manifest', load: 'static' },
  'prom-client': { area: 'metrics', load: 'dynamic' },
  commander: { area: 'cli', load: 'static' },
  '@bomb.sh/tab/commander': { area: 'cli', load: 'dynamic' },
  'cli-progress': { area: 'cli', load: 'dynamic' },
}

/** What must not be in a source, and where it may be nevertheless. */
const FORBIDDEN: readonly { readonly what: string; readonly pattern: RegExp; readonly except?: RegExp }[] = [
  { what: 'a default export', pattern: /^export default\b|\bas default\b/m },
  { what: 'an enum', pattern: /^\s*(export )?(declare )?(const )?enum\b/m },
  { what: 'work left for later', pattern: /\b(TODO|FIXME|XXX|HACK)\b/ },
  { what: 'a suppressed check', pattern: /@ts-(ignore|expect-error|nocheck)|biome-ignore/ },
  { what: 'an end of the process', pattern: /\bprocess\.exit\(/, except: /^cli\// },
]

const BANNED_NAME = /(Manager|Helper|Service|Util|Info|Data)s?$/i
const EXPORTED_NAME = /^export (?:abstract |async |declare )*(?:class|function\*?|interface|type|const|let|enum) (\w+)/gm
const IMPORT = /^(?:import|export)\s+(type\s+)?(?:\{[^}]*\}|\*(?: as \w+)?|\w+)\s+from '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm

interface Source {
  /** Path within its folder, with slashes. */
  readonly file: string
  readonly area: string
  readonly text: string
  readonly imports: readonly Import[]
}

interface Import {
  readonly from: string
  readonly load: 'static' | 'dynamic' | 'type'
}

async function readSources(folder: string): Promise<Source[]> {
  const entries = await readdir(join(ROOT, folder), { recursive: true })
  const files = entries.filter(file => file.endsWith('.ts')).sort()
  return Promise.all(
    files.map(async file => {
      const text = await readFile(join(ROOT, folder, file), 'utf8')
      return { file, area: areaOf(file), text, imports: importsOf(text) }
    }),
  )
}

function importsOf(text: string): Import[] {
  return [...text.matchAll(IMPORT)].map(([, type, named, bare, dynamic]) => ({
    from: named ?? bare ?? dynamic!,
    load: dynamic !== undefined ? 'dynamic' : type !== undefined ? 'type' : 'static',
  }))
}

/** The file of src that a relative import means. */
function target({ file }: Source, { from }: Import): string {
  return normalize(join(dirname(file), from))
}

function areaOf(file: string): string {
  return file.replace(/\.ts$/, '').split('/')[0]!
}

function offenders(all: readonly Source[], offends: (source: Source) => boolean): string[] {
  return all.filter(offends).map(({ file }) => file)
}

const sources = await readSources('src')
const isRelative = ({ from }: Import): boolean => from.startsWith('.')

describe('imports', () => {
  it('go the way they may', () => {
    const strayed = sources.flatMap(source => {
      const allowed = MAY_IMPORT[source.area]?.split(' ') ?? []
      const targets = source.imports.filter(isRelative).map(item => target(source, item))
      return targets.filter(file => ![source.area, ...allowed].includes(areaOf(file))).map(file => `${source.file} → ${file}`)
    })
    expect(strayed.sort()).toEqual(Object.keys(EXCEPTIONS).sort())
  })

  it('of packages are where they may be, and late where that saves the others', () => {
    const strayed = sources.flatMap(({ file, area, imports }) =>
      imports
        .filter(item => !isRelative(item) && !item.from.startsWith('node:'))
        .filter(
          ({ from, load }) => ![PACKAGES[from]?.area].flat().includes(area) || (load === 'static' && PACKAGES[from]?.load === 'dynamic'),
        )
        .map(({ from, load }) => `${file}: ${load} import of ${from}`),
    )
    expect(strayed).toEqual([])
  })

  it('have no cycle', () => {
    const next = new Map(sources.map(source => [source.file, source.imports.filter(isRelative).map(item => target(source, item))]))
    const done = new Set<string>()
    const visit = (file: string, path: readonly string[]): void => {
      expect(path, 'files that import each other').not.toContain(file)
      if (done.has(file)) return
      for (const imported of next.get(file) ?? []) visit(imported, [...path, file])
      done.add(file)
    }
    for (const { file } of sources) visit(file, [])
  })

  it('of the second reader are none of src', async () => {
    const reader = await readSources('test/reader-from-format')
    expect(reader.length).toBeGreaterThan(5)
    expect(offenders(reader, ({ imports }) => imports.some(({ from }) => from.startsWith('../')))).toEqual([])
  })
})

describe('every source', () => {
  it('starts with what it is', () => {
    expect(offenders(sources, ({ text }) => !/^(#!.*\n)?\/\*\*/.test(text))).toEqual([])
  })

  it(`has at most ${LINES_MAX} lines`, () => {
    expect(offenders(sources, ({ text }) => text.split('\n').length > LINES_MAX + 1)).toEqual([])
  })

  it('has a name, and exports names, that say something', () => {
    const names = sources.flatMap(({ file, text }) => [
      file.replace(/\.ts$/, ''),
      ...[...text.matchAll(EXPORTED_NAME)].map(([, name]) => name!),
    ])
    expect(names.filter(name => BANNED_NAME.test(name))).toEqual([])
  })

  it.each(FORBIDDEN)('is without $what', ({ pattern, except }) => {
    expect(offenders(sources, ({ file, text }) => pattern.test(text) && !except?.test(file))).toEqual([])
  })
})

describe('the rules themselves', () => {
  it.each([
    ["import { a,\n  type B } from './x.ts'", { from: './x.ts', load: 'static' }],
    ["import type * as S from 'sdk'", { from: 'sdk', load: 'type' }],
    ["export { a } from './x.ts'", { from: './x.ts', load: 'static' }],
    ["import './x.ts'", { from: './x.ts', load: 'static' }],
    ["  const [a] = await Promise.all([import('sdk')])", { from: 'sdk', load: 'dynamic' }],
  ])('find the import in %j', (text, found) => {
    expect(importsOf(text)).toEqual([found])
  })

  it('find every import of src', () => {
    const all = sources.flatMap(({ text }) => text.match(/^(import|export|\}).* from '|\bimport\('/gm) ?? [])
    expect(sources.flatMap(({ imports }) => imports)).toHaveLength(all.length)
  })

  it.each(['ChunkManager', 'helper', 'TagServices', 'userInfo', 'PushData'])('refuse the name %s', name => {
    expect(name).toMatch(BANNED_NAME)
  })
})
