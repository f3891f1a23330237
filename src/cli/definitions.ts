/** What definitions of commands have in common. */
import type { Layer } from '../index.ts'
import type { Invocation } from './invocation.ts'

/** Called when a command begins, with its name. */
export type Start = (command: string) => Invocation

/** Written out: the library's own list would bring the library with it. */
export const LAYERS: readonly Layer[] = ['os', 'runtime', 'function']

/** Text behind a command's help. */
export function examples(...lines: string[]): string {
  const title = lines.length === 1 ? 'Example:' : 'Examples:'
  return `\n${[title, ...lines.map(line => `  $ ${line}`)].join('\n')}\n\nOptions of all commands (--store, --keyring, --json, ...): thaw --help\n`
}

/** For options that may be given several times. */
export function collect(value: string, earlier: readonly string[] = []): string[] {
  return [...earlier, value]
}
