/**
 * What tests of code that uses thaw need: a store in memory, one that fails on purpose, and time that they move themselves. The public entry `thaw/testing`.
 */
export {
  type Fault,
  type FaultCall,
  type FaultOptions,
  type FaultPlan,
  type FaultStore,
  faultAt,
  faultStore,
  randomFaults,
  type StoreMethod,
} from './store/fault.ts'
export { type MemoryStoreOptions, memoryStore } from './store/memory.ts'
export type { Clock } from './util/clock.ts'
export { VirtualClock } from './util/virtual-clock.ts'
