import type { AcpiArea } from "@virtkit/acpi"
import {
  type AddressRange,
  type FirmwareImage,
  firmwareCmos,
  firmwareFiles,
  firmwareTables,
  type LoadedKernel,
  loadFirmware,
} from "@virtkit/boot"
import type { Bus } from "@virtkit/bus"
import type { GuestMemory } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import {
  DEBUG_CONSOLE_PORT,
  DebugConsole,
  FW_CFG_BOOT_MENU,
  FW_CFG_CPUS,
  FW_CFG_MAX_CPUS,
  FW_CFG_PORTS,
  FwCfg,
} from "@virtkit/legacy"
import { mmapMemory } from "@virtkit/memory/mmap"
import { A20_PORT, FW_CFG_PORT, SERIAL_PORT } from "./machine.js"
import type { Teardown } from "./teardown.js"

/** Room for the ACPI tables at the end of low RAM: firmware has the place below 1 MiB for itself. */
const TABLE_BYTES = 0x2_0000
/** What the A20 port reads as: open. */
const A20_OPEN = 2

export interface FirmwareParts {
  readonly vm: KvmVm
  /** A free memory slot, for the ROM. */
  readonly slot: number
  readonly ports: Bus
  readonly cpus: number
  /** One more than the highest APIC ID. */
  readonly apicIds: number
  /** The ACPI root pointer. */
  readonly rsdp: Uint8Array
  /** Beside RAM and the ROM, such as the configuration space of PCI. */
  readonly reserved: readonly AddressRange[]
  /** Gets what firmware writes to its debug port; without it there is no such port. */
  readonly onDebug: ((byte: number) => void) | undefined
  readonly teardown: Teardown
}

/** What a machine has, and where it has it, only if it starts firmware: docs/firmware.md. */
export class FirmwareBoot {
  readonly #image: FirmwareImage
  readonly #memory: GuestMemory
  readonly #tables: AddressRange

  /** Throws ConfigError when there is too little memory for it. */
  constructor(image: FirmwareImage, memory: GuestMemory) {
    this.#image = image
    this.#memory = memory
    this.#tables = firmwareTables(memory, TABLE_BYTES)
  }

  /** Where the ACPI tables go. */
  get acpiArea(): AcpiArea {
    return { start: this.#tables.address, end: this.#tables.address + this.#tables.size }
  }

  /** What the CMOS memory holds. */
  get cmos(): ReadonlyMap<number, number> {
    return firmwareCmos(this.#memory, this.#tables)
  }

  /** Maps the ROM and adds the devices that firmware needs and no kernel. */
  install(parts: FirmwareParts): LoadedKernel {
    const { vm, ports, onDebug } = parts
    const loaded = loadFirmware(this.#memory, this.#image)
    this.#mapRom(parts, loaded.rom.address, loaded.rom.bytes)
    vm.setPort(A20_PORT, 1, { ignoreWrites: true, constant: A20_OPEN })
    ports.claim(FW_CFG_PORT, FW_CFG_PORTS, this.#configuration(parts, loaded.image))
    if (onDebug !== undefined) ports.claim(DEBUG_CONSOLE_PORT, 1, new DebugConsole({ onByte: onDebug }))
    return loaded
  }

  #mapRom({ vm, slot, teardown }: FirmwareParts, address: number, bytes: Uint8Array): void {
    const rom = mmapMemory([{ guestAddress: address, size: bytes.length }])
    teardown.add(() => rom.close())
    rom.write(address, bytes)
    const hostAddress = rom.hostAddress(address, bytes.length)
    vm.setMemorySlot({
      slot,
      guestAddress: address,
      size: bytes.length,
      hostAddress,
      readonly: true,
      owner: rom,
    })
  }

  #configuration({ cpus, apicIds, rsdp, reserved }: FirmwareParts, rom: AddressRange): FwCfg {
    const [memory, tables] = [this.#memory, this.#tables]
    return new FwCfg({
      memory,
      items: new Map([
        [FW_CFG_CPUS, uint16(cpus)],
        [FW_CFG_MAX_CPUS, uint16(apicIds)],
        [FW_CFG_BOOT_MENU, uint16(0)],
      ]),
      files: firmwareFiles({ memory, tables, reserved: [...reserved, rom], rsdp, serialPort: SERIAL_PORT }),
    })
  }
}

function uint16(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, value >> 8)
}
