/** `thaw store check`: does a provider keep the contract? Each check is reported, and one that fails makes the command fail. */
import { type CheckResult, checkStore, openObjectStore, ThawError } from '../index.ts'
import { formatCount, oneLine } from './format.ts'
import type { Invocation } from './invocation.ts'

export async function checkStoreAt({ output, signal }: Invocation, url: string): Promise<void> {
  await using objects = await openObjectStore(url)
  const checks: CheckResult[] = []
  for await (const check of checkStore(objects, { signal })) {
    checks.push(check)
    if (!output.json) output.lines([lineOf(check)])
  }
  const failed = checks.filter(({ ok }) => !ok)
  if (output.json) output.item({ url: objects.url, ok: failed.length === 0, checks })
  if (failed.length === 0) return
  const names = failed.map(({ name }) => name).join(', ')
  throw new ThawError('UNSUPPORTED', `${objects.url} fails ${formatCount(failed.length, 'check')}: ${names}: thaw must not be used on it`, {
    object: objects.url,
  })
}

function lineOf({ name, ok, detail }: CheckResult): string {
  return oneLine(`${ok ? 'ok  ' : 'FAIL'}  ${name}: ${detail}`)
}
