/**
 * What happens in a restore, as it is told: with `--json` a document each, else a line on standard error.
 *
 * The first thing that is told of a restore is that it is ready: a VMM that is there before waits for that.
 */
import type { Restore, RestoreEvent } from '../index.ts'
import type { Output } from './output.ts'

/** Before it is ready; what comes then is not told. */
const HELD_MAX = 1000

export class RestoreEvents {
  readonly #output: Output
  #held: { readonly restore: Restore; readonly event: RestoreEvent }[] | undefined = []

  constructor(output: Output) {
    this.#output = output
  }

  take(restore: Restore, event: RestoreEvent): void {
    if (this.#held === undefined) this.#tell(restore, event)
    else if (this.#held.length < HELD_MAX) this.#held.push({ restore, event })
  }

  /** Tells what was held back, and from now on what happens at once. */
  release(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const { restore, event } of held) this.#tell(restore, event)
  }

  #tell({ id }: Restore, event: RestoreEvent): void {
    const { kind, frontEnd, image, path, ...rest } = event
    if (this.#output.json) this.#output.item({ event: kind, restore: id, frontEnd, image, path, ...rest })
    else if (BAD.includes(kind)) this.#output.warn(`${path}: ${wordsOf(event)}`)
    else this.#output.note(`${path}: ${wordsOf(event)}`)
  }
}

const BAD: readonly RestoreEvent['kind'][] = ['corrupt', 'unreadable', 'damaged', 'killed', 'guard-lost']

function wordsOf(event: RestoreEvent): string {
  switch (event.kind) {
    case 'connected':
      return `connected${processOf(event.pid)}`
    case 'disconnected':
      return `disconnected${processOf(event.pid)}`
    case 'refused':
      return `refused a client${processOf(event.pid)}: ${event.reason}`
    case 'corrupt':
      return `page ${event.page} of ${event.image} is not in the store as it was stored: \`thaw verify\` shows what else is bad`
    case 'unreadable':
      return `page ${event.page} of ${event.image} cannot be had: ${event.code ?? 'an unexpected failure'}`
    case 'damaged':
      return `${event.count} pages of ${event.image} from page ${event.page} on were written and are lost (${event.code ?? 'an unexpected failure'}): this restore cannot be committed any more`
    case 'killed':
      return `killed process ${event.pid}: ${event.reason}`
    case 'guard-lost':
      return `the guard is gone (${event.reason}): should this process be killed before there is another, a VMM may hang, and a mount stay`
    case 'guard-restored':
      return 'there is a guard again'
    case 'closed':
      return event.reason === 'closed' ? 'closed' : `closed: ${event.reason}`
  }
}

function processOf(pid: number | undefined): string {
  return pid === undefined ? '' : ` (process ${pid})`
}
