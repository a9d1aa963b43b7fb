export { KernelFormatError } from "./errors.js"
export { type FirmwareImage, type LoadedFirmware, loadFirmware, readFirmware } from "./firmware.js"
export {
  type FirmwareFilesOptions,
  firmwareCmos,
  firmwareFiles,
  firmwareTables,
} from "./firmware-data.js"
export type { Placed } from "./initrd.js"
export {
  type KernelKind,
  type LoadedKernel,
  type LoadOptions,
  loadKernel,
  loadRaw,
  type RawOptions,
} from "./load.js"
export { type AddressRange, MEMORY_TYPE, type MemoryMapEntry, memoryMap } from "./memory-map.js"
export type { CpuSetup, DescriptorTable, GeneralRegisters, Segment, SpecialRegisters } from "./registers.js"
export { type UnpackOptions, unpackKernel } from "./unpack/index.js"
