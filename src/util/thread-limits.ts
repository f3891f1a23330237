/**
 * What Node sets aside for each thread is set aside in full when it starts: 512 MiB of address space for compiled code alone, which counts towards RLIMIT_AS and
 * RLIMIT_DATA. Our threads compile a few MiB. With these limits one takes 30 MB of them in place of 540, and under `ulimit -v` or `-d` of some GB they can start at all: where they cannot,
 * Node ends the process.
 */
export const THREAD_LIMITS = { codeRangeSizeMb: 32 } as const
