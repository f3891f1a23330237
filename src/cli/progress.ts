/**
 * The line that moves while a command works, on a terminal's standard error only: how far, how fast, how long to go, and what the command has to
 * say about the bytes.
 *
 * cli-progress draws it, and is loaded when the first report comes: a push that ends before has not paid for it.
 */
import type { SingleBar } from 'cli-progress'
import { formatBytes, formatDuration } from './format.ts'
import type { Output } from './output.ts'

export interface ProgressView {
  readonly doneBytes: number
  /** Undefined while nobody knows: then neither percentage nor time left is shown. */
  readonly totalBytes: number | undefined
  /** What else there is to say. */
  readonly text: string
}

const BAR_CELLS = 20
const REDRAWS_A_SECOND = 10
/** Reports from which the time left is estimated: the last ten seconds at ten a second. */
const ETA_REPORTS = 100

/** Shows reports of type T until it is disposed of. */
export class ProgressLine<T> implements Disposable {
  /** To be passed to the library; undefined where nobody watches, so that nobody counts. */
  readonly report: ((progress: T) => void) | undefined
  readonly #startedAt = performance.now()
  #bar: SingleBar | undefined
  #loading: Promise<void> | undefined
  #latest: ProgressView | undefined
  #ended = false

  constructor(output: Output, view: (progress: T) => ProgressView) {
    if (output.interactive) this.report = progress => this.#show(view(progress))
  }

  [Symbol.dispose](): void {
    this.#ended = true
    this.#bar?.stop()
  }

  #show(view: ProgressView): void {
    this.#latest = view
    if (this.#bar === undefined) {
      this.#loading ??= this.#start()
      return
    }
    this.#bar.setTotal(view.totalBytes ?? 0)
    this.#bar.update(view.doneBytes)
  }

  async #start(): Promise<void> {
    const { SingleBar } = await import('cli-progress')
    if (this.#ended) return
    this.#bar = new SingleBar({
      stream: process.stderr,
      fps: REDRAWS_A_SECOND,
      etaBuffer: ETA_REPORTS,
      emptyOnZero: true,
      clearOnComplete: true,
      // Interrupts are the program's: its handler stops the work, which ends this line.
      gracefulExit: false,
      linewrap: true,
      format: (_options, { eta }) => formatProgress(this.#latest!, { elapsedMs: performance.now() - this.#startedAt, etaSeconds: eta }),
    })
    this.#bar.start(this.#latest!.totalBytes ?? 0, this.#latest!.doneBytes)
  }
}

/** One line; `etaSeconds` as cli-progress estimates it: not a number or infinite until it knows. */
export function formatProgress(
  { doneBytes, totalBytes, text }: ProgressView,
  { elapsedMs, etaSeconds }: { readonly elapsedMs: number; readonly etaSeconds: number },
): string {
  const rate = `${formatBytes(elapsedMs > 0 ? (1000 * doneBytes) / elapsedMs : 0)}/s`
  const parts = totalBytes === undefined ? [formatBytes(doneBytes), rate] : [...extent(doneBytes, totalBytes), rate]
  if (totalBytes !== undefined && doneBytes < totalBytes && Number.isFinite(etaSeconds)) {
    parts.push(`${formatDuration(1000 * Math.ceil(etaSeconds))} left`)
  }
  return [...parts, text].filter(part => part !== '').join('  ')
}

function extent(doneBytes: number, totalBytes: number): string[] {
  const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes)
  const cells = Math.floor(share * BAR_CELLS)
  const bar = `${'█'.repeat(cells)}${'░'.repeat(BAR_CELLS - cells)}`
  return [bar, `${String(Math.floor(100 * share)).padStart(3)} %`, `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`]
}
