/** What the main thread and a pager's thread say to each other. Plain data; shared memory and ports in it are not copied. */
import type { ArenaMemory } from '../arena.ts'
import type { LineEnd } from '../engine/line.ts'
import type { FrontEndEvent, FrontEndSpec, PagedImage } from '../pager.ts'
import type { Failure } from '../util/failure.ts'

/** What a pager's thread begins with. */
export interface PagerInput {
  readonly arena: ArenaMemory
  readonly line: LineEnd
  /** An eventfd that main rings when it has posted something. */
  readonly bellFd: number
  readonly spinMicroseconds: number | undefined
}

export type ToPager =
  | { readonly kind: 'restore'; readonly restore: number; readonly deadlineMs: number; readonly images: readonly PagedImage[] }
  | { readonly kind: 'image'; readonly restore: number; readonly image: PagedImage }
  | { readonly kind: 'frontEnd'; readonly call: number; readonly restore: number; readonly frontEnd: number; readonly spec: FrontEndSpec }
  | { readonly kind: 'endFrontEnd'; readonly call: number; readonly frontEnd: number }
  | { readonly kind: 'endRestore'; readonly call: number; readonly restore: number }
  | { readonly kind: 'stop'; readonly call: number }

export type FromPager =
  | { readonly kind: 'done'; readonly call: number }
  | { readonly kind: 'failed'; readonly call: number; readonly failure: Failure }
  | { readonly kind: 'event'; readonly frontEnd: number; readonly event: FrontEndEvent }
