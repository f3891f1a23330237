/**
 * Makes `madvise(MADV_HUGEPAGE)` succeed and do nothing, in this thread and in what it executes: by a seccomp filter, the one means that a program which gives
 * the advice cannot undo. PR_SET_THP_DISABLE and the sysfs switch change what the kernel does with the advice in anonymous memory, not how it reads files ahead.
 *
 * Not a sandbox: every other call, other advice, and calls of another ABI (32 bits, x32) pass. They pass without running the filter, because the kernel keeps a bitmap
 * of calls that are always allowed (Linux 5.11). It cannot be taken off again.
 */
import { ThawError } from '../errors.ts'
import { ERRNO, type Native } from '../util/native.ts'
import { systemError } from '../util/system-error.ts'

/** AUDIT_ARCH_* (<linux/audit.h>) and the number of madvise (<asm/unistd.h>), by `process.arch`. */
const ABI: Readonly<Record<string, { readonly audit: number; readonly madvise: number }>> = {
  x64: { audit: 0xc000_003e, madvise: 28 },
  arm64: { audit: 0xc000_00b7, madvise: 233 },
}

const MADV_HUGEPAGE = 14

/** <linux/bpf_common.h>: load a word of struct seccomp_data; jump if equal; return. */
const LOAD = 0x20
const JUMP_IF_EQUAL = 0x15
const RETURN = 0x06
/** Offsets in struct seccomp_data (<linux/seccomp.h>). Of the third argument the low half: the kernel takes an int. Both architectures are little-endian. */
const NUMBER = 0
const ARCH = 4
const THIRD_ARGUMENT = 16 + 2 * 8
/** SECCOMP_RET_ERRNO with errno 0: the call is left out and returns 0. */
const RETURN_ZERO = 0x0005_0000
const ALLOW = 0x7fff_0000

const INSTRUCTION_BYTES = 8
const PR_SET_NO_NEW_PRIVS = 38
const SECCOMP_SET_MODE_FILTER = 1
/** Without it, kernels before 5.16 turn on mitigations meant for sandboxes, which slow the guest. */
const SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4

/** Code, jumps over so many instructions if true and if false, operand: struct sock_filter (<linux/filter.h>). */
type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, operand: number]

/**
 * Sets no_new_privs only where the kernel asks for it (without CAP_SYS_ADMIN): a program with file capabilities would not get them.
 * @throws UNSUPPORTED on other architectures, and where kernel or container allow no filter
 */
export function ignoreHugeAdvice(native: Native): void {
  const abi = ABI[process.arch]
  if (abi === undefined)
    throw new ThawError('UNSUPPORTED', `huge-page advice cannot be turned off on ${process.arch}, only on x64 and arm64`)
  const program = assemble(hugeAdviceFilter(abi))
  const header = Buffer.alloc(16)
  header.writeUInt16LE(program.length / INSTRUCTION_BYTES, 0)
  header.writeBigUInt64LE(BigInt(native.addressOf(program)), 8)
  const install = (): boolean => native.seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, header) === 0
  if (install()) return
  if (native.errno() === ERRNO.EACCES && native.prctl(PR_SET_NO_NEW_PRIVS, 1, 0) === 0 && install()) return
  const cause = systemError(native, 'seccomp')
  throw new ThawError('UNSUPPORTED', `huge-page advice cannot be turned off: no seccomp filter is allowed here: ${cause.code}`, { cause })
}

function hugeAdviceFilter({ audit, madvise }: { readonly audit: number; readonly madvise: number }): readonly Instruction[] {
  return [
    [LOAD, 0, 0, ARCH],
    [JUMP_IF_EQUAL, 0, 5, audit],
    [LOAD, 0, 0, NUMBER],
    [JUMP_IF_EQUAL, 0, 3, madvise],
    [LOAD, 0, 0, THIRD_ARGUMENT],
    [JUMP_IF_EQUAL, 0, 1, MADV_HUGEPAGE],
    [RETURN, 0, 0, RETURN_ZERO],
    [RETURN, 0, 0, ALLOW],
  ]
}

function assemble(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(instructions.length * INSTRUCTION_BYTES)
  for (const [index, [code, ifTrue, ifFalse, operand]] of instructions.entries()) {
    const at = index * INSTRUCTION_BYTES
    bytes.writeUInt16LE(code, at)
    bytes.writeUInt8(ifTrue, at + 2)
    bytes.writeUInt8(ifFalse, at + 3)
    bytes.writeUInt32LE(operand, at + 4)
  }
  return bytes
}
