import type { TraceWindowKind } from "./record-format.js"
import { MMIO, VIRTIO_PCI_COMMON as PCI } from "./spec.js"
import type { RingAddresses } from "./transport-driver.js"

/** A queue as the driver enabled it. */
export interface QueueSetup extends RingAddresses {
  readonly queue: number
  readonly size: number
}

type Part = "desc" | "avail" | "used"

/** What a write to a register means for the queues. `half`: 0 is the lower 32 bits. */
type Meaning =
  | { readonly kind: "select" | "size" | "enable" }
  | { readonly kind: "address"; readonly part: Part; readonly half: 0 | 1 }

function addressRegisters(desc: number, avail: number, used: number): [number, Meaning][] {
  const parts: readonly [Part, number][] = [
    ["desc", desc],
    ["avail", avail],
    ["used", used],
  ]
  return parts.flatMap(([part, offset]): [number, Meaning][] => [
    [offset, { kind: "address", part, half: 0 }],
    [offset + 4, { kind: "address", part, half: 1 }],
  ])
}

/** By layout and offset (virtio 1.3, sections 4.2.2 and 4.1.4.3). */
const MEANINGS: Partial<Record<TraceWindowKind, ReadonlyMap<number, Meaning>>> = {
  mmio: new Map<number, Meaning>([
    [MMIO.QUEUE_SEL, { kind: "select" }],
    [MMIO.QUEUE_SIZE, { kind: "size" }],
    [MMIO.QUEUE_READY, { kind: "enable" }],
    ...addressRegisters(MMIO.QUEUE_DESC_LOW, MMIO.QUEUE_DRIVER_LOW, MMIO.QUEUE_DEVICE_LOW),
  ]),
  "pci-common": new Map<number, Meaning>([
    [PCI.QUEUE_SELECT, { kind: "select" }],
    [PCI.QUEUE_SIZE, { kind: "size" }],
    [PCI.QUEUE_ENABLE, { kind: "enable" }],
    ...addressRegisters(PCI.QUEUE_DESC, PCI.QUEUE_DRIVER, PCI.QUEUE_DEVICE),
  ]),
}

/** Follows the queue registers of a transport, so that the player can make rings where the guest had them. */
export class QueueRegisters {
  readonly #maxSizes: readonly number[]
  readonly #windows = new Map<number, TraceWindowKind>()
  readonly #queues = new Map<number, { size: number; addresses: Record<Part, [number, number]> }>()
  #selected = 0

  constructor(maxSizes: readonly number[]) {
    this.#maxSizes = maxSizes
  }

  addWindow(window: number, layout: TraceWindowKind): void {
    this.#windows.set(window, layout)
  }

  /** The queue that this write enables, if it does. */
  write(window: number, offset: number, size: number, value: number): QueueSetup | undefined {
    const layout = this.#windows.get(window)
    const meaning = layout && MEANINGS[layout]?.get(offset)
    if (meaning === undefined || (meaning.kind === "address" && size !== 4)) return undefined
    if (meaning.kind === "select") {
      this.#selected = value
      return undefined
    }
    const queue = this.#queue(this.#selected)
    if (meaning.kind === "size") queue.size = value
    else if (meaning.kind === "address") queue.addresses[meaning.part][meaning.half] = value
    else if (value === 1) return this.#setup(this.#selected)
    return undefined
  }

  #setup(index: number): QueueSetup {
    const { size, addresses } = this.#queue(index)
    const address = (part: Part) => addresses[part][0] + addresses[part][1] * 2 ** 32
    return { queue: index, size, desc: address("desc"), avail: address("avail"), used: address("used") }
  }

  #queue(index: number): { size: number; addresses: Record<Part, [number, number]> } {
    const known = this.#queues.get(index)
    if (known !== undefined) return known
    const size = this.#maxSizes[index] ?? 0
    const made = { size, addresses: { desc: [0, 0], avail: [0, 0], used: [0, 0] } } satisfies {
      size: number
      addresses: Record<Part, [number, number]>
    }
    this.#queues.set(index, made)
    return made
  }
}
