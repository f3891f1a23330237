/** What a mount's two halves tell each other: plain data. */
import type { ErrorCode } from '../../errors.ts'
import type { DamagedPages, FrontEndEvent, FrontEndSpec } from '../../pager.ts'

/** How the files look. */
export interface FileLook {
  readonly uid: number
  readonly gid: number
  /** Permission bits of an image that can be written to, and of one that cannot. */
  readonly writableMode: number
  readonly readOnlyMode: number
  /** Of all files; what is written to gets later times. */
  readonly timeMs: number
}

/** Posted to the pager. */
export interface FuseSpec extends FrontEndSpec {
  readonly kind: 'fuse'
  /** /dev/fuse, mounted, non-blocking. Whoever opened it closes it. */
  readonly fd: number
  readonly look: FileLook
  /** Names of the images that can be written to through this mount. */
  readonly writable: readonly string[]
  /** Most bytes that the kernel reads beyond what is asked for. */
  readonly readAheadBytes: number
}

/** Posted by the pager. */
export type FuseEvent = FrontEndEvent &
  (
    | /** An image was opened, the first since it was mounted. */ { readonly kind: 'opened'; readonly pid: number }
    | /** Somebody got an error in place of bytes. Told of the first few of an image only. */ {
        readonly kind: 'unreadable'
        readonly image: string
        readonly page: number
        readonly code: ErrorCode | undefined
      }
    | /** Told of the first few of an image only. */ (DamagedPages & { readonly kind: 'damaged'; readonly image: string })
    | /** The kernel has let go: nobody can read any more. */ {
        readonly kind: 'unmounted'
        /** Somebody could write: it was taken off by force. */
        readonly inUse: boolean
      }
    | /** It is served no longer, and the kernel has not let go. */ { readonly kind: 'left'; readonly inUse: boolean }
    | /** A bug: nothing is answered any more. */ { readonly kind: 'broken'; readonly reason: string }
  )
