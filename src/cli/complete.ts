/**
 * Completion in shells: `thaw completions SHELL` prints a script that makes the shell call `thaw complete -- WORDS...`, which answers with what may follow.
 *
 * @bomb.sh/tab does both. It wants a program of its own to read the commands from, and to add these two to.
 */
import { Argument, type Command } from 'commander'

const SHELLS = ['bash', 'zsh', 'fish', 'powershell'] as const
const EXAMPLES = `
Examples:
  $ source <(thaw completions bash)
  $ thaw completions fish > ~/.config/fish/completions/thaw.fish
`

/** @param describe builds a program with all commands but these two */
export function defineCompletions(program: Command, describe: () => Command): void {
  const tab = async () => {
    const { default: tab } = await import('@bomb.sh/tab/commander')
    return tab(describe(), { completionCommandName: 'completions' })
  }
  program
    .command('completions')
    .description('print a completion script for a shell')
    .addArgument(new Argument('<shell>', 'the shell that is to source it').choices(SHELLS))
    .addHelpText('after', EXAMPLES)
    .action(async (shell: string) => (await tab()).setup('thaw', 'thaw', shell))
  program
    .command('complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: string[]) => (await tab()).parse(words))
}
