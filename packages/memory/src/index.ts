export { DirtyBitmap, dirtyWords, forEachDirtyRange } from "./dirty.js"
export { type HeapMemoryOptions, heapMemory, heapRegion } from "./heap.js"
export {
  layoutRam,
  MAX_RAM_SIZE,
  PAGE_SIZE,
  RAM_HOLE_END,
  RAM_HOLE_START,
  type RegionLayout,
} from "./layout.js"
export { GuestMemoryMap } from "./map.js"
export { copyFromRanges, copyToRanges, type RangeList, rangesLength } from "./ranges.js"
export type { BackedRegion, MappedRegion } from "./region.js"
export { fromShared, type SharedMemory } from "./share.js"
