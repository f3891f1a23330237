/**
 * Diff files that were given for a commit of a restore and are in none yet, by image and oldest first. What an
 * earlier one has, a later one lacks: to write a diff begins the next, whatever became of it. So only the oldest
 * can be committed. All that were given count, also for a commit that was refused before it looked at them.
 */
import { stat } from 'node:fs/promises'
import { diffIdentity } from '../changes/diff-file.ts'
import type { CommitOptions } from '../commit.ts'

type Given = Pick<CommitOptions, 'diffs' | 'diffBase' | 'images'>

export class GivenDiffs {
  readonly #byImage = new Map<string, string[]>()

  /** What is not there, or has another size than the image, was given by mistake. */
  async note(images: readonly { readonly name: string; readonly sizeBytes: number }[], { diffs = {} }: Given): Promise<void> {
    for (const { name, sizeBytes } of images) {
      if (!Object.hasOwn(diffs, name)) continue
      const stats = await stat(diffs[name]!).catch(() => undefined)
      if (!stats?.isFile() || stats.size !== sizeBytes) continue
      const given = this.#byImage.get(name) ?? []
      const identity = diffIdentity(stats)
      if (!given.includes(identity)) this.#byImage.set(name, [...given, identity])
    }
  }

  /** @throws RangeError if an earlier one is missing */
  check(identities: ReadonlyMap<string, string>, { diffBase }: Given): void {
    if (diffBase === 'snapshot') return
    for (const [name, identity] of identities) {
      const [oldest = identity] = this.#byImage.get(name) ?? []
      if (oldest === identity) continue
      throw new RangeError(
        `image ${name}: an earlier diff was given and is in no commit: give that again, or one that begins at the snapshot (diffBase, --diff-base), or take the image whole`,
      )
    }
  }

  committed({ diffs = {}, diffBase, images = {} }: Given): void {
    for (const name of Object.keys(images)) this.#byImage.delete(name)
    for (const name of Object.keys(diffs)) {
      const [, ...later] = this.#byImage.get(name) ?? []
      this.#byImage.set(name, diffBase === 'snapshot' ? [] : later)
    }
  }
}
