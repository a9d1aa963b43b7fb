import { getHeapStatistics } from "node:v8"

/** Bytes that `work` allocated, unless they were collected; what asking for them costs is taken off. */
export function heapGrowth(work: () => void): number {
  const asked = heapUsed()
  const before = heapUsed()
  work()
  return heapUsed() - before - (before - asked)
}

function heapUsed(): number {
  return getHeapStatistics().used_heap_size
}
