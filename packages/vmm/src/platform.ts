import type { CpuDescription, MachineDescription } from "@virtkit/acpi"
import type { Bus } from "@virtkit/bus"
import type { Interrupt } from "@virtkit/interface"
import {
  ACPI_PM_REGISTERS,
  ACPI_RESET_VALUE,
  ACPI_S5_SLEEP_TYPE,
  AcpiPm,
  CmosRtc,
  I8042,
  PVPANIC_PANICKED,
  PvPanic,
  Serial16550,
} from "@virtkit/legacy"
import {
  ACPI_GSI,
  ACPI_PM_PORT,
  I8042_PORT,
  PVPANIC_PORT,
  RTC_GSI,
  RTC_PORT,
  SCI_GSI,
  SERIAL_GSI,
  SERIAL_PORT,
} from "./machine.js"

export interface PlatformOptions {
  readonly ports: Bus
  /** The interrupt of a GSI. */
  readonly interrupt: (gsi: number) => Interrupt
  /** Contents of CMOS memory, by register. */
  readonly cmos: ReadonlyMap<number, number> | undefined
  readonly onPowerOff: () => void
  readonly onReset: () => void
  readonly onPanic: () => void
}

/** The devices that every machine has, on the port bus. */
export class Platform {
  readonly serial: Serial16550
  readonly power: AcpiPm
  readonly #rtc: CmosRtc

  constructor({ ports, interrupt, cmos, onPowerOff, onReset, onPanic }: PlatformOptions) {
    this.serial = new Serial16550({ interrupt: interrupt(SERIAL_GSI) })
    this.power = new AcpiPm({ interrupt: interrupt(ACPI_GSI), onPowerOff, onReset })
    this.#rtc = new CmosRtc({ interrupt: interrupt(RTC_GSI), ...(cmos && { memory: cmos }) })
    ports.claim(SERIAL_PORT, 8, this.serial)
    ports.claim(I8042_PORT, 5, new I8042({ onReset }))
    ports.claim(RTC_PORT, 2, this.#rtc)
    // With a crash kernel loaded (PVPANIC_CRASH_LOADED) the guest goes on, to write its dump.
    const onEvent = (event: number) => {
      if ((event & PVPANIC_PANICKED) !== 0) onPanic()
    }
    ports.claim(PVPANIC_PORT, 1, new PvPanic({ onPanic: onEvent }))
    ports.claim(ACPI_PM_PORT, ACPI_PM_REGISTERS.length, this.power)
  }

  close(): void {
    this.serial.close()
    this.#rtc.close()
  }
}

/**
 * The same devices as ACPI tells them to the guest: hardware-reduced, or, if `legacy`, with the fixed hardware that a guest
 * needs which routes interrupts as PCs did before ACPI.
 */
export function describePlatform(cpus: readonly CpuDescription[], legacy: boolean): MachineDescription {
  const fixedHardware = {
    eventPort: ACPI_PM_PORT + ACPI_PM_REGISTERS.pm1Event,
    controlPort: ACPI_PM_PORT + ACPI_PM_REGISTERS.pm1Control,
    gsi: SCI_GSI,
  }
  return {
    cpus,
    powerManagement: {
      sleepControlPort: ACPI_PM_PORT + ACPI_PM_REGISTERS.sleepControl,
      sleepStatusPort: ACPI_PM_PORT + ACPI_PM_REGISTERS.sleepStatus,
      reset: { port: ACPI_PM_PORT + ACPI_PM_REGISTERS.reset, value: ACPI_RESET_VALUE },
      s5SleepType: ACPI_S5_SLEEP_TYPE,
      ...(legacy ? { fixedHardware } : {}),
      powerButton: { statusPort: ACPI_PM_PORT + ACPI_PM_REGISTERS.eventStatus, gsi: ACPI_GSI },
    },
    serialPorts: [{ port: SERIAL_PORT, gsi: SERIAL_GSI }],
    rtc: { port: RTC_PORT, gsi: RTC_GSI },
    pvpanic: { port: PVPANIC_PORT },
  }
}
