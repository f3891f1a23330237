/** The keyring file: who may read it, what each role can do, rotation by number, and updates from two processes at once. */
import { execFile, spawn } from 'node:child_process'
import { createPublicKey, randomBytes, verify } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ErrorCode, isThawError } from '../../src/errors.ts'
import { newKeyring, newTenant } from '../../src/keys/create.ts'
import { formatKeyring, type KeyringDocument, parseKeyring } from '../../src/keys/document.ts'
import { createFileKeyring, type FileKeyring, fileKeyring } from '../../src/keys/file.ts'

const STORE = '00112233445566778899aabbccddeeff'
const dataKey = Uint8Array.from(randomBytes(32))
const snapshot = Uint8Array.from(randomBytes(32))
const message = Buffer.from('a message')

let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-keyring-'))
  path = join(folder, 'thaw.keys')
})

afterEach(() => rm(folder, { recursive: true, force: true }))

function fails(code: ErrorCode): object {
  return expect.objectContaining({ code })
}

async function written(document: KeyringDocument): Promise<FileKeyring> {
  await writeFile(path, formatKeyring(document), { mode: 0o600 })
  return fileKeyring(path)
}

describe('the file', () => {
  it('is made once, readable by its owner alone, and read back equal', async () => {
    const made = await createFileKeyring(path)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect((await fileKeyring(path)).list()).toEqual(made.list())
    const before = await readFile(path)
    await expect(createFileKeyring(path)).rejects.toEqual(fails('CONFLICT'))
    expect(await readFile(path)).toEqual(before)
    expect(await readdir(folder)).toEqual(['thaw.keys'])
  })

  it.each([0o640, 0o620, 0o604, 0o602, 0o666])('is DENIED with mode %o', async mode => {
    await createFileKeyring(path)
    await chmod(path, mode)
    await expect(fileKeyring(path)).rejects.toEqual(
      expect.objectContaining({ code: 'DENIED', message: expect.stringContaining('chmod 600') }),
    )
  })

  it('that is not there is NOT_FOUND, a folder or FIFO BAD_FORMAT', async () => {
    await expect(fileKeyring(path)).rejects.toEqual(
      expect.objectContaining({ code: 'NOT_FOUND', message: expect.stringContaining('thaw init') }),
    )
    await mkdir(path, { mode: 0o700 })
    await expect(fileKeyring(path)).rejects.toEqual(fails('BAD_FORMAT'))
    await promisify(execFile)('mkfifo', ['-m', '600', join(folder, 'fifo')])
    await expect(fileKeyring(join(folder, 'fifo'))).rejects.toEqual(fails('BAD_FORMAT'))
    await expect(createFileKeyring(join(folder, 'no', 'keys'))).rejects.toEqual(fails('NOT_FOUND'))
  })

  it('is BAD_FORMAT with any byte changed, and no error shows a secret', () => {
    const document = { ...newKeyring(), tenants: new Map([['acme', newTenant({})]]) }
    const text = Buffer.from(formatKeyring(document))
    const secrets = text.toString().match(/[0-9a-f]{64}/g) ?? []
    expect(secrets.length).toBeGreaterThan(7)
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = Buffer.from(text)
        damaged[at]! ^= flip
        try {
          parseKeyring(damaged.toString(), path)
        } catch (error) {
          return (
            isThawError(error, 'BAD_FORMAT') &&
            error.cause === undefined &&
            !secrets.some(secret => error.message.includes(secret.slice(0, 16)))
          )
        }
        return false
      }),
      { numRuns: 1000 },
    )
  })

  it('is BAD_FORMAT for hostile text, and if its numbers do not ascend', () => {
    const refused = (text: string) => {
      expect(() => parseKeyring(text, path)).toThrow(fails('BAD_FORMAT'))
    }
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), refused))
    const document = newKeyring()
    refused(formatKeyring({ ...document, platformKeys: [...document.platformKeys, ...document.platformKeys] }))
  })

  it('names tenants as it likes', () => {
    const names = ['constructor', '42', '7', 'a.b', 'tostring']
    const document = { ...newKeyring(), tenants: new Map(names.map(name => [name, newTenant({})])) }
    expect(new Set(parseKeyring(formatKeyring(document), path).tenants.keys())).toEqual(new Set(names))
  })

  it('lists ids and numbers, never a secret', async () => {
    const keyring = await createFileKeyring(path)
    await keyring.createTenant('acme')
    const listing = keyring.list()
    expect(listing.map(({ kind, layer, tenant, number, newest }) => [kind, layer, tenant, number, newest])).toEqual([
      ['secret', 'os', null, 1, true],
      ['secret', 'runtime', null, 1, true],
      ['secret', 'function', null, 1, true],
      ['secret', 'function', 'acme', 1, true],
      ['key', null, null, 1, true],
      ['key', null, 'acme', 1, true],
      ['signing', null, null, 1, true],
    ])
    expect(JSON.stringify(listing)).not.toMatch(/[0-9a-f]{17}/)
  })
})

describe('a publisher', () => {
  it('seals each layer in a domain of its own, a function layer in its tenant’s', async () => {
    const keyring = await createFileKeyring(path)
    await keyring.createTenant('acme', { compress: false })
    const sealers = await Promise.all([
      keyring.sealer('os', undefined),
      keyring.sealer('runtime', undefined),
      keyring.sealer('function', undefined),
      keyring.sealer('function', 'acme'),
    ])
    expect(sealers.map(({ layer, compress, pad }) => [layer, compress, pad])).toEqual([
      ['os', true, false],
      ['runtime', true, false],
      ['function', true, true],
      ['function', false, true],
    ])
    expect(new Set(sealers.map(({ domain }) => domain)).size).toBe(4)
    expect(new Set(sealers.map(({ secret }) => Buffer.from(secret).toString('hex'))).size).toBe(4)
    expect(await keyring.sealer('os', 'nobody')).toEqual(sealers[0])
    expect(await (await fileKeyring(path)).sealer('function', 'acme')).toEqual(sealers[3])
  })

  it('wraps for a tenant or the platform, and opens both', async () => {
    const keyring = await createFileKeyring(path)
    await keyring.createTenant('acme')
    for (const tenant of [undefined, 'acme']) {
      const wrapped = await keyring.wrap(dataKey, snapshot, tenant)
      expect(await keyring.unwrap([wrapped], snapshot)).toEqual(dataKey)
      await expect(keyring.unwrap([wrapped], Uint8Array.from(randomBytes(32)))).rejects.toEqual(fails('WRONG_KEY'))
      await expect(keyring.unwrap([{ ...wrapped, keyId: '0'.repeat(16) }], snapshot)).rejects.toEqual(fails('WRONG_KEY'))
    }
    await expect(keyring.unwrap([], snapshot)).rejects.toEqual(fails('WRONG_KEY'))
  })

  it('signs what it verifies, and nothing else', async () => {
    const keyring = await createFileKeyring(path)
    const other = await createFileKeyring(join(folder, 'other'))
    const signature = await keyring.sign(message)
    expect(await keyring.verify(message, signature)).toBe(true)
    expect(await keyring.verify(Buffer.from('another'), signature)).toBe(false)
    expect(await other.verify(message, signature)).toBe(false)
    expect(await keyring.verify(message, { ...signature, signature: signature.signature.slice(1) })).toBe(false)
    const { publicKey } = parseKeyring(await readFile(path, 'utf8'), path).signingKeys[0]!
    const jwk = { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') }
    expect(verify(null, message, createPublicKey({ key: jwk, format: 'jwk' }), signature.signature)).toBe(true)
  })

  it('says how to make an unknown tenant', async () => {
    const keyring = await createFileKeyring(path)
    const unknown = expect.objectContaining({ code: 'WRONG_KEY', message: expect.stringContaining('--create-tenant') })
    await expect(keyring.sealer('function', 'nobody')).rejects.toEqual(unknown)
    await expect(keyring.wrap(dataKey, snapshot, 'nobody')).rejects.toEqual(unknown)
    await expect(keyring.createTenant('../x\n')).rejects.toThrow(RangeError)
  })

  it('belongs to the store whose check values it gave, and to no other', async () => {
    const keyring = await createFileKeyring(path)
    const other = await createFileKeyring(join(folder, 'other'))
    const checks = await keyring.checkValues(STORE)
    expect([...checks.values()].every(value => /^[0-9a-f]{32}$/.test(value))).toBe(true)
    expect([...checks.keys()]).toEqual(
      keyring
        .list()
        .slice(0, 3)
        .map(({ id }) => id),
    )
    expect(await keyring.kinship(STORE, checks)).toBe('same')
    expect(await keyring.kinship(STORE.replace('0', '1'), checks)).toBe('other')
    expect(await other.kinship(STORE, checks)).toBe('other')
    expect(await keyring.kinship(STORE, new Map())).toBe('other')
  })
})

describe('rotation', () => {
  it('seals, wraps and signs with the newest, and opens and verifies with all', async () => {
    const old = newKeyring()
    const next = newKeyring()
    const before = await written(old)
    const wrapped = await before.wrap(dataKey, snapshot, undefined)
    const signature = await before.sign(message)
    const checks = await before.checkValues(STORE)

    const second = <T extends object>(item: T | undefined) => ({ ...item!, number: 2 })
    const rotated: KeyringDocument = {
      ...old,
      layers: { ...old.layers, os: { ...old.layers.os, secrets: [...old.layers.os.secrets, second(next.layers.os.secrets[0])] } },
      platformKeys: [...old.platformKeys, second(next.platformKeys[0])],
      signingKeys: [...old.signingKeys, second(next.signingKeys[0])],
    }
    const after = await written(rotated)
    const sealer = await after.sealer('os', undefined)
    expect(sealer.secret).toEqual(next.layers.os.secrets[0]!.secret)
    expect(sealer.domain).toBe(old.layers.os.domain)
    expect((await after.wrap(dataKey, snapshot, undefined)).keyId).toBe(next.platformKeys[0]!.id)
    expect((await after.sign(message)).keyId).toBe(next.signingKeys[0]!.id)
    expect(await after.unwrap([wrapped], snapshot)).toEqual(dataKey)
    expect(await after.verify(message, signature)).toBe(true)
    expect(await after.kinship(STORE, checks)).toBe('same')
    expect(await after.checkValues(STORE)).toEqual(checks)
    expect(
      after
        .list()
        .filter(({ layer }) => layer === 'os')
        .map(({ newest }) => newest),
    ).toEqual([false, true])
  })
})

describe('an exported keyring', () => {
  it('of a worker opens and verifies, and does nothing else', async () => {
    const publisher = await createFileKeyring(path)
    await publisher.createTenant('acme')
    const worker = await publisher.exportKeyring(join(folder, 'worker'), 'worker')
    expect((await stat(worker.name)).mode & 0o777).toBe(0o600)
    expect((await fileKeyring(worker.name)).role).toBe('worker')

    expect(await worker.unwrap([await publisher.wrap(dataKey, snapshot, 'acme')], snapshot)).toEqual(dataKey)
    expect(await worker.unwrap([await publisher.wrap(dataKey, snapshot, undefined)], snapshot)).toEqual(dataKey)
    expect(await worker.verify(message, await publisher.sign(message))).toBe(true)
    expect(await worker.kinship(STORE, await publisher.checkValues(STORE))).toBe('unknown')
    expect(await worker.tenants()).toEqual(['acme'])

    // What a worker commits it seals and wraps itself, and nobody shares it.
    const seals = { ...(await publisher.sealer('function', 'acme')), secret: expect.any(Uint8Array) }
    const sealers = [
      await worker.sealer('function', 'acme', { orOwnSecret: true }),
      await worker.sealer('function', 'acme', { orOwnSecret: true }),
    ]
    expect(sealers).toEqual([seals, seals])
    expect(Buffer.compare(sealers[0]!.secret, sealers[1]!.secret)).not.toBe(0)
    expect(await publisher.unwrap([await worker.wrap(dataKey, snapshot, 'acme')], snapshot)).toEqual(dataKey)

    const refused = [
      worker.sealer('os', undefined),
      worker.sealer('function', undefined),
      worker.sealer('function', 'acme'),
      worker.sealer('function', 'nobody'),
      worker.sealer('function', 'nobody', { orOwnSecret: true }),
      worker.sign(message),
      worker.checkValues(STORE),
      worker.createTenant('other'),
      worker.exportKeyring(join(folder, 'again'), 'publisher'),
    ]
    for (const call of refused) {
      await expect(call).rejects.toEqual(
        expect.objectContaining({ code: 'WRONG_KEY', message: expect.stringContaining("a worker's keyring") }),
      )
    }
  })

  it('of a worker has no secret and no private key in its bytes', async () => {
    const publisher = await createFileKeyring(path)
    const worker = await publisher.exportKeyring(join(folder, 'worker'), 'worker')
    const { layers, signingKeys } = parseKeyring(await readFile(path, 'utf8'), path)
    const text = await readFile(worker.name, 'utf8')
    const hidden = [layers.os, layers.runtime, layers.function].map(({ secrets }) => secrets[0]!.secret).concat(signingKeys[0]!.privateKey!)
    for (const secret of hidden) expect(text).not.toContain(Buffer.from(secret).toString('hex'))
  })

  it('for some tenants has theirs alone, and the platform’s only if asked', async () => {
    const publisher = await createFileKeyring(path)
    for (const tenant of ['acme', 'bulk', 'cron']) await publisher.createTenant(tenant)
    const some = await publisher.exportKeyring(join(folder, 'some'), 'worker', { tenants: ['cron', 'acme'] })
    expect(await some.tenants()).toEqual(['acme', 'cron'])
    expect(await some.unwrap([await publisher.wrap(dataKey, snapshot, 'cron')], snapshot)).toEqual(dataKey)
    for (const tenant of ['bulk', undefined]) {
      await expect(some.unwrap([await publisher.wrap(dataKey, snapshot, tenant)], snapshot)).rejects.toEqual(fails('WRONG_KEY'))
    }
    const more = await publisher.exportKeyring(join(folder, 'more'), 'worker', { tenants: ['acme'], platform: true })
    expect(await more.unwrap([await publisher.wrap(dataKey, snapshot, undefined)], snapshot)).toEqual(dataKey)
    await expect(publisher.exportKeyring(join(folder, 'none'), 'worker', { tenants: ['nobody'] })).rejects.toEqual(fails('WRONG_KEY'))
    await expect(publisher.exportKeyring(some.name, 'worker')).rejects.toEqual(fails('CONFLICT'))
  })

  it('of a publisher for one tenant seals that tenant’s layer, not the platform’s', async () => {
    const publisher = await createFileKeyring(path)
    await publisher.createTenant('acme')
    const one = await publisher.exportKeyring(join(folder, 'one'), 'publisher', { tenants: ['acme'] })
    expect(await one.sealer('function', 'acme')).toEqual(await publisher.sealer('function', 'acme'))
    expect(await one.kinship(STORE, await publisher.checkValues(STORE))).toBe('same')
    await expect(one.sealer('function', undefined)).rejects.toEqual(fails('WRONG_KEY'))
    await expect(one.wrap(dataKey, snapshot, undefined)).rejects.toEqual(fails('WRONG_KEY'))
    await expect(one.checkValues(STORE)).rejects.toEqual(fails('WRONG_KEY'))
  })
})

describe('updates', () => {
  it('from several processes at once all survive', async () => {
    await createFileKeyring(path)
    const source = new URL('../../src/keys/file.ts', import.meta.url).href
    const script = (prefix: string) => `
      import { fileKeyring } from ${JSON.stringify(source)}
      const keyring = await fileKeyring(${JSON.stringify(path)})
      for (let n = 0; n < 4; n++) await keyring.createTenant('${prefix}' + n)`
    const run = promisify(execFile)
    await Promise.all(['a', 'b', 'c'].map(prefix => run(process.execPath, ['--input-type=module', '--eval', script(prefix)])))
    expect(await (await fileKeyring(path)).tenants()).toEqual(['a', 'b', 'c'].flatMap(prefix => [0, 1, 2, 3].map(n => prefix + n)))
    expect(await readdir(folder)).toEqual(['thaw.keys'])
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  it('tell the loser of one name, who then has the winner’s tenant', async () => {
    const first = await createFileKeyring(path)
    const second = await fileKeyring(path)
    const results = await Promise.allSettled([first.createTenant('acme'), second.createTenant('acme')])
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(results.find(({ status }) => status === 'rejected')).toEqual({ status: 'rejected', reason: fails('CONFLICT') })
    expect(await first.sealer('function', 'acme')).toEqual(await second.sealer('function', 'acme'))
  })

  it('break the lock of a process that died, however many find it', async () => {
    const keyrings = [await createFileKeyring(path), ...(await Promise.all([1, 2, 3].map(() => fileKeyring(path))))]
    const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
    await once(child, 'exit')
    const place = `${hostname()} ${await readlink('/proc/self/ns/pid')}`
    await writeFile(`${path}.lock`, `0123456789abcdef\n${child.pid}\n${place}\n`)
    await Promise.all(keyrings.map((keyring, index) => keyring.createTenant(`t${index}`)))
    expect(await (await fileKeyring(path)).tenants()).toEqual(['t0', 't1', 't2', 't3'])
    expect(await readdir(folder)).toEqual(['thaw.keys'])
  })

  it('go to the file behind a symbolic link', async () => {
    await createFileKeyring(path)
    const link = join(folder, 'link')
    await symlink(path, link)
    await (await fileKeyring(link)).createTenant('acme')
    expect(await readlink(link)).toBe(path)
    expect(await (await fileKeyring(path)).tenants()).toEqual(['acme'])
  })

  it('leave the file alone when it is damaged', async () => {
    const keyring = await createFileKeyring(path)
    await writeFile(path, 'damaged')
    await expect(keyring.createTenant('acme')).rejects.toEqual(fails('BAD_FORMAT'))
    expect(await readFile(path, 'utf8')).toBe('damaged')
  })
})
