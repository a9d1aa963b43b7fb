import type { VirtioMmioDescription } from "@virtkit/acpi"
import type { Bus } from "@virtkit/bus"
import type { GuestMemory, VirtioDevice } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import { VirtioMmio } from "@virtkit/virtio"
import type { Doorbells } from "./doorbells.js"
import type { Interrupts } from "./interrupts.js"
import { VIRTIO_GSIS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE } from "./machine.js"
import { SlotRegisterPage } from "./register-page.js"

export interface VirtioBusOptions {
  readonly vm: KvmVm
  readonly mmio: Bus
  readonly memory: GuestMemory
  readonly interrupts: Interrupts
  readonly doorbells: Doorbells
  /** The first memory slot that register pages may use; undefined: every register read exits. */
  readonly firstPageSlot: number | undefined
  readonly onError: (error: Error) => void
  readonly onNeedsReset: (device: string, reason: string) => void
}

/** Puts virtio devices behind virtio-mmio transports, at the addresses and interrupts of docs/architecture.md. */
export class VirtioBus {
  readonly transports: VirtioMmio[] = []
  /** For the ACPI tables. */
  readonly descriptions: VirtioMmioDescription[] = []
  readonly #options: VirtioBusOptions

  constructor(options: VirtioBusOptions) {
    this.#options = options
  }

  attach(device: VirtioDevice): void {
    const { vm, mmio, memory, interrupts, doorbells, firstPageSlot, onError, onNeedsReset } = this.#options
    const index = this.transports.length
    const address = VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_STRIDE
    // checkOptions refused more devices than there are interrupts.
    const gsi = VIRTIO_GSIS[index]!
    const transport = new VirtioMmio({
      device,
      memory,
      interrupt: interrupts.line(gsi),
      onError,
      onNeedsReset: (reason) => onNeedsReset(device.name, reason),
    })
    mmio.claim(address, VIRTIO_MMIO_STRIDE, transport)
    for (const doorbell of transport.doorbells) doorbells.add(address, doorbell)
    if (firstPageSlot !== undefined) {
      const page = new SlotRegisterPage(vm, firstPageSlot + index, address)
      transport.setRegisterPage(page)
      page.show()
    }
    this.transports.push(transport)
    this.descriptions.push({ address, gsi })
  }
}
