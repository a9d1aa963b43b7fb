import type { Aml } from "./aml/index.js"

/** The machine that the tables describe, as plain data. GSI numbers are inputs of the I/O APIC. */
export interface MachineDescription {
  /** In the order of their processor UIDs, the boot processor first. */
  readonly cpus: readonly CpuDescription[]
  /** Default: id 0 at 0xfec00000, GSI base 0. */
  readonly ioApic?: { readonly id: number; readonly address: number; readonly gsiBase: number }
  /** ISA interrupts that are not the GSI of the same number, edge-triggered and active high. */
  readonly interruptOverrides?: readonly InterruptOverride[]
  /** Power-off, reset and power button registers; without it the guest has none of them. */
  readonly powerManagement?: PowerManagement
  /** 16550 serial ports, 8 ports each. */
  readonly serialPorts?: readonly { readonly port: number; readonly gsi: number }[]
  /** CMOS real-time clock, ports `port` and `port + 1`. */
  readonly rtc?: { readonly port: number; readonly gsi: number }
  /** virtio-mmio transports: `size` bytes of registers (default 0x1000) at `address`. */
  readonly virtioMmio?: readonly VirtioMmioDescription[]
  /** The pvpanic port, by which a guest kernel tells that it panicked. */
  readonly pvpanic?: { readonly port: number }
  /** A PCI Express host bridge, segment 0. */
  readonly pci?: PciHostDescription
  /** AML that other packages add to the end of the DSDT, at its root. */
  readonly extraAml?: readonly Aml[]
  /** Whole tables (see `acpiTable`) that other packages add: SRAT for instance. */
  readonly extraTables?: readonly Uint8Array[]
}

export interface CpuDescription {
  /** Of its local APIC: below 255 (not 255, the broadcast ID) listed as an xAPIC, above as an x2APIC. */
  readonly apicId: number
}

export interface InterruptOverride {
  /** ISA interrupt line, 0 to 15. */
  readonly irq: number
  readonly gsi: number
  /** Default: as on ISA, that is edge and high. */
  readonly trigger?: "edge" | "level"
  readonly polarity?: "high" | "low"
}

/**
 * The registers of a hardware-reduced machine (ACPI 4.8.3.7), each one I/O port of one byte; and, where
 * `fixedHardware` is there, those of an ordinary one.
 */
export interface PowerManagement {
  readonly sleepControlPort: number
  readonly sleepStatusPort: number
  readonly reset: { readonly port: number; readonly value: number }
  /** SLP_TYP of soft-off. Default: 5. */
  readonly s5SleepType?: number
  /**
   * The PM1 registers of an ordinary PC (ACPI 4.8.3.1 and 4.8.3.2) and its 8259 interrupt controllers. Without them the
   * machine is hardware-reduced. That boots with less ado, but Linux then never falls back to the 8259 and the 8254
   * timer, which it needs when it is told not to take interrupt routing from ACPI (`pci=noacpi`, `acpi=noirq`).
   */
  readonly fixedHardware?: FixedHardware
  /**
   * The power button, behind a generic event device: its GSI (edge, active high) says that the status port has an event.
   * Bit 0 is the power button, bit 1 PCI hot plug; writing 1 to a bit clears it.
   */
  readonly powerButton?: { readonly statusPort: number; readonly gsi: number }
}

export interface FixedHardware {
  /** PM1 status at `eventPort`, PM1 enable 2 ports above: 16 bits each, no event ever set. */
  readonly eventPort: number
  /** PM1 control: 16 bits, SCI_EN always set (the machine has no mode but ACPI's). */
  readonly controlPort: number
  /** The system control interrupt, 0 to 15, level-triggered: nothing else may use it. */
  readonly gsi: number
}

export interface VirtioMmioDescription {
  readonly address: number
  readonly size?: number
  /** Edge-triggered, active high, not shared. */
  readonly gsi: number
}

/** A range of ports or of guest physical addresses. Size in bytes. */
export interface PciAddressRange {
  readonly address: number
  readonly size: number
}

export interface PciHostDescription {
  /**
   * Configuration space in memory, 1 MiB a bus from bus 0 on, below 4 GiB. The guest's memory map must reserve it:
   * Linux ignores it otherwise.
   */
  readonly ecam: { readonly address: number; readonly buses: number }
  /** Where BARs may lie. */
  readonly windows: {
    readonly io?: PciAddressRange
    /** Several where something else lies between them, such as ECAM. */
    readonly memory32?: PciAddressRange | readonly PciAddressRange[]
    readonly memory64?: PciAddressRange
  }
  /** Whether configuration space can be reached through ports 0xcf8 to 0xcff too. */
  readonly conf1?: boolean
  /**
   * GSIs of the four interrupt lines of the root bus, level-triggered. Pin p (0 is INTA#) of device d on it drives line
   * (d + p) % 4; what is behind a root port drives the pins of that port.
   */
  readonly interruptGsis: readonly [number, number, number, number]
  /** PCI Express root ports on bus 0, each with one device behind it. */
  readonly rootPorts?: readonly PciRootPortDescription[]
  /**
   * Devices behind the root ports come and go. Three 32-bit registers from `port` on, a bit a slot: inserted, removal
   * requested (both cleared by writing ones), eject (write-only). Bit 1 of the event status (see
   * `PowerManagement.powerButton`, which must be there) says that one of the first two has something.
   */
  readonly hotPlug?: { readonly port: number }
}

export interface PciRootPortDescription {
  /** Device number on bus 0. */
  readonly device: number
  /** Number of the slot, as the guest shows it, and its bit in the registers of the hot-plug controller: 0 to 31. */
  readonly slot: number
}
