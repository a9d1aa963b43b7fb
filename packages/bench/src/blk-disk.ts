import { closeSync, fsyncSync, openSync, writeSync } from "node:fs"
import { BLOCK } from "./blk-ring.js"

/**
 * A file whose blocks start with their numbers, all of it written and in the page cache; block by block, as a disk in use has become, because
 * Linux keeps what is written at once together, and then needs longer for each part of it.
 */
export function makeDisk(path: string, bytes: number): void {
  const fd = openSync(path, "w")
  const block = new Uint32Array(BLOCK / 4).fill(0x5a5a_5a5a)
  for (let number = 0; number < bytes / BLOCK; number++) {
    block[0] = number
    writeSync(fd, block)
  }
  fsyncSync(fd)
  closeSync(fd)
}
