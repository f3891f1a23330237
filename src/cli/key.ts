/** `thaw key ls|create|export`: what a keyring holds, and keyrings made of it. No secret is ever printed. */
import { resolve } from 'node:path'
import type { FileKeyring } from '../index.ts'
import { openKeyring } from './connect.ts'
import { type Column, formatCount, formatTable } from './format.ts'
import type { Invocation } from './invocation.ts'

export interface NewKeyFlags {
  readonly tenant: string
  readonly neverCompress?: boolean
  /** False: `--no-pad`. */
  readonly pad: boolean
}

export interface ExportFlags {
  readonly role: 'publisher' | 'worker'
  readonly tenant?: readonly string[]
  readonly platform?: boolean
}

type KeyRow = ReturnType<FileKeyring['list']>[number]

const COLUMNS: readonly Column[] = [
  { title: 'KIND' },
  { title: 'LAYER' },
  { title: 'TENANT' },
  { title: 'ID' },
  { title: 'NUMBER', right: true },
  { title: 'USE' },
]

/** What a secret or key does while it is the newest of its kind; older ones only open. */
const USES: Readonly<Record<KeyRow['kind'], string>> = { secret: 'seals', key: 'wraps and opens', signing: 'signs tags' }

export async function listKeys(invocation: Invocation): Promise<void> {
  const { output } = invocation
  const keyring = await openKeyring(invocation)
  const rows = keyring.list()
  output.answer({ keyring: keyring.name, role: keyring.role, keys: rows }, () => [
    `${keyring.name}: a ${keyring.role}'s`,
    '',
    ...formatTable(
      COLUMNS,
      rows.map(row => keyRow(row, keyring.role)),
    ),
  ])
}

export async function createKey(invocation: Invocation, { tenant, neverCompress = false, pad }: NewKeyFlags): Promise<void> {
  const keyring = await openKeyring(invocation)
  const compress = !neverCompress
  await keyring.createTenant(tenant, { compress, pad })
  invocation.output.done({ keyring: keyring.name, tenant, compress, pad }, () => [`made keys of tenant ${tenant} in ${keyring.name}`])
}

export async function exportKeys(invocation: Invocation, file: string, { role, tenant, platform }: ExportFlags): Promise<void> {
  const keyring = await openKeyring(invocation)
  const exported = await keyring.exportKeyring(resolve(file), role, { tenants: tenant, platform })
  const tenants = await exported.tenants()
  const whose = tenants.length > 0 ? `of ${tenants.join(', ')}` : 'of no tenant'
  invocation.output.done({ keyring: exported.name, role, tenants }, () => [`wrote ${exported.name}: a ${role}'s keyring, ${whose}`])
}

function keyRow({ kind, layer, tenant, id, number, newest }: KeyRow, role: FileKeyring['role']): string[] {
  const use = newest ? USES[kind] : 'opens what was made before'
  return [kind, layer ?? '–', tenant ?? '–', id, formatCount(number), role === 'worker' && kind === 'signing' ? 'checks tags' : use]
}
