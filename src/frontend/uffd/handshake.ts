/**
 * What a VMM says when it connects: a JSON array of the regions of its guest's memory (Firecracker, src/vmm/src/persist.rs, `GuestRegionUffdMapping`):
 *
 *     [{"base_host_virt_addr": 140033114628096, "size": 134217728, "offset": 0, "page_size": 4096, "page_size_kib": 4096}, …]
 *
 * `page_size` came with Firecracker 1.12; before, there was `page_size_kib` alone, which holds bytes too and goes away with 2.0. Other fields are ignored.
 *
 * It is believed only as far as it makes sense: a wrong address can hurt nobody but its sender (the kernel installs pages in the memory of the userfaultfd's own process alone), and
 * nothing outside the image can be asked for. JSON's numbers are exact up to 2⁵³; user space ends at 2⁴⁷, and at 2⁵⁶ for those who ask the kernel for more.
 */
import { PAGE_BYTES } from '../../chunk.ts'
import { ThawError } from '../../errors.ts'
import type { RegionLayout } from './regions.ts'

/** Bytes of a message: more than REGIONS_MAX regions take. */
export const MESSAGE_BYTES_MAX: number = 64 * 1024
/** Firecracker has two, and one a hot-plugged slot. */
const REGIONS_MAX = 256
export const HUGE_PAGE_BYTES: number = 2 ** 21

/**
 * @param imagePages pages of the image that is served
 * @throws BAD_FORMAT with a line that says what is wrong
 */
export function parseHandshake(text: string, imagePages: number): RegionLayout[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw refusal('the handshake is not JSON', cause)
  }
  if (!Array.isArray(value) || value.length === 0) throw refusal('the handshake is not an array of regions')
  if (value.length > REGIONS_MAX) throw refusal(`the handshake has ${value.length} regions, more than ${REGIONS_MAX}`)
  const layouts = value.map((region: unknown, index) => layoutOf(region, index, imagePages))
  checkApart(layouts, 'addresses', ({ address }) => address)
  checkApart(layouts, 'parts of the image', ({ offset }) => offset)
  return layouts
}

function layoutOf(region: unknown, index: number, imagePages: number): RegionLayout {
  if (typeof region !== 'object' || region === null) throw refusal(`region ${index} is not an object`)
  const fields = new Map<string, unknown>(Object.entries(region))
  const number = (name: string): number => {
    const value = fields.get(name)
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
    throw refusal(`region ${index}: ${name} is not a whole number below 2⁵³`)
  }
  const address = number('base_host_virt_addr')
  const sizeBytes = number('size')
  const offset = number('offset')
  const pageBytes = number(fields.has('page_size') ? 'page_size' : 'page_size_kib')
  const layout = { address, sizeBytes, offset, pageBytes }
  checkLayout(layout, index, imagePages)
  return layout
}

function checkLayout({ address, sizeBytes, offset, pageBytes }: RegionLayout, index: number, imagePages: number): void {
  const check = (holds: boolean, what: string): void => {
    if (!holds) throw refusal(`region ${index}: ${what}`)
  }
  check(pageBytes === PAGE_BYTES || pageBytes === HUGE_PAGE_BYTES, `pages of ${pageBytes} bytes: only 4096 and 2097152 are known`)
  check(sizeBytes > 0, 'it is empty')
  check(address % pageBytes === 0 && sizeBytes % pageBytes === 0, 'its address or size is not a multiple of its page size')
  check(offset % PAGE_BYTES === 0, 'its offset is not a multiple of 4096')
  check(Number.isSafeInteger(address + sizeBytes), 'it ends beyond 2⁵³')
  check(offset + sizeBytes <= imagePages * PAGE_BYTES, `it ends beyond the image, which has ${imagePages} pages`)
}

function checkApart(layouts: readonly RegionLayout[], what: string, startOf: (layout: RegionLayout) => number): void {
  const sorted = [...layouts].sort((a, b) => startOf(a) - startOf(b))
  for (const [index, layout] of sorted.entries()) {
    const before = sorted[index - 1]
    if (before !== undefined && startOf(before) + before.sizeBytes > startOf(layout)) throw refusal(`two regions have the same ${what}`)
  }
}

function refusal(message: string, cause?: unknown): ThawError {
  return new ThawError('BAD_FORMAT', message, { cause })
}
