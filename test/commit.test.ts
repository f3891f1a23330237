/** Commits without a guest: who may, and what becomes of images that are named and not named. With guests: test/integration. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { PAGE_BYTES } from '../src/chunk.ts'
import { openStore } from '../src/index.ts'
import { codeOfAsync } from './code-of.ts'
import { pieces, randomImage, type SmallStore, smallStore } from './small-store.ts'

let small: SmallStore
let parent: string
const memory = randomImage(200)
const state = randomImage(3)

beforeAll(async () => {
  small = await smallStore()
  const images = { memory: { stream: pieces(memory) }, state: { stream: pieces(state) } }
  ;({ id: parent } = await small.store.push({ layer: 'function', tenant: 'acme', images }))
})
afterAll(async () => await small[Symbol.asyncDispose]())

const newState = { state: { stream: pieces(Buffer.alloc(PAGE_BYTES, 7)) } }

it('a commit is a child of the snapshot, with its layer, its tenant and its other images', async () => {
  await using snapshot = await small.store.open(parent)
  await using restore = await snapshot.restore()
  const committed = await restore.commit({ images: newState, tag: 'told', labels: { by: 'test' } })
  expect(committed).toMatchObject({ parent, layer: 'function', tenant: 'acme' })
  await using child = await small.store.open('acme//told')
  expect(child.id).toBe(committed.id)
  expect(child.labels).toEqual(new Map([['by', 'test']]))
  expect(await child.image('memory').read(0, memory.length)).toEqual(new Uint8Array(memory))
  expect(await child.image('state').read(0, PAGE_BYTES)).toEqual(new Uint8Array(PAGE_BYTES).fill(7))
})

it('a worker commits under a secret of its own, and names nothing', async () => {
  const keyring = await small.keyring.exportKeyring(join(small.dir, 'worker.keys'), 'worker', { tenants: ['acme'] })
  await using store = await openStore(small.url, { keyring })
  await using snapshot = await store.open(parent)
  await using restore = await snapshot.restore()
  const images = () => ({ state: { stream: pieces(Buffer.alloc(PAGE_BYTES, 8)) } })
  const first = await restore.commit({ images: images() })
  const second = await restore.commit({ images: images() })
  expect(second.counts.ownBytes).toBe(PAGE_BYTES)
  expect(await codeOfAsync(() => restore.commit({ images: images(), tag: 'mine' }))).toBe('WRONG_KEY')
  for (const { id } of [first, second]) {
    expect((await small.store.verify(id)).bad).toEqual([])
    await using child = await small.store.open(id)
    expect(await child.image('state').read(0, PAGE_BYTES)).toEqual(new Uint8Array(PAGE_BYTES).fill(8))
  }
})

it.each([
  ['an image that is not there', { diffs: { nothing: '/dev/null' } }],
  ['an image that is named twice', { diffs: { state: '/dev/null' }, images: newState }],
])('%s is refused', async (_, options) => {
  await using snapshot = await small.store.open(parent)
  await using restore = await snapshot.restore()
  await expect(restore.commit(options)).rejects.toThrow(RangeError)
})

it('ids that cannot be are refused, and a closed restore commits nothing', async () => {
  await using snapshot = await small.store.open(parent)
  await expect(snapshot.restore({ id: 'a/b' })).rejects.toThrow(RangeError)
  const restore = await snapshot.restore({ id: 'mine_1' })
  expect(restore.id).toBe('mine_1')
  expect(restore.random).toHaveLength(64)
  await snapshot.close()
  expect(await codeOfAsync(() => restore.commit())).toBe('CLOSED')
})
