/** The closing line of a test run, printed by a real run of vitest over made-up tests. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const REPORTER = join(import.meta.dirname, '../../scripts/counts-reporter.ts')
const VITEST = join(import.meta.dirname, '../../node_modules/vitest/vitest.mjs')

let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'thaw-reporter-'))
  const config = `import { CountsReporter } from ${JSON.stringify(REPORTER)}
export default { test: { globals: true, reporters: ['default', new CountsReporter()], include: ['*.test.mjs'] } }`
  await writeFile(join(root, 'vitest.config.ts'), config)
  await mkdir(join(root, 'node_modules'))
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

/** The last line of a run over these test files, and whether the run succeeded. */
async function run(files: Readonly<Record<string, string>>): Promise<{ readonly line: string | undefined; readonly passed: boolean }> {
  for (const [name, text] of Object.entries(files)) await writeFile(join(root, `${name}.test.mjs`), text)
  const child = spawn(process.execPath, [VITEST, 'run', '--root', root], { stdio: ['ignore', 'pipe', 'ignore'], timeout: 50_000 })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  const [code] = await once(child, 'close')
  return { line: output.trim().split('\n').at(-1), passed: code === 0 }
}

describe('the closing line', () => {
  it('counts tests that pass', async () => {
    expect(await run({ a: `it('one', () => {}); it('two', () => {})` })).toEqual({ line: '2 passed, 0 failed', passed: true })
  })

  it('counts a failed test, a skipped one, a file that does not load and a hook that throws', async () => {
    const files = {
      a: `it('one', () => {}); it('two', () => { throw new Error('no') }); it.skip('three', () => {})`,
      b: `throw new Error('does not load')`,
      c: `describe('suite', () => { afterAll(() => { throw new Error('hook') }); it('four', () => {}) })`,
    }
    expect(await run(files)).toEqual({ line: '2 passed, 3 failed, 1 skipped', passed: false })
  })

  it('counts an error outside every test', async () => {
    const file = `it('one', async () => { setTimeout(() => { throw new Error('late') }); await new Promise(go => setTimeout(go, 50)) })`
    expect(await run({ a: file })).toEqual({ line: '1 passed, 1 failed', passed: false })
  })
})
