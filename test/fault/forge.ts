/**
 * Manifests that no thaw would write, by someone who holds a data key: a publisher gone bad. Each lies under the id of its bytes with the data key wrapped for
 * the platform, so nothing but their content is wrong.
 */
import { createCipheriv } from 'node:crypto'
import { Packr } from 'msgpackr'
import { encodeWrappedKeys } from '../../src/keys/wrapped.ts'
import { chunkKey, manifestKey, wrappedKeysKey } from '../../src/layout.ts'
import { manifestKey as sealingKey } from '../../src/manifest/encode.ts'
import { snapshotIdOf } from '../../src/manifest.ts'
import { ascii, hex, join, PAGE, u32 } from '../reader-from-format/bytes.ts'
import { type SealedChunk, sealFromPayload } from '../reader-from-format/index.ts'
import type { InMemory } from './memory-store.ts'

const DATA_KEY = Buffer.alloc(32, 0x5a)
const DOMAIN = '0123456789abcdef'
const packr = new Packr({ useRecords: false, mapsAsObjects: false, variableMapSize: true })

/** Fields of both parts, by key (docs/FORMAT.md section 6). */
export interface Fields {
  readonly clear: ReadonlyMap<number, unknown>
  readonly sealed: ReadonlyMap<number, unknown>
}

/** Four pages in one chunk. */
export const PAGES: Buffer = Buffer.concat([1, 2, 3, 4].map(byte => Buffer.alloc(PAGE, byte)))

/** The fields of an honest manifest of `PAGES` as image `memory`, whose chunk is put in its place. */
export async function honestFields({ objects, root }: InMemory): Promise<Fields> {
  const { id, key, sealed }: SealedChunk = await sealFromPayload(join(Uint8Array.of(0), u32(PAGES.length), PAGES), DATA_KEY, DATA_KEY)
  await objects.put(chunkKey(root, DOMAIN, hex(id)), sealed)
  return {
    clear: new Map<number, unknown>([
      [1, 1],
      [2, 0],
      [5, [[Buffer.alloc(0), 0, DOMAIN, 1]]],
      [6, Buffer.from(id)],
      [7, column(varint(sealed.length))],
    ]),
    sealed: new Map<number, unknown>([
      [2, 1_700_000_000_000],
      [3, []],
      [4, Buffer.alloc(16)],
      [5, Buffer.from(key)],
      [6, column([3])],
      [7, [honestImage()]],
    ]),
  }
}

/** Name, kind, size, run count, runs, range states, range digests; the only run is of four pages of chunk 0. */
export function honestImage(): unknown[] {
  return ['memory', 0, PAGES.length, 1, column([3, 3, 0]), column([2]), Buffer.alloc(0)]
}

/** An image that is nothing but a hole. */
export function hole(name: string, pages: number, ranges: Uint8Array): unknown[] {
  return [name, 0, pages * PAGE, 1, column([0, ...varint(pages - 1)]), ranges, Buffer.alloc(0)]
}

/** A column that is not compressed. */
export function column(raw: readonly number[]): Buffer {
  return Buffer.from(join(Uint8Array.of(0), u32(raw.length), Uint8Array.from(raw)))
}

/** A column that says it is of `rawBytes`, and decompresses to `bytes` zeros. */
export function zeroColumn(rawBytes: number, bytes: number): Buffer {
  return Buffer.from(join(Uint8Array.of(1), u32(rawBytes), zeroFrame(bytes)))
}

/** A zstd frame (RFC 8878) of zeros: blocks of one byte, repeated 128 KiB times each. 1 GiB is 32 KiB. */
function zeroFrame(bytes: number): Uint8Array {
  const blockBytes = 128 * 1024
  const blocks: Uint8Array[] = []
  for (let left = bytes; left > 0; left -= blockBytes) {
    const header = (left <= blockBytes ? 1 : 0) | (1 << 1) | (Math.min(left, blockBytes) << 3)
    blocks.push(u32(header))
  }
  // No content size, a window of 1 MiB; the fourth byte of each `u32` is the zero that its block repeats.
  return join(u32(0xfd2fb528), Uint8Array.of(0, 10 << 3), ...blocks)
}

export function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value % 0x80) | 0x80, ...varint(Math.floor(value / 0x80))]
}

/** The bytes of both parts, before they are put together. */
export function partsOf({ clear, sealed }: Fields): { clear: Buffer; sealed: Buffer } {
  const pack = (fields: ReadonlyMap<number, unknown>): Buffer =>
    packr.pack(new Map([...fields].sort(([a], [b]) => a - b).map(([key, value]) => [key, withIntegers(value)])))
  return { clear: pack(clear), sealed: pack(sealed) }
}

/** msgpackr writes numbers from 2³² on as floats, unless they are bigints. */
function withIntegers(value: unknown): unknown {
  if (typeof value === 'number') return value < 2 ** 32 ? value : BigInt(value)
  return Array.isArray(value) ? value.map(withIntegers) : value
}

export function frame({ clear, sealed }: { readonly clear: Uint8Array; readonly sealed: Uint8Array }): Buffer {
  const front = join(ascii('THAWMAN1'), u32(clear.length), u32(sealed.length + 16), clear)
  const cipher = createCipheriv('aes-256-gcm', sealingKey(DATA_KEY), Buffer.alloc(12)).setAAD(front)
  return Buffer.concat([front, cipher.update(sealed), cipher.final(), cipher.getAuthTag()])
}

/** Puts a manifest under its id, with its key; resolves to the id. */
export async function plant({ objects, keyring, root }: InMemory, manifest: Uint8Array): Promise<string> {
  const snapshotId = snapshotIdOf(manifest)
  const id = snapshotId.toString('hex')
  const wrapped = await keyring.wrap(DATA_KEY, snapshotId, undefined)
  await objects.put(wrappedKeysKey(root, id), encodeWrappedKeys(snapshotId, [wrapped]))
  await objects.put(manifestKey(root, id), manifest)
  return id
}
