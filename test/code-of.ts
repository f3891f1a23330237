/** What an action fails with: a ThawError's code, the name of another error, or undefined if it does not fail. */
import { ThawError } from '../src/errors.ts'

export function codeOf(action: () => unknown): string | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    return nameOf(error)
  }
}

export async function codeOfAsync(action: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await action()
    return undefined
  } catch (error) {
    return nameOf(error)
  }
}

function nameOf(error: unknown): string {
  if (error instanceof ThawError) return error.code
  return error instanceof Error ? error.name : String(error)
}
