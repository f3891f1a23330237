/** Wrapped data keys (FORMAT.md, section 7). */
import { ascii, fromBase64, fromHex, join } from './bytes.ts'
import { aesGcmOpen } from './crypto.ts'
import { asHex, asObject, asString, parseHashedDocument } from './documents.ts'
import { FormatError, refuse } from './errors.ts'

/** `document` is the object `keys/<id>`; the data key is opened with the first wrapping key that the caller has. */
export async function unwrapDataKey(
  document: Uint8Array,
  snapshotIdHex: string,
  unwrapKeys: ReadonlyMap<string, Uint8Array>,
): Promise<Uint8Array> {
  const what = `wrapped keys of ${snapshotIdHex}`
  const members = await parseHashedDocument(document, ['version', 'snapshot', 'keys'], what)
  refuse(asHex(members.snapshot, 64, `${what}: snapshot`) !== snapshotIdHex, `${what}: of another snapshot`)
  if (!Array.isArray(members.keys)) throw new FormatError('BAD_FORMAT', `${what}: keys are not an array`)

  // All entries are checked before any is used, so that what is refused does not hang on the keys one has.
  const entries = members.keys.map(item => checkEntry(item, what))
  for (const { key, wrapped } of entries) {
    const unwrapKey = unwrapKeys.get(key)
    if (unwrapKey === undefined) continue
    const additionalData = join(ascii('thaw-wrap-1'), fromHex(snapshotIdHex), ascii(key))
    return await aesGcmOpen(unwrapKey, wrapped.subarray(0, 12), additionalData, wrapped.subarray(12), what)
  }
  throw new FormatError('NO_KEY', `${what}: wrapped for ${entries.map(entry => entry.key).join(', ') || 'nobody'}`)
}

function checkEntry(item: unknown, what: string): { key: string; wrapped: Uint8Array } {
  const entry = asObject(item, `${what}: an entry`)
  refuse(Object.keys(entry).join() !== 'key,algorithm,wrapped', `${what}: other members of an entry than key, algorithm, wrapped`)
  refuse(entry.algorithm !== 'A256GCM', `${what}: an unknown algorithm`)
  const wrapped = fromBase64(asString(entry.wrapped, `${what}: wrapped`))
  refuse(wrapped.length !== 12 + 32 + 16, `${what}: a wrapped key of another length`)
  return { key: asHex(entry.key, 16, `${what}: key`), wrapped }
}
