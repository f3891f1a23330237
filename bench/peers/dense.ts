/**
 * A synthetic dense image for trial runs: no zero page, nothing twice, half of it compressible about as guest memory is, half not at all; equal for equal seeds.
 *
 * Stripes of 64 KiB alternate: random bytes, and words like those of a heap: zeros, words of a small vocabulary, pointers. zstd 1 gives 3.2 : 1 for the
 * second kind (a real guest: 3.2 to 3.4), 1.5 : 1 for the image.
 */
import { createCipheriv, createHash } from 'node:crypto'
import { open } from 'node:fs/promises'

const SEED = 'thaw dense image'
const STRIPE_BYTES = 64 * 1024
const BLOCK_BYTES = 16 * STRIPE_BYTES
const VOCABULARY_WORDS = 256
/** Of 256: how many words are zero, and how many are zero or of the vocabulary; the others are pointers. */
const ZEROS_BELOW = 96
const VOCABULARY_BELOW = 200

/** Writes one to a new file. */
export async function writeDenseImage(path: string, sizeBytes: number, seed: string = SEED): Promise<void> {
  await using file = await open(path, 'w')
  const random = randomStream(seed)
  const vocabulary = words(random(VOCABULARY_WORDS * 8)).slice()
  for (let at = 0; at < sizeBytes; at += BLOCK_BYTES) {
    const block = random(Math.min(BLOCK_BYTES, sizeBytes - at))
    for (let stripe = STRIPE_BYTES; stripe < block.length; stripe += 2 * STRIPE_BYTES) {
      likeHeap(block.subarray(stripe, stripe + STRIPE_BYTES), vocabulary)
    }
    await file.writeFile(block)
  }
}

/** AES in counter mode as a generator: the same bytes for the same seed, at a gigabyte a second. */
function randomStream(seed: string): (bytes: number) => Buffer {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16)
  const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16))
  const zeros = Buffer.alloc(BLOCK_BYTES)
  return bytes => cipher.update(zeros.subarray(0, bytes))
}

function words(bytes: Buffer): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

/** Turns random words of 64 bits into such as a heap holds; the bits of each decide what it becomes. */
function likeHeap(stripe: Buffer, vocabulary: Uint32Array): void {
  const halves = words(stripe)
  for (let at = 0; at < halves.length; at += 2) {
    const random = halves[at]!
    const kind = random & 0xff
    const word = 2 * ((random >>> 8) % VOCABULARY_WORDS)
    if (kind < ZEROS_BELOW) halves[at] = 0
    else if (kind < VOCABULARY_BELOW) halves[at] = vocabulary[word]!
    else halves[at] = random & 0x00ff_fff8
    halves[at + 1] = kind < ZEROS_BELOW ? 0 : kind < VOCABULARY_BELOW ? vocabulary[word + 1]! : 0x7f3a
  }
}
