/** What the protocol says of single requests: which are refused and with what, and how they are laid on pages. */
import { PAGE_BYTES } from '../../chunk.ts'
import { TRANSFER_BYTES_MAX } from '../../pager.ts'
import type { Agreement, ExportTerms } from './option-replies.ts'
import { COMMAND, COMMAND_FLAG, NBD_ERROR, PAYLOAD_BYTES_MAX } from './protocol.ts'
import type { Request } from './request.ts'

/** By command. Clients are known to set FUA where it means nothing. */
const FLAGS_ALLOWED: readonly number[] = [
  COMMAND_FLAG.fua | COMMAND_FLAG.dontFragment,
  COMMAND_FLAG.fua,
  COMMAND_FLAG.fua,
  COMMAND_FLAG.fua,
  COMMAND_FLAG.fua,
  COMMAND_FLAG.fua,
  COMMAND_FLAG.fua | COMMAND_FLAG.noHole | COMMAND_FLAG.fastZero,
  COMMAND_FLAG.fua | COMMAND_FLAG.requestOne,
]

/** Why a request cannot be done, of NBD_ERROR; `none` if it can. */
export function refusalOf(request: Request, { sizeBytes, isWritable }: ExportTerms, agreement: Agreement): number {
  const { command, flags, offset, left } = request
  if ((flags & ~(FLAGS_ALLOWED[command] ?? 0)) !== 0 || command >= FLAGS_ALLOWED.length) return NBD_ERROR.invalid
  const isChange = command === COMMAND.write || command === COMMAND.trim || command === COMMAND.writeZeroes
  if (isChange && !isWritable) return NBD_ERROR.permission
  if (command === COMMAND.flush) return NBD_ERROR.none
  if (offset + left > sizeBytes) return isChange && command !== COMMAND.trim ? NBD_ERROR.noSpace : NBD_ERROR.invalid
  return refusalWithinImage(request, agreement)
}

function refusalWithinImage({ command, flags, left }: Request, { hasStructuredReplies, hasAllocation }: Agreement): number {
  const has = (flag: number): boolean => (flags & flag) !== 0
  switch (command) {
    case COMMAND.read:
      if (left > PAYLOAD_BYTES_MAX || (has(COMMAND_FLAG.dontFragment) && !hasStructuredReplies)) return NBD_ERROR.invalid
      return has(COMMAND_FLAG.dontFragment) && left > TRANSFER_BYTES_MAX ? NBD_ERROR.overflow : NBD_ERROR.none
    case COMMAND.cache:
      return left > PAYLOAD_BYTES_MAX ? NBD_ERROR.overflow : NBD_ERROR.none
    case COMMAND.writeZeroes:
      // To take up room for zeros is to write them.
      return has(COMMAND_FLAG.noHole) && has(COMMAND_FLAG.fastZero) ? NBD_ERROR.unsupported : NBD_ERROR.none
    case COMMAND.blockStatus:
      return !hasAllocation || left === 0 ? NBD_ERROR.invalid : NBD_ERROR.none
    default:
      return NBD_ERROR.none
  }
}

/** Leaves of a TRIM the whole pages in it: a page that is given up in part takes up as much. */
export function alignTrim(request: Request, imageBytes: number): void {
  const end = request.offset + request.left
  const first = Math.ceil(request.offset / PAGE_BYTES) * PAGE_BYTES
  const last = end === imageBytes ? end : Math.floor(end / PAGE_BYTES) * PAGE_BYTES
  request.offset = first
  request.left = Math.max(0, last - first)
}

/** How much of a payload to write now, of which so much has come: all of its rest, or up to the end of a page, so that none is written twice. */
export function wholePages({ offset, left }: Request, available: number): number {
  const most = Math.min(available, TRANSFER_BYTES_MAX)
  if (most === left) return left
  return Math.max(0, Math.floor((offset + most) / PAGE_BYTES) * PAGE_BYTES - offset)
}
