/** What a push did that somebody should know, although it is no error. */
import type { PushedSnapshot } from '../push.ts'
import type { Root } from '../root.ts'
import { SEALING_PROFILE } from '../seal.ts'

/** What differs between the sealing profile of a root and of this process. */
export function profileWarning({ id, profile }: Root): string | undefined {
  if (profile.codec === SEALING_PROFILE.codec && profile.level === SEALING_PROFILE.level && profile.zstd === SEALING_PROFILE.zstd)
    return undefined
  const theirs = `${profile.codec} ${profile.zstd} at level ${profile.level}`
  const ours = `${SEALING_PROFILE.codec} ${SEALING_PROFILE.zstd} at level ${SEALING_PROFILE.level}`
  return `root ${id} was made with ${theirs}, this Node has ${ours}: chunks sealed here are not shared with those that are there`
}

export function primeWarning({ counts: { primedChunks, primeFailures } }: PushedSnapshot): string | undefined {
  if (primeFailures === 0) return undefined
  return `the L2 cache did not keep ${primeFailures} of ${primedChunks + primeFailures} objects; the store has them`
}
