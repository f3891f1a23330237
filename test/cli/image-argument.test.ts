import { describe, expect, it } from 'vitest'
import { UsageError } from '../../src/cli/exit.ts'
import { parseImage } from '../../src/cli/push.ts'
import { parseTag } from '../../src/cli/tag-argument.ts'

describe('parseImage', () => {
  it.each([
    ['memory=mem.img', { name: 'memory', kind: undefined, file: 'mem.img' }],
    ['rootfs:disk=a=b:c', { name: 'rootfs', kind: 'disk', file: 'a=b:c' }],
    ['x=-', { name: 'x', kind: undefined, file: '-' }],
    ['x=new\nline', { name: 'x', kind: undefined, file: 'new\nline' }],
  ])('%j', (text, image) => {
    expect(parseImage(text)).toEqual(image)
  })

  it.each(['memory', 'memory=', '=file', ':disk=file', 'x:=file', 'x:tape=file', 'x:disk:y=file', ''])('refuses %j', text => {
    expect(() => parseImage(text)).toThrow(UsageError)
  })
})

describe('parseTag', () => {
  it('takes the tenant from either, and not from both unless they agree', () => {
    expect(parseTag('resize:7', undefined)).toEqual({ tenant: undefined, name: 'resize:7' })
    expect(parseTag('resize:7', 'acme')).toEqual({ tenant: 'acme', name: 'resize:7' })
    expect(parseTag('acme//resize:7', undefined)).toEqual({ tenant: 'acme', name: 'resize:7' })
    expect(parseTag('acme//resize:7', 'acme')).toEqual({ tenant: 'acme', name: 'resize:7' })
    expect(() => parseTag('acme//resize:7', 'other')).toThrow(UsageError)
    expect(() => parseTag('acme//resize:7', undefined, { sameTenant: true })).toThrow(UsageError)
  })

  it.each(['', '0123abcd', 'UPPER', 'a//b//c', '//a', 'a b', '../x', 'a\nb', 'acme//'])('refuses %j', text => {
    expect(() => parseTag(text, undefined)).toThrow(RangeError)
  })
})
