import type { GuestMemory, VirtioDevice } from "@virtkit/interface"
import {
  FakeInterrupt,
  FakePciSlot,
  MmioDriver,
  PciTransportDriver,
  TestMemory,
  type VirtioDriver,
} from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { VirtioPci } from "@virtkit/virtio-pci"

export const TRANSPORTS = ["virtio-mmio", "virtio-pci with MSI-X", "virtio-pci with INTx"] as const

export type TransportName = (typeof TRANSPORTS)[number]

export interface Machine {
  readonly memory: GuestMemory
  readonly transport: VirtioMmio | VirtioPci
  readonly driver: VirtioDriver
  readonly interrupt: FakeInterrupt
  /** What onError and onNeedsReset were given. */
  readonly errors: unknown[]
}

/** A device behind any of the transports, and the driver for it. */
export function machine(
  name: TransportName,
  device: VirtioDevice,
  memory: GuestMemory = new TestMemory({ regions: [{ guestAddress: 0, size: 4 << 20 }] }),
): Machine {
  const interrupt = new FakeInterrupt()
  const errors: unknown[] = []
  const report = {
    onError: (error: Error) => errors.push(error),
    onNeedsReset: (reason: string) => errors.push(reason),
  }
  if (name === "virtio-mmio") {
    const transport = new VirtioMmio({ device, memory, interrupt, ...report })
    return { memory, transport, driver: new MmioDriver({ device: transport, memory }), interrupt, errors }
  }
  const msix = name === "virtio-pci with MSI-X"
  const transport = new VirtioPci({ device, ...report })
  const access = new FakePciSlot({ function: transport, memory, interrupt, msix })
  const vectors = msix ? transport.msix.vectors : 0
  return { memory, transport, driver: new PciTransportDriver({ access, memory, vectors }), interrupt, errors }
}
