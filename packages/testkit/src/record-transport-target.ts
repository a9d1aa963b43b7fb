import type {
  AccessSize,
  BusDevice,
  Doorbell,
  GuestMemory,
  Interrupt,
  PciFunction,
  PciSlot,
} from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { TestMemory } from "./memory.js"
import type { TraceRecord } from "./record-format.js"
import type { ReplayPlan } from "./record-plan.js"
import type { QueueSetup } from "./record-registers.js"
import { ReplayRing } from "./record-rings.js"
import type { DeviceAnnouncements, ReplayTarget } from "./record-target.js"
import { FEATURE, MMIO, VIRTIO_PCI_COMMON } from "./spec.js"

/** Room for the player's buffers, in bytes. The host gives what is used of it. */
const BUFFER_BYTES = 256 * 2 ** 20
const PAGE = 4096
/** Buffers are at a multiple of this, behind the rings. */
const GIB = 2 ** 30

export interface TransportTargetOptions {
  /**
   * Makes the transport with the device in it: a virtio-mmio transport, or a virtio-pci function that is on no bus yet.
   * The interrupt is for the former.
   */
  readonly setup: (memory: GuestMemory, interrupt: Interrupt) => BusDevice | PciFunction
}

/** The player accesses the registers as the guest did. For traces of a transport. */
export class TransportTarget implements ReplayTarget {
  readonly rings: Map<number, ReplayRing> = new Map()
  readonly announced: DeviceAnnouncements & { interrupts: Map<number, number> }
  readonly #plan: ReplayPlan
  readonly #memory: TestMemory
  readonly #allocator: TestAllocator
  readonly #slot: ReplaySlot
  readonly #function: PciFunction | undefined
  readonly #windows: readonly BusDevice[]
  /** By window, as the trace has it. */
  readonly #layouts = new Map<number, string>()

  constructor(options: TransportTargetOptions, plan: ReplayPlan) {
    this.#plan = plan
    const regions = ringRegions(plan)
    const end = regions.reduce((max, { guestAddress, size }) => Math.max(max, guestAddress + size), PAGE)
    const buffers = { guestAddress: Math.ceil(end / GIB) * GIB, size: BUFFER_BYTES }
    this.#memory = new TestMemory({ regions: [...regions, buffers] })
    this.#allocator = new TestAllocator(buffers.guestAddress, buffers.size)
    const interrupts = new Map<number, number>()
    this.announced = { configs: undefined, needsReset: undefined, interrupts }
    const interrupted = (vector: number) => {
      interrupts.set(vector, (interrupts.get(vector) ?? 0) + 1)
    }
    this.#slot = new ReplaySlot(this.#memory, interrupted)
    const made = options.setup(this.#memory, { signal: () => interrupted(0) })
    if ("bars" in made) {
      this.#function = made
      made.attach(this.#slot)
      this.#windows = made.bars.flatMap(({ windows }) => windows.map(({ device }) => device))
    } else {
      this.#windows = [made]
    }
    for (const record of plan.records) {
      if (record.kind === "window") this.#layouts.set(record.window, record.layout)
    }
  }

  /** A driver makes a ring before it enables the queue. */
  prepare(record: TraceRecord): void {
    const setup = this.#plan.setups.get(record.number)
    if (setup === undefined) return
    const { queue, size } = setup
    const features = this.#plan.featuresAt(record.number)
    this.rings.set(queue, new ReplayRing(this.#memory, this.#allocator, size, features, setup))
  }

  async act(record: TraceRecord): Promise<string | undefined> {
    this.#memory.clearWritten()
    switch (record.kind) {
      case "read":
        return this.#read(record)
      case "write":
        await this.#window(record.window).write(record.offset, record.size as AccessSize, record.value)
        break
      case "doorbell":
        this.#ring(record.window, record.doorbell)
        break
      case "slot":
        this.#slot.busMaster = record.busMaster
        this.#slot.msixEnabled = record.msix
        this.#function?.commandChanged?.()
        break
      case "function-reset":
        await this.#function?.reset()
        break
    }
    return undefined
  }

  forget(queue?: number): void {
    if (queue === undefined) this.rings.clear()
    else this.rings.delete(queue)
  }

  kick(queue: number): void {
    const record = this.#plan.kicks.get(queue)
    if (record?.kind === "doorbell") this.#ring(record.window, record.doorbell)
    else if (record?.kind === "write") {
      void this.#window(record.window).write(record.offset, record.size as AccessSize, record.value)
    }
  }

  /** Which interrupts merge differs from run to run, and with it what the driver finds to be their cause. */
  #isCause(window: number, offset: number): boolean {
    const layout = this.#layouts.get(window)
    return layout === "pci-isr" || (layout === "mmio" && offset === MMIO.INTERRUPT_STATUS)
  }

  /** What is offered beyond the trace, a driver that did not know it leaves alone. */
  #isOffer(window: number, offset: number): boolean {
    const layout = this.#layouts.get(window)
    if (layout === "mmio") return offset === MMIO.DEVICE_FEATURES
    return layout === "pci-common" && offset === VIRTIO_PCI_COMMON.DEVICE_FEATURE
  }

  #read({ window, offset, size, value }: TraceRecord & { kind: "read" }): string | undefined {
    const found = this.#window(window).read(offset, size as AccessSize)
    if (found === value || this.#isCause(window, offset)) return undefined
    if (this.#isOffer(window, offset) && (value & ~found) === 0) return undefined
    const where = `register 0x${offset.toString(16)} of window ${window}`
    return `${where} reads 0x${found.toString(16)}, the trace has 0x${value.toString(16)}`
  }

  #ring(window: number, doorbell: number): void {
    const device = this.#window(window) as BusDevice & { readonly doorbells?: readonly Doorbell[] }
    const bell = device.doorbells?.[doorbell]
    if (bell === undefined) throw new Error(`the transport has no doorbell ${doorbell} in window ${window}`)
    bell.ring()
  }

  #window(index: number): BusDevice {
    const window = this.#windows[index]
    if (window === undefined) throw new Error(`the transport has no window ${index}`)
    return window
  }
}

/** A slot that lets everything pass that the trace lets pass. */
class ReplaySlot implements PciSlot {
  readonly address = "00:01.0"
  readonly memory: GuestMemory
  busMaster = false
  msixEnabled = false
  readonly #interrupted: (vector: number) => void
  readonly #vectors = new Map<number, Interrupt>()

  constructor(memory: GuestMemory, interrupted: (vector: number) => void) {
    this.memory = memory
    this.#interrupted = interrupted
  }

  msix(vector: number): Interrupt {
    const known = this.#vectors.get(vector)
    if (known !== undefined) return known
    const made = { signal: () => this.#interrupted(vector) }
    this.#vectors.set(vector, made)
    return made
  }

  setIntx(): void {}

  setLiveReads(): void {}
}

/** The pages that the guest had its rings in. */
function ringRegions(plan: ReplayPlan): { guestAddress: number; size: number }[] {
  const pages = new Set<number>()
  for (const [number, setup] of plan.setups) {
    const isPacked = (plan.featuresAt(number) & FEATURE.RING_PACKED) !== 0n
    for (const [address, bytes] of partsOf(setup, isPacked)) {
      const last = Math.floor((address + bytes - 1) / PAGE)
      for (let page = Math.floor(address / PAGE); page <= last; page++) pages.add(page)
    }
  }
  const regions: { guestAddress: number; size: number }[] = []
  for (const page of [...pages].sort((a, b) => a - b)) {
    const before = regions.at(-1)
    if (before !== undefined && before.guestAddress + before.size === page * PAGE) before.size += PAGE
    else regions.push({ guestAddress: page * PAGE, size: PAGE })
  }
  return regions
}

/** Address and bytes of the parts of a ring (2.7, 2.8). */
function partsOf({ size, desc, avail, used }: QueueSetup, isPacked: boolean): [number, number][] {
  const [driver, device] = isPacked ? [4, 4] : [6 + 2 * size, 6 + 8 * size]
  return [
    [desc, 16 * size],
    [avail, driver],
    [used, device],
  ]
}
