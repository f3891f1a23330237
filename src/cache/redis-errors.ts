/** What servers and ioredis say, as errors of this cache; and which answers to a handshake mean that a server is not used. */
import { type ErrorCode, ThawError } from '../errors.ts'

/** `error` says why: one of the connection, or the reply to its handshake that made it end. */
export function notConnected(name: string, error: Error | undefined): ThawError {
  const why = error === undefined ? '' : `: ${textOf(error)}`
  return new ThawError(codeOf(error), `L2 node ${name} is not connected${why}`, { tier: 'l2', ...causeOf(error) })
}

/** What a server or ioredis said, as the error of this cache. */
export function asThawError(error: unknown, what: string): ThawError {
  if (error instanceof ThawError) return error
  return new ThawError(codeOf(error), `${what}: ${textOf(error)}`, { tier: 'l2', ...causeOf(error) })
}

function codeOf(error: unknown): ErrorCode {
  if (error instanceof ThawError) return error.code
  const text = textOf(error)
  if (/^OOM\b/.test(text)) return 'NO_SPACE'
  return /^(?:NOAUTH|WRONGPASS|NOPERM)\b|invalid password/.test(text) ? 'DENIED' : 'UNAVAILABLE'
}

/** What a server says to a password too when it takes no commands from anybody. */
const NOT_NOW = /^(?:LOADING|BUSY|MASTERDOWN|MISCONF)\b|max number of clients/

/**
 * What a server said to the handshake, as the reason why it is not used. ioredis would go on with a
 * server that wants no password though one is given, and with database 0 in place of the one that is
 * not there, and say so on stderr.
 */
export function refusalOf(command: string, error: Error): ThawError {
  const { message } = error
  if (command === 'auth') return new ThawError(NOT_NOW.test(message) ? 'UNAVAILABLE' : 'DENIED', adviceOf(message), { tier: 'l2' })
  if (command === 'select' && codeOf(error) !== 'DENIED')
    return new ThawError('UNSUPPORTED', `it does not have this database: ${message}`, { tier: 'l2' })
  // Without the word by which ioredis goes on.
  return new ThawError(codeOf(error), `it refuses ${command.toUpperCase()}: ${message.replace('NOPERM', 'no permission')}`, { tier: 'l2' })
}

/** Never the server's own text where ioredis acts on that. */
function adviceOf(message: string): string {
  if (/no password is set|without any password/.test(message)) return 'it wants no password, and one is given'
  if (message.includes('wrong number of arguments')) return 'it knows no users: give a password alone'
  return message
}

/** Why an independent server cannot be used, by what it says of itself; undefined: it can. */
export function misfitOf(info: string): ThawError | undefined {
  if (/^role:slave\b/m.test(info)) return new ThawError('UNSUPPORTED', 'it is a replica, which takes no writes', { tier: 'l2' })
  if (/^redis_mode:cluster\b/m.test(info))
    return new ThawError('UNSUPPORTED', 'it is a node of a cluster, which needs mode cluster', { tier: 'l2' })
  return undefined
}

/** A reply, if it is of the kind that its command has: what answers there can be anything. Throws an Error that says so. */
export function replyOf<T>(reply: unknown, isOne: (reply: unknown) => reply is T): T {
  if (isOne(reply)) return reply
  throw new Error('the reply is of another kind than this command has')
}

/** Node's error of several addresses has no message. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error.message !== '') return error.message
  return 'code' in error ? String(error.code) : error.name
}

/** The text alone: ioredis' errors carry the command's arguments, among them the password and half a megabyte of value. */
function causeOf(error: unknown): ErrorOptions {
  return error === undefined ? {} : { cause: new Error(textOf(error)) }
}
