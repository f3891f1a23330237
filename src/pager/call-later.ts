/**
 * Calls back somebody who waited. The thread serves others too: what a callback throws is the end of
 * its own front end, and of nothing else.
 */
import type { CalledLater } from '../pager.ts'

export function callLater(who: CalledLater, call: () => void): void {
  try {
    call()
  } catch (error) {
    who.onBroken(error)
  }
}
