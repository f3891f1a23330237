/** What a commit pushes: a child of the restore's snapshot, which is like it in all that is not said. */
import type { ChildSpec } from '../commit.ts'
import type { StoredSnapshot } from '../find.ts'
import type { StorePushSpec } from './contract.ts'

export function childSpec({ id, manifest }: StoredSnapshot, { layer, tenant, parent, ...spec }: ChildSpec): StorePushSpec {
  return {
    ...spec,
    layer: layer ?? manifest.layer,
    tenant: tenant ?? manifest.tenant,
    parent: parent ?? id,
    inherit: true,
    orOwnSecret: true,
  }
}
