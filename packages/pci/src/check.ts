import { ConfigError, type PciBar, type PciFunction } from "@virtkit/interface"
import { PCI_MSIX_ENTRY_SIZE } from "./constants.js"

interface Range {
  readonly what: string
  readonly offset: number
  readonly size: number
}

/** Throws {@link ConfigError} for a function whose description contradicts itself or the standard. */
export function checkFunction(fn: PciFunction): void {
  const { vendorId, deviceId, classCode } = fn.identity
  if (!isBelow(vendorId, 0xffff) || !isBelow(deviceId, 0x1_0000) || !isBelow(classCode, 0x100_0000)) {
    throw new ConfigError(`${fn.name}: vendor, device or class code is out of range`)
  }
  const taken = new Set<number>()
  for (const bar of fn.bars) {
    checkBar(fn.name, bar)
    for (const index of bar.kind === "memory64" ? [bar.index, bar.index + 1] : [bar.index]) {
      if (index > 5 || taken.has(index)) throw new ConfigError(`${fn.name}: BAR ${index} is not free`)
      taken.add(index)
    }
    checkRanges(fn.name, bar, [...windows(bar), ...msixRanges(fn, bar)])
  }
  checkMsix(fn)
}

function checkBar(name: string, bar: PciBar): void {
  const { index, kind, size } = bar
  if (!isBelow(index, 6)) throw new ConfigError(`${name}: there is no BAR ${index}`)
  const [min, max] = kind === "io" ? [4, 256] : [16, kind === "memory32" ? 2 ** 31 : 2 ** 52]
  if (!Number.isInteger(Math.log2(size)) || size < min || size > max) {
    throw new ConfigError(`${name}: BAR ${index} has ${size} bytes, not a power of two from ${min} to ${max}`)
  }
  if (kind === "io" && bar.prefetchable)
    throw new ConfigError(`${name}: BAR ${index} is I/O and prefetchable`)
}

function checkRanges(name: string, bar: PciBar, ranges: readonly Range[]): void {
  let end = 0
  for (const range of [...ranges].sort((a, b) => a.offset - b.offset)) {
    if (!Number.isInteger(range.offset) || !Number.isInteger(range.size) || range.size < 1) {
      throw new ConfigError(`${name}: ${range.what} of BAR ${bar.index} is no range`)
    }
    if (range.offset < end)
      throw new ConfigError(`${name}: ${range.what} of BAR ${bar.index} overlaps another`)
    end = range.offset + range.size
    if (end > bar.size)
      throw new ConfigError(`${name}: ${range.what} reaches past the end of BAR ${bar.index}`)
  }
}

function windows(bar: PciBar): Range[] {
  return bar.windows.map(({ offset, size, device }) => ({ what: device.name, offset, size }))
}

function msixRanges(fn: PciFunction, bar: PciBar): Range[] {
  const { msix } = fn
  if (msix === undefined || msix.bar !== bar.index) return []
  return [
    { what: "the MSI-X table", offset: msix.tableOffset, size: msix.vectors * PCI_MSIX_ENTRY_SIZE },
    { what: "the MSI-X pending bits", offset: msix.pbaOffset, size: Math.ceil(msix.vectors / 64) * 8 },
  ]
}

function checkMsix(fn: PciFunction): void {
  const { msix } = fn
  if (msix === undefined) return
  if (!isBelow(msix.vectors - 1, 2048)) {
    throw new ConfigError(`${fn.name}: ${msix.vectors} MSI-X vectors, not 1 to 2048`)
  }
  const bar = fn.bars.find(({ index }) => index === msix.bar)
  if (bar === undefined || bar.kind === "io") {
    throw new ConfigError(`${fn.name}: MSI-X needs a memory BAR, and BAR ${msix.bar} is none`)
  }
  if (msix.tableOffset % 8 !== 0 || msix.pbaOffset % 8 !== 0) {
    throw new ConfigError(`${fn.name}: offsets of MSI-X structures are multiples of 8`)
  }
}

function isBelow(value: number, limit: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < limit
}
