/** What a commit takes of each image: from where, and over what. */
import { DiffFile } from '../changes/diff-file.ts'
import { layeredChanges } from '../changes/layered.ts'
import type { ImageChanges } from '../changes.ts'
import type { CommitOptions } from '../commit.ts'
import type { ImageSource } from '../push.ts'

/** How an image stands when a commit begins. */
export interface CommittedImage {
  readonly name: string
  /** What its overlay has that is to be in the child: pages that were written, or those that were given back. */
  readonly changes: ImageChanges | undefined
  /** Whether the overlay holds what was written to it. */
  readonly isServedWritable: boolean
  /** Its memory is the VMM's own: only a diff file tells what was written. */
  readonly isPrivate: boolean
  /** It was taken whole by the commit that this one is a child of. */
  readonly wasWhole: boolean
}

/** Sources by image, of those that are not simply the parent's. The diff files are open until it is disposed of. */
export interface CommitSources extends AsyncDisposable {
  readonly images: Readonly<Record<string, ImageSource>>
  /** Of the diff files, by image. */
  readonly identities: ReadonlyMap<string, string>
}

/**
 * @throws RangeError if an image is named that there is not, named twice, needs to be named and is not, or if its two sources do not go together; of a diff file what `DiffFile.open`
 * throws
 */
export async function commitSources(images: readonly CommittedImage[], options: CommitOptions): Promise<CommitSources> {
  const { diffs = {}, images: whole = {} } = options
  checkNames(images, diffs, whole)
  for (const image of images) if (options.diffBase === 'last-commit') checkOverLastCommit(image, options)
  const sources: Record<string, ImageSource> = { ...whole }
  const files = new Map<string, DiffFile>()
  const close = async (): Promise<void> => {
    for (const file of files.values()) await file.close()
  }
  try {
    for (const { name, changes } of images) {
      const path = diffs[name]
      if (path !== undefined) {
        const file = await DiffFile.open(path)
        files.set(name, file)
        sources[name] = { changes: changes === undefined ? file : layeredChanges(file, changes) }
      } else if (changes !== undefined && whole[name] === undefined) sources[name] = { changes }
    }
  } catch (error) {
    await close()
    throw error
  }
  const identities = new Map([...files].map(([name, { identity }]) => [name, identity]))
  return { images: sources, identities, [Symbol.asyncDispose]: close }
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
      `only the VMM knows what was written to image ${name}: stop it, have it write a diff snapshot, and give its file with --diff ${name}=FILE`,
    )
  }
}

/** The overlay is of what the guest wrote to the restore's snapshot. Over a commit of that it is right only if all that the commit has of the image came from the overlay too. */
function checkOverLastCommit(
  { name, changes, isServedWritable, wasWhole }: CommittedImage,
  { diffs = {}, images = {} }: CommitOptions,
): void {
  if (!isServedWritable || changes === undefined || Object.hasOwn(images, name)) return
  if (wasWhole) throw new RangeError(`image ${name} was taken whole by the last commit: name it again, or commit diffs since the snapshot`)
  if (!Object.hasOwn(diffs, name) || isEmpty(changes.stretches())) return
  throw new RangeError(`image ${name} was written to both through a front end and by the VMM itself: its diff has to be since the snapshot`)
}

function isEmpty(stretches: Iterable<unknown>): boolean {
  for (const _ of stretches) return false
  return true
}
