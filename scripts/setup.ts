/**
 * Installs the servers and tools that the tests run against, once: `npm run setup`. With `--peers` also the programs that only
 * `bench/peers` needs. A second run looks, prints one line and ends.
 *
 * System packages come from Debian and need root; elsewhere it says what to install and fails, because a test that quietly does
 * without its server proves nothing.
 */
import { parseArgs } from 'node:util'
import { installPackages, missingPackages } from './setup/debian.ts'
import { installMinio } from './setup/minio.ts'

async function setup(withPeers: boolean): Promise<void> {
  const missing = missingPackages(withPeers)
  if (missing.length > 0) await installPackages(missing)
  const built = await installMinio()
  console.log(missing.length > 0 || built ? 'setup: done' : 'setup: everything is here')
}

try {
  const { values } = parseArgs({ options: { peers: { type: 'boolean', default: false } } })
  await setup(values.peers)
} catch (error) {
  console.error(`setup: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
}
