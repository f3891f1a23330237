/** Names and references, and the keys made of them. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  chunkKey,
  manifestKey,
  rootKey,
  seqOfState,
  seqOfTag,
  stateKey,
  statePrefix,
  tagKey,
  tagPrefix,
  wrappedKeysKey,
} from '../src/layout.ts'
import {
  checkImageName,
  checkLabel,
  checkTagName,
  checkTenantName,
  decodeTagName,
  encodeTagName,
  formatTagName,
  parseRef,
  TAG_NAME,
} from '../src/names.ts'
import { isKey } from '../src/store/object-key.ts'

const HOSTILE = ['', '.', '..', '../x', '/x', '-x', 'x\n', '\nx', 'x\0', 'x y', 'x\u202ey', 'é', 'x\\y', 'x%2fy']
const ID = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

describe('names', () => {
  it.each([
    ['image', checkImageName, ['memory', 'rootfs-2', 'A.b_c', 'x'.repeat(64)], ['a/b', 'x'.repeat(65)]],
    ['tenant', checkTenantName, ['acme', '42', 'a.b_c-d', 'constructor'], ['Acme', 'a/b', 'a:b', '_', 'x'.repeat(65)]],
    ['tag', checkTagName, ['python:3.11', 'a/b', 'resize:7', 'abc1234', 'x'.repeat(128), 'abcdefgh'], ['A', 'a//b', 'x'.repeat(129)]],
    ['label name', (name: string) => checkLabel(name, ''), ['a/b', 'Build.id'], ['a:b', 'x'.repeat(65)]],
  ])('of the kind %s', (_, check, good, bad) => {
    for (const name of good) expect(() => check(name)).not.toThrow()
    for (const name of [...bad, ...HOSTILE]) expect(() => check(name)).toThrow(RangeError)
  })

  it('show in messages as JSON', () => {
    expect(() => checkTagName('x\n\u001b[2J')).toThrow(expect.objectContaining({ message: expect.stringContaining('"x\\n\\u001b[2J"') }))
  })

  it('leave label values free but for control characters, broken text and length', () => {
    for (const value of ['', 'any text: é, 雪', 'x'.repeat(256)]) expect(() => checkLabel('k', value)).not.toThrow()
    for (const value of ['a\nb', '\u007f', '\u0085', '\ud800', 'é'.repeat(129)]) expect(() => checkLabel('k', value)).toThrow(RangeError)
  })

  it('of tags are not ids, nor the start of one', () => {
    for (const name of ['abcdef01', '0123456789', ID]) expect(() => checkTagName(name)).toThrow(RangeError)
  })

  it('of tags fit into a folder name', () => {
    expect(() => checkTagName(`a${':'.repeat(84)}`)).not.toThrow()
    expect(() => checkTagName(`a${':'.repeat(85)}`)).toThrow(RangeError)
  })
})

describe('a reference', () => {
  it('is an id, a prefix, a tag or the tag of a tenant', () => {
    expect(parseRef(ID)).toEqual({ kind: 'id', id: ID })
    expect(parseRef('e3b0c442')).toEqual({ kind: 'prefix', prefix: 'e3b0c442' })
    expect(parseRef('e3b0c44')).toEqual({ kind: 'tag', tenant: undefined, name: 'e3b0c44' })
    expect(parseRef('python:3.11')).toEqual({ kind: 'tag', tenant: undefined, name: 'python:3.11' })
    expect(parseRef('acme//a/b')).toEqual({ kind: 'tag', tenant: 'acme', name: 'a/b' })
  })

  it.each([...HOSTILE, 'E3B0C442', `${ID}0`.toUpperCase(), 'acme//', '//x', 'a//b//c', '_//x', 'acme//e3b0c442'])('is not %j', text => {
    expect(() => parseRef(text)).toThrow(RangeError)
  })

  it('to a tag is what formatting it gives', () => {
    fc.assert(
      fc.property(fc.option(fc.constantFrom('acme', 'b-2'), { nil: undefined }), fc.constantFrom('a/b', 'x:1'), (tenant, name) => {
        expect(parseRef(formatTagName({ tenant, name }))).toEqual({ kind: 'tag', tenant, name })
      }),
    )
  })
})

describe('keys', () => {
  const root = '5e3b1c0a9f8d7e6c'

  it('are those of docs/FORMAT.md', () => {
    expect(rootKey(root)).toBe('roots/5e3b1c0a9f8d7e6c/root.json')
    expect(stateKey(root, 1)).toBe('roots/5e3b1c0a9f8d7e6c/state/00000001')
    expect(chunkKey(root, '0a1b2c3d4e5f6071', ID)).toBe(`roots/${root}/chunks/0a1b2c3d4e5f6071/e3/${ID}`)
    expect(manifestKey(root, ID)).toBe(`roots/${root}/manifests/${ID}`)
    expect(wrappedKeysKey(root, ID)).toBe(`roots/${root}/keys/${ID}`)
    expect(tagKey({ tenant: 'acme', name: 'resize:7' }, 3)).toBe('tags/acme/resize%3A7/000000000003')
    expect(tagKey({ tenant: undefined, name: 'a/b' }, 12)).toBe('tags/_/a%2Fb/000000000012')
  })

  it('give their numbers back, and none for anything else', () => {
    const tag = { tenant: undefined, name: 'x' }
    expect(seqOfTag(tagKey(tag, 123), tagPrefix(tag))).toBe(123)
    expect(seqOfState(stateKey(root, 7), statePrefix(root))).toBe(7)
    for (const end of ['000000000000', '12', '00000000000x', '000000000001/a', '']) {
      expect(seqOfTag(tagPrefix(tag) + end, tagPrefix(tag))).toBeUndefined()
    }
  })

  it('have one segment for a tag, whatever its name', () => {
    fc.assert(
      fc.property(fc.stringMatching(TAG_NAME), name => {
        const segment = encodeTagName(name)
        expect(segment).toMatch(/^[a-z0-9._%AF23-]+$/)
        const allowed = !/^[0-9a-f]{8,64}$/.test(name) && !name.includes('//') && segment.length <= 255
        expect(decodeTagName(segment)).toBe(allowed ? name : undefined)
      }),
    )
    for (const segment of ['a%2fb', 'a/b', '%61', 'A', '..', 'e3b0c442', 'a%252F', 'a%2F%2Fb'])
      expect(decodeTagName(segment)).toBeUndefined()
  })

  it('are keys to every store', () => {
    expect(isKey(tagKey({ tenant: 'x'.repeat(64), name: `a${':'.repeat(84)}` }, 1))).toBe(true)
    expect(isKey(chunkKey(root, root, ID))).toBe(true)
  })
})
