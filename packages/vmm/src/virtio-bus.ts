import type { VirtioMmioDescription } from "@virtkit/acpi"
import { ConfigError, type GuestMemory, type VirtioDevice } from "@virtkit/interface"
import { type RingOffers, VirtioMmio } from "@virtkit/virtio"
import type { AddressSpaces } from "./address-spaces.js"
import type { Interrupts } from "./interrupts.js"
import { VIRTIO_GSIS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE } from "./machine.js"

export interface VirtioBusOptions {
  readonly spaces: AddressSpaces
  readonly memory: GuestMemory
  readonly interrupts: Interrupts
  readonly rings: RingOffers
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

  /** Throws {@link ConfigError} when there is no interrupt left. */
  attach(device: VirtioDevice): void {
    const { spaces, memory, interrupts, rings, onError, onNeedsReset } = this.#options
    const index = this.transports.length
    const address = VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_STRIDE
    const gsi = VIRTIO_GSIS[index]
    if (gsi === undefined) {
      throw new ConfigError(
        `devices: virtio-mmio has room for ${VIRTIO_GSIS.length}; use the transport "pci"`,
      )
    }
    const transport = new VirtioMmio({
      ...rings,
      device,
      memory,
      interrupt: interrupts.line(gsi),
      onError,
      onNeedsReset: (reason) => onNeedsReset(device.name, reason),
    })
    spaces.map("memory", address, VIRTIO_MMIO_STRIDE, transport)
    this.transports.push(transport)
    this.descriptions.push({ address, gsi })
  }
}
