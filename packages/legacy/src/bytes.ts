import type { AccessSize } from "@virtkit/interface"

/**
 * Does a read of an 8-bit device as the ISA bus does: an access of 2 or 4 bytes is that many byte accesses, lowest
 * offset first. Returns the unsigned little-endian value.
 */
export function readBytes(read: (offset: number) => number, offset: number, size: AccessSize): number {
  let value = 0
  // Multiplied, not shifted: a set bit 31 must not turn the result negative.
  for (let i = 0, weight = 1; i < size; i++, weight *= 256) value += read(offset + i) * weight
  return value
}

/** The write that goes with {@link readBytes}; `write` gets values of 0 to 255. */
export function writeBytes(
  write: (offset: number, value: number) => void,
  offset: number,
  size: AccessSize,
  value: number,
): void {
  for (let i = 0; i < size; i++) write(offset + i, (value >>> (8 * i)) & 0xff)
}
