/** Addresses as people write them: `HOST:PORT`, `[::1]:PORT`, and `:PORT` for this machine alone. */

const ADDRESS = /^(?:\[([^\]]+)\]|([^:[\]]*)):(\d{1,5})$/
const LOOPBACK = '127.0.0.1'
const PORT_MAX = 65_535

/** For error messages. */
export const ADDRESS_FORMS = `HOST:PORT, :PORT for ${LOOPBACK}`

/** Undefined if the text is no address. */
export function parseAddress(text: string): { readonly host: string; readonly port: number } | undefined {
  const [, bracketed, plain, digits] = ADDRESS.exec(text) ?? []
  const port = Number(digits)
  if (digits === undefined || port > PORT_MAX) return undefined
  return { host: bracketed ?? (plain || LOOPBACK), port }
}
