import type {
  Interrupt,
  PciBar,
  PciCapability,
  PciFunction,
  PciIdentity,
  PciMsixLayout,
  PciSlot,
} from "@virtkit/interface"
import type { TraceWindowKind } from "./record-format.js"
import { recordWindow, type TraceLog } from "./record-window.js"
import { VIRTIO_PCI_CAP as CAP } from "./spec.js"

/** Capability ID of a vendor's own (PCI 3.0, appendix H). */
const VENDOR_SPECIFIC = 0x09

/** A virtio-pci transport around another: the accesses of its BARs, its interrupts and what its slot allows. */
export class RecordedFunction implements PciFunction {
  readonly name: string
  readonly identity: PciIdentity
  readonly bars: readonly PciBar[]
  readonly msix?: PciMsixLayout
  readonly hasIntx: boolean
  readonly capabilities: readonly PciCapability[]
  readonly #inner: PciFunction
  readonly #log: TraceLog
  #slot: PciSlot | undefined
  #busMaster = false
  #msixEnabled = false

  /** `nextWindow` numbers the windows of the trace. */
  constructor(inner: PciFunction, nextWindow: () => number, log: TraceLog) {
    this.#inner = inner
    this.#log = log
    this.name = inner.name
    this.identity = inner.identity
    this.hasIntx = inner.hasIntx
    this.capabilities = inner.capabilities
    if (inner.msix !== undefined) this.msix = inner.msix
    const beforeAccess = () => this.#followSlot()
    this.bars = inner.bars.map((bar) => ({
      ...bar,
      windows: bar.windows.map((window) => {
        const layout = layoutOf(inner, bar.index, window.offset)
        return { ...window, device: recordWindow(window.device, layout, nextWindow(), log, beforeAccess) }
      }),
    }))
  }

  attach(slot: PciSlot): void {
    this.#slot = slot
    this.#followSlot()
    this.#inner.attach(this.#recordedSlot(slot))
  }

  commandChanged(): void {
    this.#followSlot()
    this.#inner.commandChanged?.()
  }

  reset(): void | Promise<void> {
    this.#followSlot()
    this.#log.add({ kind: "function-reset" })
    return this.#inner.reset()
  }

  close(): Promise<void> {
    return this.#inner.close()
  }

  state(): unknown {
    return this.#inner.state()
  }

  restore(state: unknown): void {
    this.#inner.restore(state)
  }

  /** Nobody tells when MSI-X is enabled, so it is looked at before each access. */
  #followSlot(): void {
    const { busMaster = false, msixEnabled = false } = this.#slot ?? {}
    if (busMaster === this.#busMaster && msixEnabled === this.#msixEnabled) return
    this.#busMaster = busMaster
    this.#msixEnabled = msixEnabled
    this.#log.add({ kind: "slot", busMaster, msix: msixEnabled })
  }

  #recordedSlot(slot: PciSlot): PciSlot {
    const vectors = new Map<number, Interrupt>()
    return {
      get address() {
        return slot.address
      },
      memory: slot.memory,
      get busMaster() {
        return slot.busMaster
      },
      get msixEnabled() {
        return slot.msixEnabled
      },
      msix: (vector) => {
        const inner = slot.msix(vector)
        if (inner === undefined) return undefined
        const known = vectors.get(vector)
        if (known !== undefined) return known
        const signal = () => {
          this.#log.add({ kind: "interrupt", vector })
          inner.signal()
        }
        const recorded = { signal }
        vectors.set(vector, recorded)
        return recorded
      },
      setIntx: (asserted) => {
        this.#log.add({ kind: "intx", asserted })
        slot.setIntx(asserted)
      },
      setLiveReads: (on) => slot.setLiveReads(on),
    }
  }
}

/** What a window is, by the capabilities that point to structures (4.1.4). */
function layoutOf(fn: PciFunction, bar: number, offset: number): TraceWindowKind {
  for (const { id, body } of fn.capabilities) {
    if (id !== VENDOR_SPECIFIC) continue
    // The offsets of the specification count from the ID, the body begins two bytes behind it.
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength)
    if (view.getUint8(CAP.BAR - 2) !== bar || view.getUint32(CAP.OFFSET - 2, true) !== offset) continue
    const type = view.getUint8(CAP.CFG_TYPE - 2)
    if (type === CAP.COMMON_CFG) return "pci-common"
    if (type === CAP.ISR_CFG) return "pci-isr"
  }
  return "other"
}
