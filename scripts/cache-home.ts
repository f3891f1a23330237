/**
 * Where this project keeps what takes minutes to make and never changes: built programs and captured guests.
 *
 * One folder per user, not per clone: a fresh clone, as CI makes one each run, finds what an earlier one built. Everything in it can be
 * deleted at any time and is made again.
 */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'

/** `$THAW_CACHE_HOME`, else `$XDG_CACHE_HOME/thaw`, else `~/.cache/thaw`. An absolute path; the folder may not exist yet. */
export function cacheHome(): string {
  const { THAW_CACHE_HOME, XDG_CACHE_HOME } = process.env
  if (THAW_CACHE_HOME) return resolve(THAW_CACHE_HOME)
  return join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'thaw')
}
