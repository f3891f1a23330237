/**
 * How a mount is served: on the restore's pager, or, where there is no koffi, by this thread, to which one of the mount's own hands the requests.
 *
 * Whichever it is closes the descriptor when the serving ends, and once: with it the waiting of all who read ends.
 */
import { closeSync } from 'node:fs'
import type { AttachOptions, Restore } from '../../restore.ts'
import { BlockingDevice, type Waker } from './blocking-device.ts'
import { startFuseOver } from './server.ts'
import type { FuseSpec } from './spec.ts'

/** A mount that is being served. */
export interface FuseServing {
  /** Settles with the reason if that ended by itself; nobody waits at the descriptor then. */
  readonly died: Promise<Error>
  /** Nothing is served any more when it resolves. Idempotent, does not reject. */
  end(): Promise<void>
}

/** The descriptor, which does not block, is the caller's if this throws. @throws what `Restore.attach` throws */
export async function serveOnPager(restore: Restore, spec: FuseSpec, options: AttachOptions): Promise<FuseServing> {
  const { detach, died } = await restore.attach(spec, options)
  let isOpen = true
  const close = (): void => {
    if (isOpen) closeSync(spec.fd)
    isOpen = false
  }
  void died.then(close)
  return { died, end: () => detach().then(close) }
}

/** The descriptor, which blocks, is the caller's if this throws. @throws what `Restore.attachHere` throws */
export async function serveHere(restore: Restore, spec: FuseSpec, options: AttachOptions, waker: Waker): Promise<FuseServing> {
  const { images, detach } = await restore.attachHere(options)
  const device = new BlockingDevice(spec.fd, waker)
  const server = startFuseOver({ loop: device.loop, images, emit: event => options.onEvent(event) }, device, spec)
  const end = async (): Promise<void> => {
    server.close()
    await device.close()
    await detach()
  }
  return { died: new Promise(() => undefined), end }
}
