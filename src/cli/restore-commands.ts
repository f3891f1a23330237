/** The commands that serve guests, and those that ask the ones that do. */
import { type Command, Option } from 'commander'
import type { DiffBase } from '../index.ts'
import type { CommitFlags } from './commit.ts'
import { collect, examples, LAYERS, type Start } from './definitions.ts'
import type { FrontEndFlags, MountFlags, NbdFlags, RestoreFlags, SocketFlags } from './restore-arguments.ts'

export function defineRestores(program: Command, start: Start): void {
  defineMount(program, start)
  defineServe(program, start)
  defineRestore(program, start)
  definePs(program, start)
  defineCommit(program, start)
}

function defineMount(program: Command, start: Start): void {
  const command = program
    .command('mount')
    .description('show the images of a snapshot as files, which are there at once')
    .argument('<ref>', 'the snapshot')
    .argument('<dir>', 'where the files are; made if it is missing')
  restoreFlags(mountFlags(command))
    .addHelpText('after', examples('thaw mount resize:7 /run/vm1', 'thaw mount resize:7 /run/vm1 --writable --on-resume ./renew.sh'))
    .action(async (ref: string, dir: string, flags: MountFlags & RestoreFlags) => {
      const [{ runRestore }, { mountOptions, restoreSettings }] = await Promise.all([
        import('./restore.ts'),
        import('./restore-arguments.ts'),
      ])
      const { resolve } = await import('node:path')
      await runRestore(
        start('mount'),
        ref,
        [{ kind: 'fuse', dir: resolve(dir), options: mountOptions(flags), writtenElsewhere: [] }],
        restoreSettings(flags),
      )
    })
}

function defineServe(program: Command, start: Start): void {
  const serve = program.command('serve').description('serve an image to a VMM').usage('COMMAND').helpCommand(false)
  const nbd = serve
    .command('nbd')
    .description('as a network block device')
    .argument('<ref>', 'the snapshot')
    .argument('<image>', 'its image')
  nbd
    .option('--socket <path>', 'the Unix socket to make')
    .option('--listen <host:port>', 'serve on TCP instead; :PORT is 127.0.0.1')
    .option('--writable', 'take writes, into an overlay')
    .option('--export-name <name>', "what clients may call it besides ''; default: the image's name")
    .option('--connections <n>', 'at most so many clients at a time; default 256')
    .option('--tls-cert <file>', 'speak TLS, with this certificate')
    .option('--tls-key <file>', 'its key')
    .option('--tls-ca <file>', 'take only clients with a certificate of this CA')
  restoreFlags(ownerFlags(nbd))
    .addHelpText('after', examples('thaw serve nbd resize:7 rootfs --socket /run/vm1/rootfs.sock --writable'))
    .action(async (ref: string, image: string, flags: NbdFlags & RestoreFlags) => {
      const [{ runRestore }, { nbdOptions, restoreSettings }] = await Promise.all([
        import('./restore.ts'),
        import('./restore-arguments.ts'),
      ])
      await runRestore(start('serve nbd'), ref, [{ kind: 'nbd', image, options: nbdOptions(flags) }], restoreSettings(flags))
    })
  const uffd = serve
    .command('uffd')
    .description("as memory behind userfaultfd, by Firecracker's protocol")
    .argument('<ref>', 'the snapshot')
    .argument('<image>', 'its image')
  restoreFlags(ownerFlags(uffd.option('--socket <path>', 'the Unix socket to make')))
    .addHelpText('after', examples('thaw serve uffd resize:7 memory --socket /jail/1/u.sock --socket-uid 1001'))
    .action(async (ref: string, image: string, flags: SocketFlags & RestoreFlags) => {
      const [{ runRestore }, { restoreSettings, uffdOptions }] = await Promise.all([
        import('./restore.ts'),
        import('./restore-arguments.ts'),
      ])
      await runRestore(start('serve uffd'), ref, [{ kind: 'uffd', image, options: uffdOptions(flags) }], restoreSettings(flags))
    })
}

function defineRestore(program: Command, start: Start): void {
  const command = program
    .command('restore')
    .description('serve the images of a snapshot to one VM, each in its own way')
    .argument('<ref>', 'the snapshot')
    .option('--uffd <image=socket>', 'as memory behind userfaultfd, repeatable', collect)
    .option('--nbd <image=socket>', 'as a network block device, repeatable', collect)
    .option('--fuse <dir>', 'all of them as files')
    .option('--file <image=path>', 'whole, as a file that is written first; repeatable', collect)
  restoreFlags(mountFlags(ownerFlags(command)))
    .addHelpText(
      'after',
      examples(
        'thaw restore resize:7 --uffd memory=/jail/1/u.sock --file state=/jail/1/state',
        'thaw restore resize:7 --fuse /run/vm1 --nbd rootfs=/run/vm1.sock --writable',
      ),
    )
    .action(async (ref: string, flags: FrontEndFlags & RestoreFlags) => {
      const [{ runRestore }, { frontEndRequests, restoreSettings }] = await Promise.all([
        import('./restore.ts'),
        import('./restore-arguments.ts'),
      ])
      await runRestore(start('restore'), ref, frontEndRequests(flags), restoreSettings(flags))
    })
}

const DIFF_BASES: readonly DiffBase[] = ['snapshot', 'last-commit']

function definePs(program: Command, start: Start): void {
  program
    .command('ps')
    .description('list the restores that are running')
    .addHelpText('after', examples('thaw ps', 'thaw ps --json | jq -r .id'))
    .action(async () => {
      const { listRestores } = await import('./ps.ts')
      await listRestores(start('ps'))
    })
}

function defineCommit(program: Command, start: Start): void {
  program
    .command('commit')
    .description('publish what the stopped guest of a restore made of its snapshot; prints the id')
    .argument('<restore>', 'its id, or an unambiguous beginning of it')
    .argument('[images...]', "NAME=FILE: images that are taken whole, such as the VMM's new state")
    .option(
      '--diff <name=file>',
      "the VMM's diff file of an image served by userfaultfd: holes mean the parent's bytes; repeatable",
      collect,
    )
    .addOption(
      new Option(
        '--diff-base <where>',
        "where the diffs begin: at the restore's snapshot, or at its last commit, as Firecracker's do; needed from the second commit on",
      ).choices(DIFF_BASES),
    )
    .option('--tag <tag>', 'name it, once it is published')
    .option('--label <k=v>', 'sealed note, repeatable', collect)
    .addOption(new Option('--layer <layer>', "default: the parent's").choices(LAYERS))
    .option('--tenant <tenant>', "whose snapshot it is; default: the parent's")
    .option('--prime', 'give it to the L2 cache too')
    .addHelpText(
      'after',
      examples(
        'thaw commit 7f0c --tag resize:8 state=vm.state',
        'thaw commit 7f0c --diff memory=mem.diff state=vm.state',
        'thaw commit 7f0c --diff memory=mem2.diff --diff-base last-commit state=vm2.state',
      ),
    )
    .action(async (restore: string, images: string[], flags: CommitFlags) => {
      const { commit } = await import('./commit.ts')
      await commit(start('commit'), restore, images, flags)
    })
}

function restoreFlags(command: Command): Command {
  return command
    .optionsGroup('Options of the restore:')
    .option('--id <id>', 'default: a fresh one')
    .option('--on-resume <cmd>', 'run this once the first VMM is there; gets THAW_RESTORE, THAW_SNAPSHOT, THAW_RANDOM')
    .option('--overlay-dir <dir>', 'where private writes lie; default /var/tmp/thaw-overlays-UID')
    .option('--overlay-max <size>', 'at most so many bytes of them')
    .option('--keep-overlay', 'leave them when the restore ends')
    .option('--page-deadline <seconds>', 'how long a page is waited for before it is an error; default 60')
    .option('--spin <microseconds>', 'look for more work that long before sleeping; default 50')
    .optionsGroup('Options:')
}

function mountFlags(command: Command): Command {
  return command
    .option('--writable', 'take writes, into an overlay')
    .option('--allow-other', 'let other users see the files')
    .option('--read-ahead <size>', 'let the kernel read ahead; default 0: only what is touched')
    .option('--file-mode <mode>', 'of the files; default 444, writable 644; with an owner 400, 600')
    .option('--file-uid <uid>', 'owner of the files, for a VMM that runs as another user')
    .option('--file-gid <gid>', 'group of the files')
}

function ownerFlags(command: Command): Command {
  return command
    .option('--socket-mode <mode>', 'of the socket; default 600')
    .option('--socket-uid <uid>', 'owner of the socket, for a jailed VMM')
    .option('--socket-gid <gid>', 'group of the socket')
}
