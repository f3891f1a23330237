/**
 * What the owner and its guard say to each other. Requests are JSON, one a message, over the socket whose closing means that the owner is gone; a process comes as a pidfd with
 * its message. Each is answered by an i32 over a pipe of Node's own, which its event loop can wait for: 0, or an errno. The first answer, before any request, is the guard's
 * readiness. One request at a time, so that the socket's short queue is never full.
 *
 * `id` is the owner's. A watch with an id that the guard has replaces it.
 */

export type GuardRequest =
  | { readonly kind: 'process'; readonly id: number; readonly pid: number }
  /** `present`: ids of the mounts that were at this path before, and are not ours to take off. */
  | { readonly kind: 'mount'; readonly id: number; readonly path: string; readonly present: readonly number[] }
  /** Comes with a descriptor, which is kept open. */
  | { readonly kind: 'descriptor'; readonly id: number }
  | { readonly kind: 'release'; readonly id: number }
  /** Lets go of everything, and ends. */
  | { readonly kind: 'goodbye' }

/** The guard's ends: descriptors that it inherits under these numbers. */
export const REQUEST_FD = 3
export const ANSWER_FD = 4

/** Room for a path of 4,096 bytes, each escaped. */
export const REQUEST_BYTES_MAX: number = 64 * 1024
export const ANSWER_BYTES = 4
