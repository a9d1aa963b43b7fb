export { TestAllocator } from "./allocator.js"
export { type BlkConformanceOptions, blkConformance } from "./blk-conformance.js"
export type {
  DeviceBenchOptions,
  DeviceTransport,
  DeviceTransportOptions,
} from "./conformance/device-bench.js"
export type {
  TestRunner,
  TransportConformanceOptions,
  TransportSetup,
  TransportUnderTest,
} from "./conformance/fixture.js"
export type { RingKind } from "./conformance/raw-ring.js"
export type { MadeQueue, MakeQueue, QueueUnderTest, RingQueueOptions } from "./conformance/ring-bench.js"
export type { WrongStates } from "./conformance/ring-state.js"
export {
  type ConsoleConformanceOptions,
  type ConsoleUnderTest,
  consoleConformance,
} from "./console-conformance.js"
export { type DeviceConformanceOptions, deviceConformance } from "./device-conformance.js"
export { DeviceHarness, type DeviceHarnessOptions, type HarnessQueueOptions } from "./device-harness.js"
export { EchoDevice, type EchoDeviceOptions } from "./echo-device.js"
export * as guestCode from "./guest-code.js"
export { FakeInterrupt } from "./interrupt.js"
export { TestMemory, type TestMemoryOptions, type TestRegion } from "./memory.js"
export { MmioDriver, type MmioDriverOptions } from "./mmio-driver.js"
export { type NetConformanceOptions, type NetUnderTest, netConformance } from "./net-conformance.js"
export { PackedRingDriver, type PackedRingOptions, type RawPackedDescriptor } from "./packed-ring.js"
export {
  type PciAccess,
  type PciAddress,
  PciDriver,
  type PciDriverBar,
  type PciDriverOptions,
} from "./pci-driver.js"
export {
  FakeMsi,
  FakePciHost,
  type FakePciHostOptions,
  type FakePciMapping,
  FakeRegisterPage,
  type PciSpace,
} from "./pci-host.js"
export { FakePciSlot, type FakePciSlotOptions } from "./pci-slot.js"
export { PCI, PCI_CAPABILITY, PCI_COMMAND, PCI_EXPRESS, PCI_MSIX, PCI_STATUS } from "./pci-spec.js"
export { readTrace, type Trace } from "./record-file.js"
export {
  type TraceBuffer,
  type TraceDoorbell,
  TraceError,
  type TraceEvent,
  type TraceHeader,
  type TraceRecord,
  type TraceWindowKind,
} from "./record-format.js"
export { type ReplayDifference, type ReplayOptions, type ReplayResult, replay } from "./record-player.js"
export type { DeviceTargetOptions, ReplayQueueOptions } from "./record-target.js"
export type { TransportTargetOptions } from "./record-transport-target.js"
export type { RecordedBusDevice } from "./record-window.js"
export { Recorder, type RecorderOptions, record } from "./recorder.js"
export { type RingConformanceOptions, ringConformance } from "./ring-conformance.js"
export type { ChainLayout, ChainRequest, DriverBuffer, DriverChain, RingDriver } from "./ring-driver.js"
export { type RngConformanceOptions, rngConformance } from "./rng-conformance.js"
export {
  DESCRIPTOR,
  FEATURE,
  INTERRUPT,
  MMIO,
  MMIO_MAGIC,
  NO_VECTOR,
  PACKED_DESCRIPTOR,
  PACKED_EVENT,
  RING_FLAG,
  STATUS,
  VIRTIO_PCI_CAP,
  VIRTIO_PCI_COMMON,
} from "./spec.js"
export { type RawDescriptor, SplitRingDriver, type SplitRingOptions } from "./split-ring.js"
export { transportConformance } from "./transport-conformance.js"
export type { RingAddresses, StartOptions, TransportDriver } from "./transport-driver.js"
export { VirtioDriver, type VirtioDriverOptions } from "./virtio-driver.js"
export {
  type PciFunctionAccess,
  PciTransportDriver,
  type PciTransportDriverOptions,
} from "./virtio-pci-driver.js"
export { until } from "./wait.js"
