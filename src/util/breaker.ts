/**
 * A circuit breaker: after a few failures in a row nobody asks for a while, then one call goes as a probe. If the probe fails the wait doubles, if it succeeds
 * everybody may ask again.
 *
 * Our own, and not cockatiel's, because that one reads the machine's time: this one must also run in virtual time, by a `Clock`. It sets no timers, so there is
 * nothing to close.
 */
import type { Clock } from './clock.ts'

export interface BreakerOptions {
  readonly clock: Clock
  /** Failures in a row that open it. */
  readonly failuresMax?: number
  /** How long it stays open at first. */
  readonly waitFirstMs?: number
  readonly waitMaxMs?: number
}

/** Leave to make one call. Its outcome is reported by `succeeded`, `failed` or `abandoned`, exactly once. */
export type Pass = 'call' | 'probe'

export class Breaker {
  readonly #clock: Clock
  readonly #failuresMax: number
  readonly #waitFirstMs: number
  readonly #waitMaxMs: number
  #failures = 0
  #waitMs: number
  /** When the next probe may go; undefined: closed. */
  #probeAtMs: number | undefined
  #probing = false

  constructor({ clock, failuresMax = 3, waitFirstMs = 1_000, waitMaxMs = 30_000 }: BreakerOptions) {
    this.#clock = clock
    this.#failuresMax = failuresMax
    this.#waitFirstMs = waitFirstMs
    this.#waitMaxMs = waitMaxMs
    this.#waitMs = waitFirstMs
  }

  get isOpen(): boolean {
    return this.#probeAtMs !== undefined
  }

  /** Whether to make a call now; undefined: not yet. */
  enter(): Pass | undefined {
    if (this.#probeAtMs === undefined) return 'call'
    if (this.#probing || this.#clock.now() < this.#probeAtMs) return undefined
    this.#probing = true
    return 'probe'
  }

  /** A call that began before the breaker opened counts too: it shows that there is life. */
  succeeded(): void {
    this.#failures = 0
    this.#probeAtMs = undefined
    this.#probing = false
    this.#waitMs = this.#waitFirstMs
  }

  /** Returns whether this failure opened the breaker, or kept it open as the probe's. */
  failed(pass: Pass): boolean {
    if (pass === 'call' && (this.isOpen || ++this.#failures < this.#failuresMax)) return false
    // A probe whose breaker an earlier call has closed meanwhile is an ordinary failure, and its breaker closed at zero failures.
    if (pass === 'probe' && !this.#probing) return this.failed('call')
    this.#waitMs = pass === 'probe' ? Math.min(this.#waitMs * 2, this.#waitMaxMs) : this.#waitFirstMs
    this.#probeAtMs = this.#clock.now() + this.#waitMs
    this.#probing = false
    return true
  }

  /** The call came to nothing that says anything, because its caller gave up. The next may be the probe. */
  abandoned(pass: Pass): void {
    if (pass === 'probe') this.#probing = false
  }
}
