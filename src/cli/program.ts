/**
 * The program as commander knows it: the options that all commands take, and the help. The commands themselves are in `commands.ts`.
 */
import { readFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import { L2_MODES } from './cache-settings.ts'
import { defineCommands } from './commands.ts'
import { defineCompletions } from './complete.ts'
import { collect, type Start } from './definitions.ts'

const EVERYWHERE = `
All commands take these options. Without them THAW_STORE, THAW_KEYRING,
THAW_CACHE_DIR, THAW_L2 and so on count, then the config file (THAW_CONFIG,
./thaw.json, /etc/thaw/thaw.json), where they are store, keyring, cacheDir, l2.
A REF is an id, at least 8 digits of its start, a tag, or TENANT//TAG.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted.

Begin with:
  $ thaw init
  $ thaw push --layer function --tag resize:7 memory=mem.img state=vm.state
  $ thaw mount resize:7 /run/vm1
`

/** @param start called when a command begins, with its name */
export function buildProgram(packageJson: URL, start: Start): Command {
  const program = bareProgram().version(versionIn(packageJson), '-V, --version', 'print the version')
  defineCommands(program, start)
  defineCompletions(program, () => {
    const described = bareProgram()
    defineCommands(described, start)
    return described
  })
  return program
}

/** Errors are thrown and shown by the caller, as all others are. */
function bareProgram(): Command {
  const program = new Command('thaw')
    .description('Snapshots of microVMs: stored once, sealed, shared where they are equal.')
    .exitOverride()
    .configureOutput({ outputError: () => undefined })
    .configureHelp({ subcommandTerm: command => command.name() })
    .showSuggestionAfterError(true)
    .helpCommand(false)
    .usage('COMMAND [options]')
    .addHelpText('after', EVERYWHERE)
  program
    .option('--store <url>', 'file:///path, a path, or s3://bucket/prefix')
    .option('--keyring <file>', 'the keys to seal and open with')
    .addOption(new Option('--no-keyring', 'use no keys, though a keyring is set').hideHelp())
    .option('--config <file>', 'where all of these may be named')
    .option('--json', 'answer with JSON, errors too')
    .option('-q, --quiet', 'only the answer, and errors')
    .option('-v, --verbose', 'more figures, and what caused an error')
    .helpOption('-h, --help', 'print this; COMMAND --help prints more')
  defineCacheOptions(program)
  return program
}

/** Sizes, modes and addresses are judged in cache-settings.ts, wherever they come from. */
function defineCacheOptions(program: Command): void {
  program
    .optionsGroup('Caches:')
    .option('--cache-dir <dir>', 'keep sealed chunks on this disk')
    .option('--cache-disk <size>', 'at least so many bytes may lie there; a new folder: 10G')
    .option(
      '--cache-memory <size>',
      'opened chunks in memory, where pages are served; default 512M, or a quarter of what the process may use',
    )
    .option('--l2 <url>', 'redis://[user:password@]host:port, rediss:// for TLS, or none; repeatable', collect)
    .addOption(new Option('--l2-mode <mode>', 'what several nodes are; default for one: standalone').choices(L2_MODES))
    .option('--l2-erasure', 'any 4 of 5 shards are enough')
    .option('--l2-password-file <file>', 'also THAW_L2_PASSWORD')
    .option('--l2-ca <file>', 'CA of the nodes, as PEM')
    .option('--metrics <host:port>', 'serve figures to Prometheus while the command runs')
    .option('--state-dir <dir>', 'where `thaw ps` and `thaw stats` find running commands')
    .optionsGroup('Options:')
}

function versionIn(packageJson: URL): string {
  const { version } = JSON.parse(readFileSync(packageJson, 'utf8'))
  return String(version)
}
