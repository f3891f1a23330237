/** What each command does, on a real store in a folder. */
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { errorLine, Workplace } from './program.ts'

const ID = /^[0-9a-f]{64}$/

let place: Workplace
let parent: Buffer
let child: Buffer
let parentId: string
let childId: string

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  parent = await place.writeImage('parent.img', 3)
  child = Buffer.from(parent)
  child.fill(7, 4096 * 5, 4096 * 9)
  await writeFile(place.path('child.img'), child)
  await writeFile(place.path('vm.state'), 'device state')
  parentId = await place.mustRun('push', '--layer', 'runtime', '--tag', 'python:3.11', 'memory=parent.img')
  childId = await place.mustRun(
    ...['push', '--layer', 'function', '--tenant', 'acme', '--create-tenant', '--parent', 'python:3.11', '--tag', 'resize:7'],
    ...['--label', 'commit=abc', '--label', 'note=a=b', '--quiet', 'memory=child.img', 'state=vm.state'],
  )
})

afterAll(() => place[Symbol.asyncDispose]())

describe('init', () => {
  it('made all three, and keeps them when it is run again', async () => {
    const before = await readFile(place.path('thaw.keys'))
    const { made } = await place.document('init')
    expect(made).toEqual({ store: false, keyring: false, config: false })
    expect(await readFile(place.path('thaw.keys'))).toEqual(before)
    expect((await stat(place.path('thaw.keys'))).mode & 0o777).toBe(0o600)
  })

  it('refuses a config that names another store', async () => {
    const { code } = await place.run('init', '--store', './elsewhere')
    expect(code).toBe(1)
    expect(await readdir(place.folder)).not.toContain('elsewhere')
  })

  it('makes no fresh keyring for a store that has one', async () => {
    await mkdir(place.path('other'))
    const ended = await place.run('init', '--store', './thaw-store', '--keyring', 'other/k', '--config', 'other/thaw.json', '--json')
    expect(ended.code).toBe(1)
    expect(JSON.parse(errorLine(ended)).error.code).toBe('WRONG_KEY')
    expect(await readdir(place.path('other'))).toEqual([])
  })
})

describe('push', () => {
  it('prints the id alone', () => {
    expect([parentId, childId]).toEqual([expect.stringMatching(ID), expect.stringMatching(ID)])
  })

  it('reads standard input', async () => {
    const process = place.start(['push', '--layer', 'os', 'rootfs:disk=-', '--json'])
    process.stdin.end(parent)
    let stdout = ''
    for await (const part of process.stdout) stdout += part
    const pushed = JSON.parse(stdout)
    expect(pushed).toMatchObject({
      schema: 1,
      images: [{ name: 'rootfs', kind: 'disk', sizeBytes: parent.length }],
      warnings: [],
      tag: null,
    })
  })

  it('says in figures what was shared', async () => {
    const { counts } = await place.document('push', '--layer', 'runtime', '--parent', parentId, 'memory=child.img')
    expect(counts).toMatchObject({ ownBytes: 4 * 4096, doneBytes: child.length })
  })

  it('inherits images, and takes a tag with its tenant', async () => {
    const args = ['push', '--layer', 'function', '--tenant', 'acme', '--parent', childId, '--inherit', '--tag', 'acme//copy']
    const { images, tag } = await place.document(...args)
    expect(images).toHaveLength(2)
    expect(tag).toMatchObject({ tenant: 'acme', name: 'copy' })
  })
})

describe('pull', () => {
  it('writes the images back, by tag, all or some', async () => {
    await place.mustRun('pull', 'resize:7', 'out')
    expect(await readFile(place.path('out/memory'))).toEqual(child)
    await place.mustRun('pull', 'acme//resize:7', 'some', 'state')
    expect(await readdir(place.path('some'))).toEqual(['state'])
    expect(await readFile(place.path('some/state'), 'utf8')).toBe('device state')
  })

  it('prints nothing with --quiet', async () => {
    expect(await place.run('pull', parentId, 'quiet', '--quiet')).toEqual({ code: 0, stdout: '', stderr: '' })
  })
})

describe('ls', () => {
  it('gives a line of JSON a snapshot, with what the keys open', async () => {
    const lines = (await place.mustRun('ls', '--json')).split('\n').map(line => JSON.parse(line))
    const found = lines.find(({ id }) => id === childId)
    expect(found).toMatchObject({
      schema: 1,
      layer: 'function',
      parent: parentId,
      tags: [{ tenant: 'acme', name: 'resize:7' }],
      details: { tenant: 'acme', labels: { commit: 'abc', note: 'a=b' } },
    })
    expect(new Date(found.details.createdAt).toISOString()).toBe(found.details.createdAt)
  })

  it('is a table for people, and needs no keys', async () => {
    const withKeys = await place.mustRun('ls')
    expect(withKeys.split('\n')[0]).toMatch(/^ID +LAYER/)
    expect(withKeys).toContain('acme//resize:7')
    const { code, stdout } = await place.run('ls', '--no-keyring')
    expect(code).toBe(0)
    expect(stdout).toContain(childId.slice(0, 12))
    expect(stdout).not.toContain('acme')
  })

  it('lists tags', async () => {
    const tags = (await place.mustRun('ls', '--tags', '--json')).split('\n').map(line => JSON.parse(line))
    expect(tags).toContainEqual(expect.objectContaining({ schema: 1, tenant: null, name: 'python:3.11', seq: 1, snapshot: parentId }))
  })
})

describe('inspect', () => {
  it('shows people a map, without colours in a pipe', async () => {
    const shown = await place.mustRun('inspect', 'resize:7')
    expect(shown).toContain(childId)
    expect(shown).toContain('       0 B r.r.r.')
    expect(shown).not.toContain('\u001b')
  })

  it('gives full figures as JSON', async () => {
    const { details, segments } = await place.document('inspect', childId.slice(0, 8))
    expect(segments).toContainEqual(expect.objectContaining({ origin: parentId, layer: 'runtime' }))
    expect(details).toMatchObject({ images: [{ name: 'memory', ownBytes: 4 * 4096, map: { length: 6 } }, { name: 'state' }] })
  })

  it('shows what the cleartext tells where there are no keys', async () => {
    const shown = await place.mustRun('inspect', childId, '--no-keyring')
    expect(shown).toContain(parentId)
    expect(shown).not.toContain('acme')
    expect(await place.document('inspect', childId, '--no-keyring')).toMatchObject({ details: null })
  })
})

describe('diff', () => {
  it('names what changed', async () => {
    const { images } = await place.document('diff', parentId, childId)
    expect(images).toMatchObject([
      { name: 'memory', state: 'changed', changedPages: 4 },
      { name: 'state', state: 'added', sizeBytesA: null },
    ])
    expect(await place.mustRun('diff', parentId, childId)).toContain('       0 B #.=.=.')
  })
})

describe('tags', () => {
  it('are set, moved under conditions, and deleted', async () => {
    await place.mustRun('tag', parentId, 'moving')
    expect((await place.run('tag', childId, 'moving', '--if-absent')).code).toBe(1)
    expect((await place.run('tag', childId, 'moving', '--expect', childId)).code).toBe(1)
    await place.mustRun('tag', childId, 'moving', '--expect', parentId.slice(0, 10))
    expect(await place.document('inspect', 'moving')).toMatchObject({ id: childId })
    await place.mustRun('untag', 'moving')
    expect((await place.run('untag', 'moving')).code).toBe(1)
  })
})

describe('rm', () => {
  it('takes an id that no tag names, and no tag', async () => {
    const id = await place.mustRun('push', '--layer', 'os', '--tag', 'doomed', 'x:blob=vm.state')
    expect((await place.run('rm', 'doomed')).code).toBe(2)
    expect((await place.run('rm', id)).code).toBe(1)
    await place.mustRun('untag', 'doomed')
    await place.mustRun('rm', id.slice(0, 12))
    expect((await place.run('inspect', id)).code).toBe(1)
  })
})

describe('verify', () => {
  it('says whether it could look inside', async () => {
    expect(await place.document('verify', childId)).toMatchObject({ schema: 1, opened: true, bad: [] })
    expect(await place.document('verify', childId, '--no-keyring')).toMatchObject({ opened: false, bad: [] })
  })

  it('fails on a chunk that has changed, and names it', async () => {
    await using spoiled = await Workplace.create()
    await spoiled.mustRun('init')
    await spoiled.writeImage('a.img', 1)
    const id = await spoiled.mustRun('push', '--layer', 'os', 'a=a.img')
    const store = spoiled.path('thaw-store')
    const names = await readdir(store, { recursive: true })
    const chunk = names.find(name => name.includes('/chunks/') && ID.test(name.split('/').at(-1)!))!
    const bytes = await readFile(`${store}/${chunk}`)
    bytes[0]! ^= 1
    await writeFile(`${store}/${chunk}`, bytes)
    const ended = await spoiled.run('verify', id, '--json')
    expect(ended.code).toBe(1)
    expect(JSON.parse(ended.stdout).bad).toMatchObject([{ object: chunk, code: 'CORRUPT' }])
    expect(JSON.parse(errorLine(ended)).error).toMatchObject({ code: 'CORRUPT', object: id })
  })
})

describe('key', () => {
  it('makes tenants, and shows no secret', async () => {
    await place.mustRun('key', 'create', '--tenant', 'hostile', '--never-compress', '--no-pad')
    expect((await place.run('key', 'create', '--tenant', 'hostile')).code).toBe(1)
    const { keys } = await place.document('key', 'ls')
    expect(keys).toContainEqual(expect.objectContaining({ kind: 'secret', layer: 'function', tenant: 'hostile' }))
    const secrets = (await readFile(place.path('thaw.keys'), 'utf8')).match(/[0-9a-f]{64}/g) ?? []
    const shown = await place.mustRun('key', 'ls')
    expect(secrets.length).toBeGreaterThan(0)
    for (const secret of secrets) expect(shown).not.toContain(secret)
  })

  it('exports a worker that restores its tenant and nothing else', async () => {
    await place.mustRun('key', 'export', 'worker.keys', '--role', 'worker', '--tenant', 'acme')
    await place.mustRun('pull', childId, 'worker-out', 'state', '--keyring', 'worker.keys')
    expect((await place.run('pull', parentId, 'worker-out', '--keyring', 'worker.keys')).code).toBe(1)
  })
})

describe('store check', () => {
  it('tries a store and leaves nothing', async () => {
    await mkdir(place.path('empty'))
    const { ok, checks } = await place.document('store', 'check', './empty')
    expect(ok).toBe(true)
    expect(checks).toHaveProperty('length', expect.any(Number))
    const left = (await readdir(place.path('empty'), { recursive: true })).filter(name => name.startsWith('check-'))
    expect(left).toEqual([])
  })
})
