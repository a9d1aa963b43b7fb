import { RestoreError } from "@virtkit/interface"

/** Saved state of a block device; the data is not part of it. */
export interface BlockState {
  readonly version: 1
  /** Bytes. */
  readonly size: number
  readonly readonly: boolean
  /** Cache mode that the driver chose (5.2.4, writeback). */
  readonly writeback: boolean
}

/** Checks a saved state against the disk that it is to go on with. Throws {@link RestoreError}. */
export function parseBlockState(state: unknown, size: number, readonly: boolean): BlockState {
  if (typeof state !== "object" || state === null) throw new RestoreError("block device state is no object")
  const saved = state as Partial<BlockState>
  if (saved.version !== 1) throw new RestoreError(`block device state has version ${saved.version}, not 1`)
  if (typeof saved.writeback !== "boolean") throw new RestoreError("block device state lacks writeback")
  if (saved.size !== size) {
    throw new RestoreError(`block device state is of a disk of ${saved.size} bytes, this one has ${size}`)
  }
  if (saved.readonly !== readonly) {
    throw new RestoreError(`block device state is of a disk with readonly ${saved.readonly}`)
  }
  return { version: 1, size, readonly, writeback: saved.writeback }
}
