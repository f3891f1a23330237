/** The TAG of the commands that write one: `TAG` of the tenant of a flag, or `TENANT//TAG`. */
import { checkTagName, checkTenantName, parseRef, type TagName } from '../index.ts'
import { UsageError } from './exit.ts'

/** Which tenant a flag named, and whether a tag of another than that (also of none) makes no sense. */
interface TagRules {
  readonly sameTenant?: boolean
}

/** @throws RangeError for a name that cannot be, UsageError if flag and argument name different tenants */
export function parseTag(text: string, tenant: string | undefined, { sameTenant = false }: TagRules = {}): TagName {
  if (tenant !== undefined) checkTenantName(tenant)
  if (!text.includes('//')) {
    checkTagName(text)
    return { tenant, name: text }
  }
  const ref = parseRef(text)
  if (ref.kind !== 'tag') throw new UsageError(`${JSON.stringify(text)} is an id, not a tag`)
  if (ref.tenant !== tenant && (sameTenant || tenant !== undefined)) {
    throw new UsageError(`tag ${text} is of tenant ${ref.tenant}, --tenant says ${tenant ?? 'nothing'}: they must be the same`)
  }
  return { tenant: ref.tenant, name: ref.name }
}
