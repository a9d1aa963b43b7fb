import type { AcceleratedBusDevice, BusDevice } from "@virtkit/interface"
import type { PciHost, PciMapping } from "./host.js"

/** A part of something that has an address. */
export interface Segment {
  /** From its start. */
  readonly offset: number
  readonly size: number
  readonly device: BusDevice | AcceleratedBusDevice
}

/**
 * Something that the guest moves around in an address space. All of its segments answer or none does.
 *
 * Moves take two steps, for everything on the bus together: first all that has to leave leaves, then all that has a place
 * takes it. So it does not matter in which order the guest moves what.
 */
export class Placement {
  readonly #host: PciHost
  readonly #space: "memory" | "io"
  readonly #segments: () => readonly Segment[]
  #mappings: PciMapping[] = []
  #address: number | undefined

  constructor(host: PciHost, space: "memory" | "io", segments: () => readonly Segment[]) {
    this.#host = host
    this.#space = space
    this.#segments = segments
  }

  /** Where it answers, if it does. */
  get address(): number | undefined {
    return this.#address
  }

  /** Stops answering unless it answers at `wanted`. */
  leaveUnless(wanted: number | undefined): void {
    if (this.#address === wanted || this.#address === undefined) return
    for (const mapping of this.#mappings.splice(0)) mapping.remove()
    this.#address = undefined
  }

  /** Answers at `wanted` if nobody else does. */
  settle(wanted: number | undefined): void {
    if (wanted === undefined || this.#address !== undefined) return
    for (const { offset, size, device } of this.#segments()) {
      const mapping = this.#host.map(this.#space, wanted + offset, size, device)
      if (mapping === undefined) {
        for (const partial of this.#mappings.splice(0)) partial.remove()
        return
      }
      this.#mappings.push(mapping)
    }
    this.#address = wanted
  }
}
