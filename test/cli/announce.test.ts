/** The socket by which a running command is found. */
import { lstatSync, readdirSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { announce } from '../../src/cli/announce.ts'

const ROUNDS = 30

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-announce-'))
})
afterEach(() => rm(folder, { recursive: true }))

it("is its user's alone from the moment it is there, and gone afterwards", async () => {
  const modes = new Set<number>()
  for (let round = 0; round < ROUNDS; round++) {
    let isDone = false
    const announced = announce(folder, {}).finally(() => {
      isDone = true
    })
    for (; !isDone; await turn()) {
      const sockets = readdirSync(folder).filter(name => name.endsWith('.sock'))
      for (const name of sockets) modes.add(lstatSync(join(folder, name)).mode & 0o777)
    }
    await (await announced)[Symbol.asyncDispose]()
  }
  expect(modes).toEqual(new Set([0o600]))
  expect(await readdir(folder)).toEqual([])
})

it('cannot be made where nobody could connect to it', async () => {
  const deep = join(folder, 'x'.repeat(100 - folder.length))
  await expect(announce(deep, {})).rejects.toThrow()
  expect(await readdir(deep)).toEqual([])
})
