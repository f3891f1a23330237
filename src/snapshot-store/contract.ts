/**
 * What a store is asked, and what it answers: options and results of `openStore` and of the methods of `SnapshotStore`. Plain data.
 */
import type { ThawError } from '../errors.ts'
import type { Location } from '../find.ts'
import type { OutlineFigures } from '../inspect.ts'
import type { Keyring } from '../keys.ts'
import type { ImageKind } from '../manifest.ts'
import type { TagName } from '../names.ts'
import type { Cache } from '../open-cache.ts'
import type { PushedSnapshot, PushSpec } from '../push.ts'
import type { CallOptions } from '../store.ts'

export interface OpenOptions extends CallOptions {
  /** Without one, only what needs no key can be done: list, inspect and verify by the cleartext. */
  readonly keyring?: Keyring | undefined
  /** What reads go through; the caller's to close, after the store. Default: one of the store's own, with 16 MiB of memory and no other tier. */
  readonly cache?: Cache | undefined
  /** Refuse to push with another zstd than the root's profile names, where the default is to warn: such chunks share nothing. */
  readonly requireProfile?: boolean | undefined
}

/** A snapshot to push, and how it is named. */
export interface StorePushSpec extends PushSpec {
  /** REF of the snapshot this one was taken from. */
  readonly parent?: string | undefined
  /** Name of a tag, of `tenant`, to set once the snapshot is published. */
  readonly tag?: string | undefined
}

export interface PushResult extends PushedSnapshot {
  readonly tag: TagListing | undefined
  /** For people: what worked, but not as it should. */
  readonly warnings: readonly string[]
  readonly durationMs: number
}

export interface TagListing extends TagName {
  readonly seq: number
  readonly snapshot: string
  readonly root: string
  /** RFC 3339. */
  readonly at: string
}

export interface ListOptions extends CallOptions {
  /** Told of each snapshot whose manifest or keys are damaged; the listing goes on. */
  readonly onBad?: ((location: Location, error: ThawError) => void) | undefined
}

export interface TagOptions extends CallOptions {
  /** Only if the tag does not exist. */
  readonly ifAbsent?: boolean | undefined
  /** Only if the tag names this snapshot now: its full id. */
  readonly expect?: string | undefined
}

export interface SnapshotSummary extends OutlineFigures {
  readonly tags: readonly TagName[]
  /** Undefined if the keyring cannot open the snapshot. */
  readonly details:
    | {
        readonly tenant: string | undefined
        readonly createdAt: Date
        readonly labels: ReadonlyMap<string, string>
        readonly images: readonly { readonly name: string; readonly kind: ImageKind; readonly sizeBytes: number }[]
      }
    | undefined
}
