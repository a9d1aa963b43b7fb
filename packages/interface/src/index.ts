export type { AcceleratedBusDevice, AccessSize, BusDevice, Doorbell, RegisterPage } from "./bus.js"
export {
  ConfigError,
  GuestAddressError,
  RestoreError,
  StateError,
  SystemError,
  VirtkitError,
} from "./errors.js"
export type { ExternalQueue, ExternalQueues } from "./external.js"
export type { Interrupt } from "./interrupt.js"
export type { GuestMemory, GuestMemoryRegion } from "./memory.js"
export type {
  PciBar,
  PciBarWindow,
  PciCapability,
  PciFunction,
  PciIdentity,
  PciMsixLayout,
  PciSlot,
} from "./pci.js"
export type { Chain, Queue } from "./queue.js"
export type { Stateful } from "./state.js"
export type { DeviceContext, VirtioDevice } from "./virtio.js"
