export * as aml from "./aml/index.js"
export { ACPI_AREA, type AcpiArea, type AcpiBlob, type AcpiTables, buildAcpiTables } from "./build.js"
export type {
  CpuDescription,
  FixedHardware,
  InterruptOverride,
  MachineDescription,
  PciAddressRange,
  PciHostDescription,
  PciRootPortDescription,
  PowerManagement,
  VirtioMmioDescription,
} from "./description.js"
export { acpiTable } from "./table.js"
