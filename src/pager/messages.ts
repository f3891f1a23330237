/** What the main thread and a pager's thread say to each other. Plain data; shared memory and ports in it are not copied. */
import type { ArenaMemory } from '../arena.ts'
import type { LineEnd } from '../engine/line.ts'
import type { FrontEndEvent, FrontEndSpec, PagedImage } from '../pager.ts'
import type { Failure } from '../util/failure.ts'

/** What a pager's thread begins with. Its descriptors are main's, which closes them when the thread has ended. */
export interface PagerInput {
  readonly arena: ArenaMemory
  readonly line: LineEnd
  /** Which the loop waits at. */
  readonly epollFd: number
  /** An eventfd that main rings when it has posted something. */
  readonly bellFd: number
  /** Of `OpenDescriptors`. */
  readonly descriptors: SharedArrayBuffer
  readonly spinMicroseconds: number | undefined
}

/** `number` is answered with what became of the request, once. */
export interface ToPager {
  readonly number: number
  readonly request: PagerRequest
}

/** Restores and front ends have numbers, which are never used again. */
export type PagerRequest =
  | { readonly kind: 'openRestore'; readonly restore: number; readonly deadlineMs: number; readonly images: readonly PagedImage[] }
  | { readonly kind: 'setImage'; readonly restore: number; readonly image: PagedImage }
  | { readonly kind: 'startFrontEnd'; readonly restore: number; readonly frontEnd: number; readonly spec: FrontEndSpec }
  | { readonly kind: 'endFrontEnd'; readonly frontEnd: number }
  | { readonly kind: 'endRestore'; readonly restore: number }
  | { readonly kind: 'stop' }

export type FromPager =
  | { readonly kind: 'done'; readonly number: number }
  | { readonly kind: 'failed'; readonly number: number; readonly failure: Failure }
  | { readonly kind: 'event'; readonly frontEnd: number; readonly event: FrontEndEvent }
