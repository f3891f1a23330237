/**
 * What is in a mount: a folder with a regular file for every image. It never changes but for what is written to the files; so the kernel is told to remember names for long,
 * those that are not there too, and attributes unless a file can be written to.
 *
 * Encodes names and attributes into replies. Knows nothing of requests that wait.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ServedImage } from '../../pager.ts'
import { ForgottenPages } from './forgotten.ts'
import { ATTR, ATTR_OUT, DIRENT, DIRENT_BYTES, DT_DIR, DT_REG, ENTRY_OUT, ROOT_NODE, S_IFDIR, S_IFREG, STATFS_OUT } from './protocol.ts'
import type { FileLook } from './spec.ts'

const WORD = 2 ** 32
/** A year: as good as for ever. */
const LONG_SECONDS = 365 * 24 * 3600
/** Times of a file that is written to through a mapping change without the kernel's asking; so do those of one that another front end writes to. */
const WRITABLE_SECONDS = 0
/** st_blocks counts these. */
const BLOCK_BYTES = 512
const FOLDER_MODE = 0o555
const NAME_BYTES_MAX = 255

/** A file. */
export interface FileNode {
  readonly image: ServedImage
  readonly number: number
  readonly isWritable: boolean
  mtimeMs: number
  /** Handles by which it can be written to; mappings keep theirs open. */
  writers: number
  readonly forgotten: ForgottenPages
}

interface Entry {
  readonly name: Buffer
  readonly node: number
  readonly type: number
}

export class Tree {
  readonly #look: FileLook
  readonly #files: readonly FileNode[]
  readonly #byName: ReadonlyMap<string, FileNode>
  readonly #entries: readonly Entry[]

  constructor(images: ReadonlyMap<string, ServedImage>, look: FileLook, writable: readonly string[]) {
    this.#look = look
    this.#files = [...images.values()].map((image, index) => ({
      image,
      number: ROOT_NODE + 1 + index,
      isWritable: image.isWritable && writable.includes(image.name),
      mtimeMs: look.timeMs,
      writers: 0,
      forgotten: new ForgottenPages(image.sizeBytes),
    }))
    this.#byName = new Map(this.#files.map(file => [file.image.name, file]))
    const own = { node: ROOT_NODE, type: DT_DIR }
    const files = this.#files.map(({ image, number }) => ({ name: Buffer.from(image.name), node: number, type: DT_REG }))
    this.#entries = [{ ...own, name: Buffer.from('.') }, { ...own, name: Buffer.from('..') }, ...files]
  }

  file(node: number): FileNode | undefined {
    return this.#files[node - ROOT_NODE - 1]
  }

  get hasWriters(): boolean {
    return this.#files.some(({ writers }) => writers > 0)
  }

  named(name: string): FileNode | undefined {
    return this.#byName.get(name)
  }

  modeOf({ isWritable }: FileNode): number {
    return isWritable ? this.#look.writableMode : this.#look.readOnlyMode
  }

  get uid(): number {
    return this.#look.uid
  }

  get gid(): number {
    return this.#look.gid
  }

  /** struct fuse_entry_out. Without a file: that name is not there, and need not be asked for again. */
  encodeEntry(words: Uint32Array, file: FileNode | undefined): void {
    words[ENTRY_OUT.entryValid] = LONG_SECONDS
    if (file === undefined) return
    words[ENTRY_OUT.node] = file.number
    words[ENTRY_OUT.attrValid] = validSeconds(file)
    this.#encodeFile(words, ENTRY_OUT.attr, file)
  }

  /** struct fuse_attr_out of a file, or of the folder. */
  encodeAttributes(words: Uint32Array, file: FileNode | undefined): void {
    words[ATTR_OUT.valid] = file === undefined ? LONG_SECONDS : validSeconds(file)
    if (file === undefined) this.#encodeFolder(words, ATTR_OUT.attr)
    else this.#encodeFile(words, ATTR_OUT.attr, file)
  }

  #encodeFile(words: Uint32Array, at: number, file: FileNode): void {
    const { image, number, mtimeMs } = file
    put64(words, at + ATTR.ino, number)
    put64(words, at + ATTR.size, image.sizeBytes)
    put64(words, at + ATTR.blocks, blockPages(image) * (PAGE_BYTES / BLOCK_BYTES))
    words[at + ATTR.mode] = S_IFREG | this.modeOf(file)
    words[at + ATTR.nlink] = 1
    this.#encodeOwner(words, at, mtimeMs)
  }

  #encodeFolder(words: Uint32Array, at: number): void {
    put64(words, at + ATTR.ino, ROOT_NODE)
    words[at + ATTR.mode] = S_IFDIR | FOLDER_MODE
    words[at + ATTR.nlink] = 2
    this.#encodeOwner(words, at, this.#look.timeMs)
  }

  #encodeOwner(words: Uint32Array, at: number, mtimeMs: number): void {
    const seconds = Math.floor(mtimeMs / 1000)
    const nanoseconds = (mtimeMs - seconds * 1000) * 1e6
    for (const field of [ATTR.atime, ATTR.mtime, ATTR.ctime]) put64(words, at + field, seconds)
    words.fill(nanoseconds, at + ATTR.nanoseconds, at + ATTR.nanoseconds + 3)
    words[at + ATTR.uid] = this.#look.uid
    words[at + ATTR.gid] = this.#look.gid
    words[at + ATTR.blockSize] = PAGE_BYTES
  }

  /** struct fuse_statfs_out: everything is in use. */
  encodeFileSystem(words: Uint32Array): void {
    const pages = this.#files.reduce((sum, { image }) => sum + image.pageCount, 0)
    put64(words, STATFS_OUT.blocks, pages)
    put64(words, STATFS_OUT.files, this.#files.length + 1)
    words[STATFS_OUT.blockSize] = PAGE_BYTES
    words[STATFS_OUT.nameLength] = NAME_BYTES_MAX
    words[STATFS_OUT.fragmentSize] = PAGE_BYTES
  }

  /**
   * Entries of the folder from the `first` on, as many as fit.
   * @param words over the same memory as `body` @returns how many bytes they are
   */
  encodeEntries(words: Uint32Array, body: Uint8Array, first: number, sizeMax: number): number {
    let at = 0
    for (let index = first; index < this.#entries.length; index++) {
      const { name, node, type } = this.#entries[index]!
      const sizeBytes = DIRENT_BYTES + Math.ceil(name.length / 8) * 8
      if (at + sizeBytes > sizeMax) break
      const word = at / 4
      put64(words, word + DIRENT.ino, node)
      put64(words, word + DIRENT.next, index + 1)
      words[word + DIRENT.nameLength] = name.length
      words[word + DIRENT.type] = type
      body.set(name, at + DIRENT_BYTES)
      at += sizeBytes
    }
    return at
  }
}

/** A number below 2⁵³ as two words. */
export function put64(words: Uint32Array, at: number, value: number): void {
  words[at] = value % WORD
  words[at + 1] = value / WORD
}

/** Two words as a number: exact below 2⁵³, which every offset within an image is. */
export function get64(words: Uint32Array, at: number): number {
  return words[at]! + words[at + 1]! * WORD
}

function validSeconds({ image }: FileNode): number {
  return image.isWritable ? WRITABLE_SECONDS : LONG_SECONDS
}

/** Of an image that can be written to no hole is told, so all of it has blocks. */
function blockPages({ isWritable, pageCount, dataPages }: ServedImage): number {
  return isWritable ? pageCount : dataPages
}
