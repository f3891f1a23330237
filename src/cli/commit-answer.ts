/**
 * The serving side of `thaw commit`: lines of JSON, the progress and then the result or the error. What is asked for comes over a socket that only this user can open.
 */
import type { CommitOptions, DiffBase, Layer, PushProgress, PushResult, Restore } from '../index.ts'
import type { Answer } from './announce.ts'
import { type Failure, failureOf } from './exit.ts'
import { plain } from './output.ts'

/** Paths are absolute. Names of layers are judged by the library. */
export interface CommitRequest {
  readonly diffs: Readonly<Record<string, string>>
  readonly diffBase?: DiffBase | undefined
  readonly images: Readonly<Record<string, string>>
  readonly labels: Readonly<Record<string, string>>
  readonly tag?: string | undefined
  readonly layer?: Layer | undefined
  readonly tenant?: string | undefined
  readonly prime?: boolean | undefined
}

export type CommitLine =
  | { readonly kind: 'progress'; readonly progress: PushProgress }
  | { readonly kind: 'result'; readonly result: PushResult }
  | { readonly kind: 'failure'; readonly failure: Failure }

export function commitPath(restore: string): `/${string}` {
  return `/restores/${restore}/commit`
}

export function commitAnswer(restore: Restore): Answer {
  return async function* (body, signal) {
    const { images, ...request }: CommitRequest = JSON.parse(body)
    const latest: { progress?: PushProgress } = {}
    const onProgress = (progress: PushProgress): void => {
      latest.progress = progress
    }
    const sources = Object.fromEntries(Object.entries(images).map(([name, path]) => [name, { path }]))
    const options: CommitOptions = { ...request, images: sources, signal, onProgress }
    let outcome: CommitLine | undefined
    const work = restore.commit(options).then(
      result => {
        outcome = { kind: 'result', result }
      },
      error => {
        outcome = { kind: 'failure', failure: failureOf(error) }
      },
    )
    while (outcome === undefined) {
      await Promise.race([work, pause()])
      if (outcome === undefined && latest.progress !== undefined) yield lineOf({ kind: 'progress', progress: latest.progress })
    }
    yield lineOf(outcome)
  }
}

const PROGRESS_INTERVAL_MS = 200

function pause(): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, PROGRESS_INTERVAL_MS).unref())
}

function lineOf(line: CommitLine): string {
  return `${JSON.stringify(line, plain)}\n`
}
