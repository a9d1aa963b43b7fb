export {
  ACPI_EVENT_PCI_HOT_PLUG,
  ACPI_EVENT_POWER_BUTTON,
  ACPI_PM_REGISTERS,
  ACPI_RESET_VALUE,
  ACPI_S5_SLEEP_TYPE,
  AcpiPm,
  type AcpiPmOptions,
} from "./acpi-pm.js"
export { CmosRtc, type CmosRtcOptions } from "./cmos-rtc.js"
export { DEBUG_CONSOLE_PORT, DebugConsole, type DebugConsoleOptions } from "./debug-console.js"
export { DebugExit, type DebugExitOptions } from "./debug-exit.js"
export {
  FW_CFG_BOOT_MENU,
  FW_CFG_CPUS,
  FW_CFG_MAX_CPUS,
  FW_CFG_PORTS,
  FwCfg,
  type FwCfgOptions,
} from "./fw-cfg.js"
export type { FwCfgFiles } from "./fw-cfg-items.js"
export { I8042, type I8042Options } from "./i8042.js"
export {
  PVPANIC_CRASH_LOADED,
  PVPANIC_PANICKED,
  PVPANIC_PORT,
  PvPanic,
  type PvPanicOptions,
} from "./pvpanic.js"
export { ResetControl, type ResetControlOptions } from "./reset-control.js"
export { Serial16550, type SerialCounters, type SerialOptions } from "./serial.js"
