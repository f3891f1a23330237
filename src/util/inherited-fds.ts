/**
 * The descriptors above the standard streams with which this process was started: a tap device, a vhost, a socket of systemd. Node marks the first of them close-on-exec
 * before any of our code runs, and so its own: the mark does not tell them apart.
 *
 * So they are told apart by what they are. Node's own are event polls, eventfds, io_urings, pipes of which it has both ends (and which no standard stream is), /dev/null, and the terminal of its standard
 * streams, opened anew. What is inherited and looks like one of these is taken for Node's: nobody hands such a thing to a program.
 *
 * Only for a process that has opened nothing itself, as `thaw exec` and the guard are when they begin.
 */
import { readdirSync, readlinkSync } from 'node:fs'

const FOLDER = '/proc/self/fd'
const FIRST = 3
const NODE_OWN = /^anon_inode:\[(eventpoll|eventfd|io_uring)\]$|^\/dev\/null$/

/** In ascending order. */
export function inheritedFds(): readonly number[] {
  const targets = new Map(readdirSync(FOLDER).map(name => [Number(name), targetOf(name)]))
  const ofStreams = [...targets].filter(([fd]) => fd < FIRST).map(([, target]) => target)
  const above = [...targets].filter(([fd]) => fd >= FIRST)
  const isNodeOwn = (target: string): boolean => {
    if (ofStreams.includes(target)) return target.startsWith('/dev/')
    return NODE_OWN.test(target) || (target.startsWith('pipe:') && above.filter(([, other]) => other === target).length > 1)
  }
  const inherited = above.filter(([, target]) => target !== undefined && !isNodeOwn(target))
  return inherited.map(([fd]) => fd).sort((a, b) => a - b)
}

/** Undefined if it is closed by now, as the one is that the folder was read by. */
function targetOf(name: string): string | undefined {
  try {
    return readlinkSync(`${FOLDER}/${name}`)
  } catch {
    return undefined
  }
}
