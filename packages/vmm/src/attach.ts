import type { MachineDescription } from "@virtkit/acpi"
import type { AddressRange } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import type { Kvm } from "@virtkit/kvm"
import { ACPI_EVENT_PCI_HOT_PLUG } from "@virtkit/legacy"
import { physicalAddressBits } from "./cpuid.js"
import type { VmConfig } from "./options.js"
import { isVirtio, PciRoot, type VmDevice } from "./pci-root.js"
import type { Platform } from "./platform.js"
import { modelCpuid } from "./vcpu-setup.js"
import { VirtioBus, type VirtioBusOptions } from "./virtio-bus.js"

/** A virtio transport of either kind, as statistics see it. */
export interface Transport {
  readonly name: string
  readonly device: object
  readonly queues: readonly ({ readonly counters: object } | undefined)[]
}

/** The devices on their bus, and what the rest of the machine has to know of that. */
export interface Attached {
  readonly pci: PciRoot | undefined
  readonly transports: () => readonly Transport[]
  readonly reserved: readonly AddressRange[]
  /** For the ACPI tables, when the kernel is known. */
  describe(conf1: boolean): Pick<MachineDescription, "pci" | "virtioMmio">
}

export function attachToPci(
  kvm: Kvm,
  config: VmConfig,
  devices: readonly VmDevice[],
  platform: Platform,
  shared: VirtioBusOptions,
  machine: { readonly hasFirmware: boolean; readonly onReset: () => void },
): Attached {
  const pci = new PciRoot({
    ...shared,
    ...machine,
    coverAbsent: (address, size) => shared.spaces.coverAbsent(address, size),
    hotPlugSlots: config.hotPlugSlots,
    physicalBits: physicalAddressBits(modelCpuid(kvm, config.cpu)),
    raiseHotPlug: () => platform.power.raiseEvent(ACPI_EVENT_PCI_HOT_PLUG),
  })
  for (const device of devices) pci.attach(device)
  return {
    pci,
    transports: () => pci.transports,
    reserved: [pci.reserved],
    describe: (conf1) => ({ pci: pci.finish(conf1) }),
  }
}

export function attachToMmio(devices: readonly VmDevice[], shared: VirtioBusOptions): Attached {
  const virtio = new VirtioBus(shared)
  for (const device of devices) {
    if (!isVirtio(device))
      throw new ConfigError(`${device.name} is a PCI device: it needs the transport "pci"`)
    virtio.attach(device)
  }
  return {
    pci: undefined,
    transports: () => virtio.transports,
    reserved: [],
    describe: () => ({ virtioMmio: virtio.descriptions }),
  }
}
