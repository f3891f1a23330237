/** A store in a directory, where keys are paths (FORMAT.md, section 2). */
import { readdir, readFile } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'
import type { Files, List } from './store.ts'

export interface Folder {
  files: Files
  list: List
}

export function readFolder(path: string): Folder {
  return {
    async files(key) {
      try {
        return await readFile(join(path, key))
      } catch (error) {
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
        throw error
      }
    },
    async list(prefix) {
      const entries = await readdir(path, { recursive: true, withFileTypes: true })
      const files = entries.filter(entry => entry.isFile())
      const keys = files.map(({ parentPath, name }) => relative(path, join(parentPath, name)).replaceAll(sep, '/'))
      return keys.filter(key => key.startsWith(prefix))
    },
  }
}
