/** An overlay on a disk that takes writes and loses them later: a file system on a device that is smaller than it says. */
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { PAGE_BYTES } from '../../src/chunk.ts'
import { damageOf, ImageOverlay } from '../../src/overlay/image-overlay.ts'
import { checkWrittenBack } from '../../src/overlay/written-back.ts'
import { Overlay } from '../../src/overlay.ts'
import { mountTmpfs } from './tmpfs.ts'

const MIB = 2 ** 20

it('is damaged when the disk could not keep what was written', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'thaw-overlay-disk-'))
  const [small, folder, device] = [join(dir, 'small'), join(dir, 'folder'), join(dir, 'small', 'device')]
  await mkdir(small)
  await mkdir(folder)
  try {
    using _ = mountTmpfs(small, 'size=8m')
    await using file = await open(device, 'w')
    await file.truncate(64 * MIB)
    execFileSync('mkfs.ext4', ['-q', '-O', '^has_journal', '-E', 'lazy_itable_init=1,nodiscard', device])
    execFileSync('mount', ['-o', 'loop', device, folder])
    try {
      await using overlay = await Overlay.create({ dir: folder, name: 'r1', images: [{ name: 'rootfs', sizeBytes: 40 * MIB }] })
      const shared = await overlay.image('rootfs', { written: true })
      const image = new ImageOverlay(shared)
      for (let i = 0; i < 20; i++) image.write((i * MIB) / PAGE_BYTES, Buffer.alloc(MIB, 7))
      await checkWrittenBack(shared)
      expect(damageOf(shared)).toBeUndefined()
      expect(() => execFileSync('sync', ['-f', folder], { stdio: 'ignore' })).toThrow()
      for (let i = 0; i < 2; i++) {
        await checkWrittenBack(shared)
        expect(damageOf(shared)).toEqual({ kind: 'unknown' })
      }
    } finally {
      execFileSync('umount', ['-l', folder])
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})
