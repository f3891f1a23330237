/** Addresses of L2 nodes, and options that cannot be. */
import { describe, expect, it } from 'vitest'
import { openRedisCache, type RedisCacheOptions } from '../../src/cache/redis.ts'
import { parseRedisUrl } from '../../src/cache/redis-url.ts'
import { codeOfAsync } from '../code-of.ts'

const PLAIN = { username: undefined, password: undefined, db: 0, tls: false }

describe('the URL of an L2 node', () => {
  it.each([
    ['redis://cache', { ...PLAIN, name: 'cache:6379', host: 'cache', port: 6379 }],
    ['redis://cache:7000/', { ...PLAIN, name: 'cache:7000', host: 'cache', port: 7000 }],
    ['rediss://cache:7000/3', { ...PLAIN, name: 'cache:7000', host: 'cache', port: 7000, db: 3, tls: true }],
    ['redis://[::1]:7000', { ...PLAIN, name: '[::1]:7000', host: '::1', port: 7000 }],
    ['redis://:p%40ss@h:1', { ...PLAIN, name: 'h:1', host: 'h', port: 1, password: 'p@ss' }],
    ['redis://me:secret@h:1', { ...PLAIN, name: 'h:1', host: 'h', port: 1, username: 'me', password: 'secret' }],
  ])('%s', (text, address) => {
    expect(parseRedisUrl(text)).toEqual(address)
  })

  it.each([
    'cache:6379',
    'http://u:secret@cache',
    'redis://',
    'redis://u:secret@cache:0',
    'redis://u:secret@cache:99999',
    'redis://u:secret@cache/one',
    'redis://u:secret@cache/1/2',
    'redis://u:secret@cache?db=1',
    'redis://u:secret%@cache',
  ])('is not %s, which is said without the password', text => {
    expect(() => parseRedisUrl(text)).toThrow(TypeError)
    expect(() => parseRedisUrl(text)).not.toThrow('secret')
  })

  it.each([
    'redis://u:7391/x@cache',
    'redis://u:7391?x@cache',
    'redis://u:7391#x@cache',
    'redis://u:x@7391/x@cache',
    'redis://u:x@7391:0/@cache',
  ])('is not %s, which is said without a part of the password', text => {
    expect(() => parseRedisUrl(text)).toThrow(TypeError)
    expect(() => parseRedisUrl(text)).not.toThrow('7391')
  })
})

const urls = (count: number): string[] => Array.from({ length: count }, (_, number) => `redis://127.0.0.1:${number + 1}`)

describe('an L2 cache is not', () => {
  it.each<[string, RedisCacheOptions, string]>([
    ['of no node', { urls: [] }, 'TypeError'],
    ['of two nodes without a mode', { urls: urls(2) }, 'TypeError'],
    ['erasure-coded by itself', { urls: urls(1), erasure: true }, 'TypeError'],
    ['erasure-coded on four nodes', { urls: urls(4), mode: 'shards', erasure: true }, 'TypeError'],
    ['on one node twice', { urls: ['redis://a', 'redis://a:6379'], mode: 'shards' }, 'TypeError'],
    ['a cluster of two minds about TLS', { urls: ['redis://a', 'rediss://b'], mode: 'cluster' }, 'TypeError'],
    ['a database of a cluster', { urls: ['redis://a/1'], mode: 'cluster' }, 'TypeError'],
    ['with two passwords', { urls: urls(1), password: 'a', passwordFile: 'b' }, 'TypeError'],
    ['kept for no time', { urls: urls(1), ttlSeconds: 0 }, 'RangeError'],
    ['asked for no time', { urls: urls(1), timeoutMs: Number.NaN }, 'RangeError'],
    ['with a password file that is not there', { urls: urls(1), passwordFile: '/nowhere/at/all' }, 'NOT_FOUND'],
    ['with a CA that is not there', { urls: urls(1), caFile: '/nowhere/at/all' }, 'NOT_FOUND'],
  ])('%s', async (_, options, code) => {
    expect(await codeOfAsync(() => openRedisCache(options))).toBe(code)
  })
})
