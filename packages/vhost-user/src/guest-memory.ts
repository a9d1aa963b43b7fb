import { ConfigError, type GuestMemory, type GuestMemoryRegion } from "@virtkit/interface"
import { type BackedRegion, GuestMemoryMap } from "@virtkit/memory"
import { MAX_MEM_SLOTS } from "./constants.js"
import type { DirtyLog } from "./dirty-log.js"
import { VhostUserError } from "./error.js"
import type { RegionDescription } from "./payload.js"

/** A region of the table and where it is mapped. */
interface Slot {
  readonly description: RegionDescription
  readonly region: BackedRegion
  /** Some front ends add a region once for each pair of queues. */
  uses: number
}

/** Maps what a description says. Throws {@link VhostUserError}. */
export type MapRegion = (description: RegionDescription, fd: number) => BackedRegion

/**
 * The memory of a front end's guest. It is one object for as long as a device is active, while the front end adds,
 * removes and replaces regions; while a region goes no queue and no I/O may use it.
 *
 * Written ranges go to the dirty log while there is one.
 */
export class FrontEndMemory implements GuestMemory {
  #map = new GuestMemoryMap([])
  #slots: Slot[] = []
  readonly #mapRegion: MapRegion
  /** Set while the front end wants to know what is written. */
  log: DirtyLog | undefined

  constructor(mapRegion: MapRegion) {
    this.#mapRegion = mapRegion
  }

  /** Whether the table already has exactly this region. */
  has(description: RegionDescription): boolean {
    return this.#find(description) !== undefined
  }

  /** Replaces the whole table. Throws {@link VhostUserError}, and keeps the one that was, when the new one is wrong. */
  replace(descriptions: readonly RegionDescription[], fds: readonly number[]): void {
    const slots: Slot[] = []
    try {
      for (const [index, description] of descriptions.entries()) {
        checkOverlap(slots, description)
        slots.push({ description, region: this.#mapRegion(description, fds[index]!), uses: 1 })
      }
      this.#use(slots)
    } catch (error) {
      for (const slot of slots) slot.region.release()
      throw error
    }
  }

  /** Adds a region, or counts another use of one that is there. Throws {@link VhostUserError}. */
  add(description: RegionDescription, fd: number): void {
    const same = this.#find(description)
    if (same !== undefined) {
      same.uses++
      return
    }
    if (this.#slots.length >= MAX_MEM_SLOTS) {
      throw new VhostUserError(`ADD_MEM_REG: more than ${MAX_MEM_SLOTS} regions`)
    }
    checkOverlap(this.#slots, description)
    const slot = { description, region: this.#mapRegion(description, fd), uses: 1 }
    try {
      this.#use([...this.#slots, slot], true)
    } catch (error) {
      slot.region.release()
      throw error
    }
  }

  /** Whether `remove` of it would take memory away. Throws {@link VhostUserError} when there is no such region. */
  isLastUse(description: RegionDescription): boolean {
    const slot = this.#find(description)
    if (slot === undefined) throw new VhostUserError("REM_MEM_REG: no such region")
    return slot.uses === 1
  }

  remove(description: RegionDescription): void {
    const slot = this.#find(description)
    if (slot === undefined || --slot.uses > 0) return
    this.#use(
      this.#slots.filter((one) => one !== slot),
      true,
    )
    slot.region.release()
  }

  /** Where in guest memory an address of the front end lies; undefined when it is in no region. */
  guestAddressOf(userAddress: number): number | undefined {
    for (const { description } of this.#slots) {
      const offset = userAddress - description.userAddress
      if (offset >= 0 && offset < description.size) return description.guestAddress + offset
    }
    return undefined
  }

  close(): void {
    this.#use([])
    this.log = undefined
  }

  get regions(): readonly GuestMemoryRegion[] {
    return this.#map.regions
  }

  /** The regions as ones that somebody else owns. */
  get borrowed(): BackedRegion[] {
    return this.#slots.map(({ region }) => ({ ...region, release: () => {} }))
  }

  contains(address: number, length: number): boolean {
    return this.#map.contains(address, length)
  }

  regionOf(address: number, length: number): GuestMemoryRegion | undefined {
    return this.#map.regionOf(address, length)
  }

  hostAddress(address: number, length: number): number {
    return this.#map.hostAddress(address, length)
  }

  readUint8(address: number): number {
    return this.#map.readUint8(address)
  }

  readUint16(address: number): number {
    return this.#map.readUint16(address)
  }

  readUint32(address: number): number {
    return this.#map.readUint32(address)
  }

  readBigUint64(address: number): bigint {
    return this.#map.readBigUint64(address)
  }

  writeUint8(address: number, value: number): void {
    this.#map.writeUint8(address, value)
    this.log?.mark(address, 1)
  }

  writeUint16(address: number, value: number): void {
    this.#map.writeUint16(address, value)
    this.log?.mark(address, 2)
  }

  writeUint32(address: number, value: number): void {
    this.#map.writeUint32(address, value)
    this.log?.mark(address, 4)
  }

  writeBigUint64(address: number, value: bigint): void {
    this.#map.writeBigUint64(address, value)
    this.log?.mark(address, 8)
  }

  read(address: number, target: Uint8Array): void {
    this.#map.read(address, target)
  }

  write(address: number, source: Uint8Array): void {
    this.#map.write(address, source)
    this.log?.mark(address, source.length)
  }

  fill(address: number, length: number, value: number): void {
    this.#map.fill(address, length, value)
    this.log?.mark(address, length)
  }

  get dirtyTracking(): boolean {
    return this.log !== undefined
  }

  markDirty(address: number, length: number): void {
    this.log?.mark(address, length)
  }

  #find(wanted: RegionDescription): Slot | undefined {
    return this.#slots.find(
      ({ description: { guestAddress, size, userAddress } }) =>
        guestAddress === wanted.guestAddress && size === wanted.size && userAddress === wanted.userAddress,
    )
  }

  /** `keep`: those of before that are not among `slots` are released by the caller. */
  #use(slots: Slot[], keep = false): void {
    let map: GuestMemoryMap
    try {
      map = new GuestMemoryMap(slots.map(({ region }) => ({ ...region, release: () => {} })))
    } catch (error) {
      // Not made of whole pages.
      if (error instanceof ConfigError) throw new VhostUserError(error.message, { cause: error })
      throw error
    }
    const before = this.#slots
    this.#slots = slots
    this.#map = map
    if (!keep) for (const slot of before) slot.region.release()
  }
}

/** No two regions may share an address of either kind: which of them an address means would be anybody's guess. */
function checkOverlap(slots: readonly Slot[], added: RegionDescription): void {
  for (const { description } of slots) {
    for (const kind of ["guestAddress", "userAddress"] as const) {
      if (
        added[kind] < description[kind] + description.size &&
        description[kind] < added[kind] + added.size
      ) {
        throw new VhostUserError(
          `memory table: the region at ${kind === "guestAddress" ? "guest" : "user"} address 0x${added[kind].toString(16)} overlaps another`,
        )
      }
    }
  }
}
