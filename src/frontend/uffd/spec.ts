/** What the two halves of the userfaultfd front end say to each other. Plain data. */
import type { ErrorCode } from '../../errors.ts'
import type { FrontEndEvent, FrontEndSpec } from '../../pager.ts'
import type { SocketFile } from '../socket.ts'

/** What main has the pager serve. */
export interface UffdSpec extends FrontEndSpec {
  readonly kind: 'uffd'
  readonly image: string
  /** A listening socket, non-blocking. Main's to close, once the pager has said `vmm` (it does not use it any more) or has let go of the front end. */
  readonly listener: number
  /** The socket's file, which goes away when the VMM has come. */
  readonly file: SocketFile
  readonly handshakeTimeoutMs: number
  /** Pages behind a faulting one that are installed with it, if they lie in the same chunk. */
  readonly neighbours: number
  /** Runs of zero pages that need no pager, largest first: pairs of first page and count. */
  readonly zeroRuns: Uint32Array
}

/** What the pager tells main. */
export type UffdEvent =
  | /** A client was turned away. `killed`: it had handed over a userfaultfd, and would have waited for ever. */ (FrontEndEvent & {
      readonly kind: 'refused'
      readonly pid: number
      readonly reason: string
      readonly killed: boolean
    })
  | /** A VMM is served. Nobody is listened to any more. */ (FrontEndEvent & {
      readonly kind: 'vmm'
      readonly pid: number
      /** Main's own, to close. */
      readonly pidfd: number
      /** Main's own, to close, for the guard to hold: the kernel gives zeros for missing pages once nobody has it open. */
      readonly userfaultfd: number
    })
  | /** A page could not be had; `killed` follows. */ (FrontEndEvent & {
      readonly kind: 'unreadable'
      readonly page: number
      readonly code: ErrorCode | undefined
    })
  | (FrontEndEvent & { readonly kind: 'killed'; readonly pid: number; readonly reason: string })
  | /** The VMM is gone, whatever ended it. */ (FrontEndEvent & { readonly kind: 'exited'; readonly pid: number })
  | /** Nobody can be served any more: a bug. */ (FrontEndEvent & { readonly kind: 'broken'; readonly reason: string })
