/**
 * A restore becomes a snapshot, whose parent is the one it came from: what the guest wrote since, and nothing else, is looked at.
 *
 * - Images that were served writable (FUSE, NBD) come from the overlay.
 * - Memory behind userfaultfd was written to by nobody but the VMM: it comes as the VMM's diff file, under which lie the pages that the guest gave back: they are zero in the child.
 * - Images that are named are taken whole, all others are the parent's.
 *
 * The guest has to be stopped: an overlay that is written to meanwhile fails the commit with CONFLICT, and nothing is published.
 */
import { DiffFile } from './changes/diff-file.ts'
import { layeredChanges } from './changes/layered.ts'
import type { ImageChanges } from './changes.ts'
import type { Layer } from './keys.ts'
import type { ImageSource, PushOptions, PushSpec } from './push.ts'

export interface CommitOptions extends PushOptions {
  /** The VMM's diff file of each image that was served by userfaultfd; of others that a VMM wrote to itself too. */
  readonly diffs?: Readonly<Record<string, string>> | undefined
  /** Images that are taken whole: the VMM's new state. */
  readonly images?: Readonly<Record<string, ImageSource>> | undefined
  /** Name of a tag, of the snapshot's tenant, to set once it is published. */
  readonly tag?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Default: the parent's. */
  readonly layer?: Layer | undefined
  /** Default: the parent's. */
  readonly tenant?: string | undefined
}

/** A child of the restore's snapshot; what it does not say is the snapshot's. */
export interface ChildSpec extends Pick<PushSpec, 'images' | 'labels'>, Pick<CommitOptions, 'layer' | 'tenant' | 'tag'> {}

/** How an image of the restore stands. */
export interface CommittedImage {
  readonly name: string
  /** What its overlay has: pages that were written, or those that were given back. */
  readonly changes: ImageChanges | undefined
  /** Its memory is the VMM's own: only a diff file tells what was written. */
  readonly isPrivate: boolean
}

/** Sources by image, of those that are not simply the parent's. The diff files are open until it is disposed of. */
export interface CommitSources extends AsyncDisposable {
  readonly images: Readonly<Record<string, ImageSource>>
}

/**
 * @throws RangeError if an image is named that there is not, named twice, or needs a diff file and has none; of a diff file what `DiffFile.open` throws
 */
export async function commitSources(
  images: readonly CommittedImage[],
  { diffs = {}, images: whole = {} }: CommitOptions,
): Promise<CommitSources> {
  checkNames(images, diffs, whole)
  const sources: Record<string, ImageSource> = { ...whole }
  const files: DiffFile[] = []
  const close = async (): Promise<void> => {
    for (const file of files) await file[Symbol.asyncDispose]()
  }
  try {
    for (const { name, changes } of images) {
      const path = diffs[name]
      if (path !== undefined) {
        const file = await DiffFile.open(path)
        files.push(file)
        sources[name] = { changes: changes === undefined ? file : layeredChanges(file, changes) }
      } else if (changes !== undefined && whole[name] === undefined) sources[name] = { changes }
    }
  } catch (error) {
    await close()
    throw error
  }
  return { images: sources, [Symbol.asyncDispose]: close }
}

function checkNames(
  images: readonly CommittedImage[],
  diffs: Readonly<Record<string, string>>,
  whole: Readonly<Record<string, ImageSource>>,
): void {
  const known = images.map(({ name }) => name)
  for (const name of Object.keys(diffs)) {
    if (!known.includes(name))
      throw new RangeError(
        `the snapshot has no image ${JSON.stringify(name)} that ${diffs[name]} could be a diff of: it has ${known.join(', ')}`,
      )
    if (Object.hasOwn(whole, name)) throw new RangeError(`image ${name} is named twice: as a diff and whole`)
  }
  for (const { name, isPrivate } of images) {
    if (!isPrivate || Object.hasOwn(diffs, name) || Object.hasOwn(whole, name)) continue
    throw new RangeError(
      `image ${name} was served by userfaultfd, and only the VMM knows what was written: stop it, have it write a diff snapshot, and give its file with --diff ${name}=FILE`,
    )
  }
}
