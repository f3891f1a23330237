/**
 * Every command: its arguments, its options, an example. What a command does is in the module of its name, loaded when it runs: a command pays for what it uses.
 */
import { Argument, type Command, InvalidArgumentError, Option } from 'commander'
import type { CacheTier } from '../index.ts'
import type { TierFlags } from './cache.ts'
import { collect, examples, LAYERS, type Start } from './definitions.ts'
import type { ExportFlags, NewKeyFlags } from './key.ts'
import type { PushFlags } from './push.ts'
import { defineRestores } from './restore-commands.ts'
import type { TagFlags } from './tag.ts'

/** Written out: the library's own list would bring the library with it. */
const CACHE_TIERS: readonly CacheTier[] = ['disk', 'l2']

export function defineCommands(program: Command, start: Start): void {
  program.commandsGroup('Begin:')
  defineInit(program, start)
  program.commandsGroup('Snapshots:')
  definePush(program, start)
  definePull(program, start)
  defineList(program, start)
  defineInspect(program, start)
  defineDiff(program, start)
  defineVerify(program, start)
  defineRemove(program, start)
  program.commandsGroup('Tags:')
  defineTag(program, start)
  defineUntag(program, start)
  program.commandsGroup('Restores:')
  defineRestores(program, start)
  defineExec(program)
  program.commandsGroup('Caches and figures:')
  defineCache(program, start)
  defineStats(program, start)
  program.commandsGroup('Keys and stores:')
  defineKey(program, start)
  defineStore(program, start)
  program.commandsGroup('Shell:')
}

function defineInit(program: Command, start: Start): void {
  program
    .command('init')
    .description('make a store, a keyring and a config')
    .addHelpText('after', examples('thaw init', 'thaw init --store s3://snapshots/prod --keyring /etc/thaw/publisher.keys'))
    .action(async () => {
      const { init } = await import('./init.ts')
      await init(start('init'))
    })
}

function definePush(program: Command, start: Start): void {
  program
    .command('push')
    .description('store images as a new snapshot; prints its id')
    .argument('[images...]', 'NAME[:KIND]=FILE; kinds are memory, disk and blob, FILE - is standard input')
    .addOption(new Option('--layer <layer>', 'whose secret seals it').choices(LAYERS).makeOptionMandatory())
    .option('--parent <ref>', 'the snapshot this one was taken from: what is equal is not stored again')
    .option('--tenant <tenant>', 'whose snapshot it is; default: the platform')
    .option('--tag <tag>', 'name it, once it is published')
    .option('--label <k=v>', 'sealed note, repeatable', collect)
    .option('--diff <name=file>', "a VMM's diff file of an image: holes mean the parent's bytes; repeatable", collect)
    .option('--inherit', "take the parent's images that are not named")
    .option('--prime', 'give it to the L2 cache too, so that the first restore finds it there')
    .option('--create-tenant', 'make the keys of a tenant that has none yet')
    .option('--require-profile', 'fail if this Node compresses otherwise than the root, where the default is to warn')
    .addHelpText(
      'after',
      examples(
        'thaw push --layer os memory=os.img',
        'thaw push --layer function --tenant acme --parent python:3.11 --tag resize:7 memory=mem.img state=vm.state',
        'thaw push --layer function --tenant acme --parent resize:7 --inherit --diff memory=mem.diff state=vm.state',
        'zcat rootfs.gz | thaw push --layer os rootfs:disk=-',
      ),
    )
    .action(async (images: string[], flags: PushFlags) => {
      const { push } = await import('./push.ts')
      await push(start('push'), images, flags)
    })
}

function definePull(program: Command, start: Start): void {
  program
    .command('pull')
    .description('write images to a folder, as sparse files')
    .argument('<ref>', 'the snapshot')
    .argument('<dir>', 'folder for the files, each named like its image')
    .argument('[images...]', 'only these')
    .addHelpText('after', examples('thaw pull resize:7 /run/vm1', 'thaw pull resize:7 /run/vm1 state'))
    .action(async (ref: string, dir: string, images: string[]) => {
      const { pull } = await import('./pull.ts')
      await pull(start('pull'), { ref, dir, images })
    })
}

function defineList(program: Command, start: Start): void {
  program
    .command('ls')
    .description('list snapshots, or tags')
    .option('--tags', 'list tags')
    .addHelpText('after', examples('thaw ls', 'thaw ls --json | jq -r .id'))
    .action(async ({ tags }: { tags?: boolean }) => {
      const { listSnapshots, listTags } = await import('./list.ts')
      await (tags ? listTags : listSnapshots)(start('ls'))
    })
}

function defineInspect(program: Command, start: Start): void {
  program
    .command('inspect')
    .description('show what a snapshot is, and a map of its images')
    .argument('<ref>', 'the snapshot')
    .addHelpText('after', examples('thaw inspect resize:7'))
    .action(async (ref: string) => {
      const { inspect } = await import('./inspect.ts')
      await inspect(start('inspect'), ref)
    })
}

function defineDiff(program: Command, start: Start): void {
  program
    .command('diff')
    .description('show what differs between two snapshots')
    .argument('<a>', 'a snapshot')
    .argument('<b>', 'the one to compare with it')
    .addHelpText('after', examples('thaw diff resize:6 resize:7'))
    .action(async (a: string, b: string) => {
      const { diff } = await import('./diff.ts')
      await diff(start('diff'), a, b)
    })
}

function defineVerify(program: Command, start: Start): void {
  program
    .command('verify')
    .description('read all of a snapshot and check it')
    .argument('<ref>', 'the snapshot')
    .addHelpText('after', examples('thaw verify resize:7'))
    .action(async (ref: string) => {
      const { verify } = await import('./verify.ts')
      await verify(start('verify'), ref)
    })
}

function defineRemove(program: Command, start: Start): void {
  program
    .command('rm')
    .description('remove a snapshot that no tag names')
    .argument('<id>', 'its id, or at least 8 digits of its start')
    .option('--force', 'also if a tag names it')
    .addHelpText('after', examples('thaw rm 3f2a9c0d'))
    .action(async (id: string, { force = false }: { force?: boolean }) => {
      const { remove } = await import('./remove.ts')
      await remove(start('rm'), id, force)
    })
}

function defineTag(program: Command, start: Start): void {
  program
    .command('tag')
    .description('make a tag name a snapshot')
    .argument('<ref>', 'the snapshot')
    .argument('<tag>', 'TAG, or TENANT//TAG')
    .option('--tenant <tenant>', 'whose tag it is; default: the platform')
    .addOption(new Option('--if-absent', 'only if there is no such tag').conflicts('expect'))
    .option('--expect <id>', 'only if the tag names this snapshot now')
    .addHelpText('after', examples('thaw tag 3f2a9c0d python:3.11', 'thaw tag 3f2a9c0d acme//resize:7 --expect 81c0de55'))
    .action(async (ref: string, tag: string, flags: TagFlags) => {
      const { setTag } = await import('./tag.ts')
      await setTag(start('tag'), { ref, tag }, flags)
    })
}

function defineUntag(program: Command, start: Start): void {
  program
    .command('untag')
    .description('delete a tag; the snapshot stays')
    .argument('<tag>', 'TAG, or TENANT//TAG')
    .option('--tenant <tenant>', 'whose tag it is; default: the platform')
    .addHelpText('after', examples('thaw untag acme//resize:6'))
    .action(async (tag: string, { tenant }: { tenant?: string }) => {
      const { untag } = await import('./tag.ts')
      await untag(start('untag'), tag, tenant)
    })
}

const EXEC_EXIT_CODES = `
Becomes the program: same process, same descriptors. What follows its name is its own.
Exit codes: the program's; 127 not found, 126 not executable, 125 not started otherwise.
`

/** Seen by commander only for its help, and behind options: `cli.ts` runs it before commander is loaded. */
function defineExec(program: Command): void {
  program
    .command('exec')
    .description('start a VMM without huge-page read-ahead')
    .usage('[--] VMM [ARGS...]')
    .argument('<vmm>', 'the program, looked up in PATH')
    .argument('[args...]', 'its arguments')
    .addHelpText('after', EXEC_EXIT_CODES)
    .addHelpText('after', examples('thaw exec -- qemu-system-x86_64 -m 512M -incoming defer'))
    .action(async (vmm: string, args: string[]) => {
      const { execBehindOptions } = await import('./exec.ts')
      await execBehindOptions([vmm, ...args])
    })
}

function defineCache(program: Command, start: Start): void {
  const cache = program.command('cache').description('show, size, empty and fill the caches').usage('COMMAND').helpCommand(false)
  const tier = (): Option => new Option('--tier <tier>', 'only this one, repeatable').choices(CACHE_TIERS).argParser(collectTier)
  cache
    .command('ls')
    .description('show the caches: what they hold, and whether they serve')
    .addHelpText('after', examples('thaw cache ls --cache-dir /var/cache/thaw --l2 redis://cache:6379'))
    .action(async () => {
      const { listCaches } = await import('./cache.ts')
      await listCaches(start('cache ls'))
    })
  cache
    .command('resize')
    .description('set how much the disk cache may hold, more or less than now')
    .argument('<size>', 'the new bound of the folder, such as 200G')
    .addHelpText('after', examples('thaw cache resize 200G --cache-dir /var/cache/thaw'))
    .action(async (size: string) => {
      const { resizeCache } = await import('./cache.ts')
      await resizeCache(start('cache resize'), size)
    })
  cache
    .command('clear')
    .description('forget what the caches hold, for everybody who shares them')
    .addOption(tier())
    .addHelpText('after', examples('thaw cache clear', 'thaw cache clear --tier disk'))
    .action(async (flags: TierFlags) => {
      const { clearCaches } = await import('./cache.ts')
      await clearCaches(start('cache clear'), flags)
    })
  cache
    .command('warm')
    .description('fetch a snapshot into the caches')
    .argument('<ref>', 'the snapshot')
    .addOption(tier())
    .addHelpText('after', examples('thaw cache warm resize:7', 'thaw cache warm resize:7 --tier l2'))
    .action(async (ref: string, flags: TierFlags) => {
      const { warmCaches } = await import('./cache.ts')
      await warmCaches(start('cache warm'), ref, flags)
    })
}

function defineStats(program: Command, start: Start): void {
  program
    .command('stats')
    .description('show what running commands read, and from where')
    .addHelpText('after', examples('thaw stats', 'thaw stats --json | jq .processes'))
    .action(async () => {
      const { showStats } = await import('./stats.ts')
      await showStats(start('stats'))
    })
}

function defineKey(program: Command, start: Start): void {
  const key = program.command('key').description('list, make and export keys').usage('COMMAND').helpCommand(false)
  key
    .command('ls')
    .description('list the keys of the keyring; shows no secret')
    .addHelpText('after', examples('thaw key ls'))
    .action(async () => {
      const { listKeys } = await import('./key.ts')
      await listKeys(start('key ls'))
    })
  key
    .command('create')
    .description('make the secret and the key of a tenant')
    .requiredOption('--tenant <tenant>', 'the new tenant')
    .option('--never-compress', 'for guests that others feed while they watch lengths: larger, and tells nothing')
    .option('--no-pad', 'store chunks at their exact length: smaller, and tells more')
    .addHelpText('after', examples('thaw key create --tenant acme'))
    .action(async (flags: NewKeyFlags) => {
      const { createKey } = await import('./key.ts')
      await createKey(start('key create'), flags)
    })
  key
    .command('export')
    .description('write a keyring of less power: for a worker, or a publisher of some tenants')
    .addArgument(new Argument('<file>', 'the new keyring; must not be there'))
    .addOption(
      new Option('--role <role>', 'a worker restores, a publisher pushes too').choices(['publisher', 'worker']).makeOptionMandatory(),
    )
    .option('--tenant <tenant>', 'only this tenant, repeatable; default: all, and the platform', collect)
    .option('--platform', "the platform's keys too, though tenants are named")
    .addHelpText('after', examples('thaw key export worker.keys --role worker --tenant acme'))
    .action(async (file: string, flags: ExportFlags) => {
      const { exportKeys } = await import('./key.ts')
      await exportKeys(start('key export'), file, flags)
    })
}

function defineStore(program: Command, start: Start): void {
  const store = program.command('store').description('check a store').usage('COMMAND').helpCommand(false)
  store
    .command('check')
    .description('try what thaw needs of a store, in a folder of its own that is removed')
    .argument('<url>', 'file:///path, a path, or s3://bucket/prefix')
    .addHelpText('after', examples('thaw store check "s3://snapshots/prod?endpoint=http://127.0.0.1:9000"'))
    .action(async (url: string) => {
      const { checkStoreAt } = await import('./store-check.ts')
      await checkStoreAt(start('store check'), url)
    })
}

function collectTier(value: string, earlier: readonly CacheTier[] = []): CacheTier[] {
  const tier = CACHE_TIERS.find(known => known === value)
  if (tier === undefined) throw new InvalidArgumentError(`Allowed choices are ${CACHE_TIERS.join(', ')}.`)
  return earlier.includes(tier) ? [...earlier] : [...earlier, tier]
}
