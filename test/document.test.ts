/** The one form of a document: what was written is read, and nothing else is. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DOCUMENT_BYTES_MAX, type DocumentSchema, decodeDocument, decodeLine, encodeDocument, encodeLine } from '../src/document.ts'
import { isThawError } from '../src/errors.ts'
import { fromBase64, fromHex, toBase64, toHex } from '../src/util/encoding.ts'

interface Sample {
  readonly id: string
  readonly count: number
  readonly at: string
  readonly flag: boolean
  readonly bytes: Uint8Array
  readonly items: readonly string[]
  readonly notes: ReadonlyMap<string, string>
}

const SCHEMA: DocumentSchema<Sample> = {
  encode: ({ id, count, at, flag, bytes, items, notes }) => ({
    version: 1,
    id,
    count,
    at,
    flag,
    bytes: toBase64(bytes),
    items: items.map(name => ({ name })),
    notes: Object.fromEntries(notes),
  }),
  decode: members => {
    members.version(1)
    const notes = members.object('notes')
    return {
      id: members.text('id', /^[0-9a-f]{16}$/),
      count: members.integer('count', 0, 100),
      at: members.time('at'),
      flag: members.boolean('flag'),
      bytes: members.base64('bytes', 4),
      items: members.list('items').map(item => item.text('name', /^\w+$/)),
      notes: new Map(notes.names(/^\w+$/).map(name => [name, notes.text(name, /^/)])),
    }
  },
}

const SAMPLE: Sample = {
  id: '0123456789abcdef',
  count: 7,
  at: '2026-11-21T08:00:00.000Z',
  flag: true,
  bytes: Uint8Array.of(1, 2, 3, 255),
  items: ['a', 'b'],
  notes: new Map([['constructor', 'a name like any other']]),
}

const BODY =
  '{"version":1,"id":"0123456789abcdef","count":7,"at":"2026-11-21T08:00:00.000Z","flag":true,"bytes":"AQID/w==","items":[{"name":"a"},{"name":"b"}],"notes":{"constructor":"a name like any other"}}'

/** A body with a right checksum: what a writer of another opinion would store. */
function checked(body: string): Uint8Array {
  const sha256 = createHash('sha256').update(body).digest('hex')
  return Buffer.from(`${body.slice(0, -1)},"sha256":"${sha256}"}\n`)
}

function codeOf(read: () => unknown): string {
  try {
    read()
  } catch (error) {
    return isThawError(error) ? error.code : String(error)
  }
  return 'accepted'
}

const decode = (bytes: Uint8Array) => decodeDocument(SCHEMA, bytes, 'sample')

describe('a document', () => {
  it('is one line in the order of the format, closed by its checksum', () => {
    const bytes = encodeDocument(SCHEMA, SAMPLE)
    expect(Buffer.from(bytes)).toEqual(checked(BODY))
    expect(decode(bytes)).toEqual(SAMPLE)
  })

  it('is refused with any one byte changed, whatever to', () => {
    const bytes = encodeDocument(SCHEMA, SAMPLE)
    for (const at of bytes.keys()) {
      for (const flip of [0x01, 0x20, 0x80, 0xff]) {
        const damaged = Uint8Array.from(bytes)
        damaged[at]! ^= flip
        expect(['CORRUPT', 'BAD_FORMAT']).toContain(codeOf(() => decode(damaged)))
      }
    }
  })

  it('is refused cut short or with bytes behind', () => {
    const bytes = encodeDocument(SCHEMA, SAMPLE)
    for (const at of bytes.keys()) expect(['CORRUPT', 'BAD_FORMAT']).toContain(codeOf(() => decode(bytes.subarray(0, at))))
    expect(codeOf(() => decode(Buffer.concat([bytes, Buffer.from('\n')])))).toBe('BAD_FORMAT')
  })

  it('tells damage from what it does not know', () => {
    const damaged = Buffer.from(encodeDocument(SCHEMA, SAMPLE))
    damaged.write('9', damaged.indexOf('"count":') + '"count":'.length)
    expect(codeOf(() => decode(damaged))).toBe('CORRUPT')
    expect(codeOf(() => decode(checked(BODY.replace('"version":1', '"version":2'))))).toBe('BAD_FORMAT')
  })

  it.each([
    ['an unknown member', BODY.replace('"flag"', '"other":1,"flag"')],
    ['an unknown member deep inside', BODY.replace('{"name":"b"}', '{"name":"b","x":1}')],
    ['a missing member', BODY.replace('"count":7,', '')],
    ['a member twice', BODY.replace('"count":7', '"count":6,"count":7')],
    ['another order', BODY.replace('"count":7,"at":"2026-11-21T08:00:00.000Z"', '"at":"2026-11-21T08:00:00.000Z","count":7')],
    ['white space', BODY.replace('"count":7', '"count": 7')],
    ['a number written otherwise', BODY.replace('"count":7', '"count":7.0')],
    ['a number out of bounds', BODY.replace('"count":7', '"count":101')],
    ['a fraction', BODY.replace('"count":7', '"count":7.5')],
    ['a string written otherwise', BODY.replace('"a"', '"\\u0061"')],
    ['upper-case hex', BODY.replace('abcdef', 'ABCDEF')],
    ['base64 with stray bits', BODY.replace('AQID/w==', 'AQID/x==')],
    ['base64 without padding', BODY.replace('AQID/w==', 'AQID/w')],
    ['base64 of another length', BODY.replace('AQID/w==', 'AQID')],
    ['a time that is none', BODY.replace('11-21T', '13-41T')],
    ['a day that is none', BODY.replace('11-21T', '02-31T')],
    ['a time in seconds', BODY.replace('.000Z', 'Z')],
    ['a time elsewhere', BODY.replace('.000Z', '.000+01:00')],
    ['a deep array', `{"version":1,"id":${'['.repeat(30_000)}${']'.repeat(30_000)}}`],
    ['an object in place of a list', BODY.replace('[{"name":"a"},{"name":"b"}]', '{}')],
    ['a prototype', BODY.replace('"notes":{', '"__proto__":{"count":7},"notes":{')],
  ])('is BAD_FORMAT with %s, its checksum right', (_, body) => {
    expect(codeOf(() => decode(checked(body)))).toBe('BAD_FORMAT')
  })

  it('is at most 64 KiB, written or read', () => {
    const large = { ...SAMPLE, notes: new Map([['n', 'x'.repeat(DOCUMENT_BYTES_MAX)]]) }
    expect(() => encodeDocument(SCHEMA, large)).toThrow(RangeError)
    expect(codeOf(() => decode(new Uint8Array(DOCUMENT_BYTES_MAX + 1)))).toBe('BAD_FORMAT')
  })

  it('never fails in another way, whatever the bytes', () => {
    const hostile = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.json().map(checked),
      fc.jsonValue().map(value => Buffer.from(`${JSON.stringify(value)}\n`)),
    )
    fc.assert(
      fc.property(hostile, bytes => {
        expect(['CORRUPT', 'BAD_FORMAT']).toContain(codeOf(() => decode(bytes)))
        expect(codeOf(() => decodeLine(SCHEMA, bytes, 'sample'))).toBe('BAD_FORMAT')
      }),
    )
  })

  it('shows no values in its errors', () => {
    for (const body of [BODY.replace('abcdef', 'secret'), BODY.replace('"id"', 'secret')]) {
      expect(() => decode(checked(body))).toThrow(expect.objectContaining({ message: expect.not.stringContaining('secret') }))
    }
  })
})

describe('a line without checksum', () => {
  it('is read back, and refused in any other form', () => {
    const bytes = encodeLine(SCHEMA, SAMPLE)
    expect(Buffer.from(bytes).toString()).toBe(`${BODY}\n`)
    expect(decodeLine(SCHEMA, bytes, 'sample')).toEqual(SAMPLE)
    for (const text of ['null\n', '[]\n', '1\n', BODY, `${BODY}\n\n`, ` ${BODY}\n`, `\ufeff${BODY}\n`]) {
      expect(codeOf(() => decodeLine(SCHEMA, Buffer.from(text), 'sample'))).toBe('BAD_FORMAT')
    }
  })
})

describe('hex and base64', () => {
  it('give back what they were given, in memory of its own', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 70 }), bytes => {
        expect(fromHex(toHex(bytes))).toEqual(bytes)
        expect(fromBase64(toBase64(bytes))).toEqual(bytes)
        expect(fromHex(toHex(bytes))?.buffer.byteLength).toBe(bytes.length)
      }),
    )
  })

  it('decode one form only', () => {
    for (const text of ['A0', 'a', '0x', 'a0\n', ' a0']) expect(fromHex(text)).toBeUndefined()
    for (const text of ['AA', 'AA=', 'AB==', 'AA==\n', '-_==', 'A']) expect(fromBase64(text)).toBeUndefined()
  })
})
