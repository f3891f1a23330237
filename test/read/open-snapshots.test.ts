/** One snapshot that is open several times. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ChunkColumns } from '../../src/engine/chunk-table.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import type { EngineStore, HeldSnapshot } from '../../src/engine.ts'
import { wrappedKeysKey } from '../../src/layout.ts'
import type { SnapshotStore } from '../../src/snapshot-store.ts'
import type { ObjectStore } from '../../src/store.ts'
import { codeOfAsync } from '../code-of.ts'
import { openThrough, type PushedImage, pushedImage } from '../fault/read-path.ts'
import { patchedStore } from '../patched-store.ts'

let pushed: PushedImage

beforeAll(async () => {
  pushed = await pushedImage(8)
})
afterAll(() => pushed[Symbol.asyncDispose]())

/** An engine that writes down what it holds. */
class WatchedEngine extends LocalEngine {
  readonly held: HeldSnapshot[] = []
  released = 0
  /** Holding takes as long as this. */
  holds: Promise<void> = Promise.resolve()

  constructor() {
    super({ memoryBytes: 0, caches: [] })
  }

  override async openStore(objects: ObjectStore): Promise<EngineStore> {
    const store = await super.openStore(objects)
    const hold = store.hold.bind(store)
    store.hold = async (columns: ChunkColumns, ...rest) => {
      const held = await hold(columns, ...rest)
      const release = held.release.bind(held)
      held.release = () => {
        this.released++
        release()
      }
      this.held.push(held)
      await this.holds
      return held
    }
    return store
  }
}

/** Opens the store, and counts what is read of it by the name of the object. */
async function open(objects: ObjectStore = pushed.objects) {
  const engine = new WatchedEngine()
  const reads: string[] = []
  const counted = patchedStore(objects, {
    get: (key, options) => {
      reads.push(key)
      return objects.get(key, options)
    },
  })
  const store = await openThrough(counted, pushed.keyring, engine)
  const countOf = (part: string): number => reads.filter(key => key.includes(part)).length
  const close = async (): Promise<void> => {
    await store.close()
    await engine.close()
  }
  return { store, engine, countOf, [Symbol.asyncDispose]: close }
}

const isRight = async (snapshot: Awaited<ReturnType<SnapshotStore['open']>>): Promise<boolean> =>
  pushed.image.equals(await snapshot.image('memory').read(0, pushed.image.length))

describe('a snapshot that is open several times', () => {
  it('is read and held once, and given back with the last', async () => {
    await using opened = await open()
    const { store, engine, countOf } = opened
    const [first, second] = await Promise.all([store.open(pushed.id), store.open(pushed.id)])
    const third = await store.open(pushed.id)
    expect(countOf('/manifests/')).toBe(1)
    expect(engine.held).toHaveLength(1)
    expect(third.image('memory').share()).toEqual(first.image('memory').share())
    expect(third.image('memory').share().starts.buffer).toBe(first.image('memory').share().starts.buffer)
    await first.close()
    await first.close()
    await second.close()
    expect(engine.released).toBe(0)
    expect(await codeOfAsync(() => first.image('memory').read(0, 1))).toBe('CLOSED')
    expect(await isRight(third)).toBe(true)
    await third.close()
    expect(engine.released).toBe(1)
    const again = await store.open(pushed.id)
    expect(await isRight(again)).toBe(true)
    expect(engine.held).toHaveLength(2)
  })

  it('is not opened again by whoever may not any more', async () => {
    let isGone = false
    const keysKey = wrappedKeysKey(pushed.root, pushed.id)
    const objects = patchedStore(pushed.objects, {
      get: (key, options) => pushed.objects.get(isGone && key === keysKey ? `${key}-gone` : key, options),
    })
    await using opened = await open(objects)
    const { store, countOf } = opened
    const snapshot = await store.open(pushed.id)
    await (await store.open(pushed.id)).close()
    expect(countOf('/keys/')).toBe(2)
    isGone = true
    expect(await codeOfAsync(() => store.open(pushed.id))).toBe('NOT_FOUND')
    expect(await isRight(snapshot)).toBe(true)
  })

  it('is held by nobody when all who opened it went away meanwhile', async () => {
    await using opened = await open()
    const { store, engine } = opened
    const goOn = Promise.withResolvers<void>()
    engine.holds = goOn.promise
    const controllers = [new AbortController(), new AbortController()]
    const opens = controllers.map(({ signal }) => codeOfAsync(() => store.open(pushed.id, { signal })))
    await expect.poll(() => engine.held.length).toBe(1)
    for (const controller of controllers) controller.abort(new RangeError('gone'))
    expect(await Promise.all(opens)).toEqual(['RangeError', 'RangeError'])
    goOn.resolve()
    await expect.poll(() => engine.released).toBe(1)
    expect(await isRight(await store.open(pushed.id))).toBe(true)
  })

  it('lends each restore a handle, and takes it back', async () => {
    await using opened = await open()
    const { store, engine } = opened
    const snapshot = await store.open(pushed.id)
    const handles: HeldSnapshot[] = []
    const { lend } = engine.held[0]!
    engine.held[0]!.lend = async owner => {
      const lent = await lend.call(engine.held[0], owner)
      handles.push(lent)
      return lent
    }
    const restore = await snapshot.restore({ id: 'r1' })
    expect(await codeOfAsync(() => snapshot.restore({ id: '-' }))).toBe('RangeError')
    const open2 = await snapshot.restore()
    expect(handles).toHaveLength(3)
    await restore.close()
    const [first, refused, last] = handles
    expect(await codeOfAsync(() => first!.want(0))).toBe('CLOSED')
    expect(await codeOfAsync(() => refused!.want(0))).toBe('CLOSED')
    engine.arena.unpin((await last!.want(0)).slot)
    await snapshot.close()
    expect(await codeOfAsync(() => last!.want(0))).toBe('CLOSED')
    await open2.close()
  })
})
