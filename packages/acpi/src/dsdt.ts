import * as aml from "./aml/index.js"
import type { MachineDescription, PowerManagement, VirtioMmioDescription } from "./description.js"
import { PCI_HOT_PLUG_METHOD, pciHost } from "./pci.js"
import { acpiTable } from "./table.js"

/** Notification value of a control method power button: pressed (ACPI 5.6.6, table 5.178). */
const POWER_BUTTON_PRESSED = 0x80

/** Bits of the event status register. */
const EVENT = { powerButton: 0x01, pciHotPlug: 0x02 } as const

/** The differentiated system description table: the devices that a guest cannot find by itself. */
export function dsdt(machine: MachineDescription): Uint8Array {
  const terms = [
    aml.scope(
      "\\_SB",
      ...processors(machine),
      ...legacyDevices(machine),
      ...virtioDevices(machine),
      ...(machine.pci ? pciHost(machine.pci) : []),
    ),
    ...powerManagement(machine),
    ...(machine.extraAml ?? []),
  ]
  // Revision 2 makes integers 64 bits wide.
  return acpiTable("DSDT", 2, aml.concat(terms))
}

function processors({ cpus }: MachineDescription): aml.Aml[] {
  return cpus.map((_, uid) =>
    aml.device(numbered("C", 3, uid), aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", uid)),
  )
}

function legacyDevices(machine: MachineDescription): aml.Aml[] {
  const { serialPorts = [], rtc, pvpanic } = machine
  const devices = serialPorts.map(({ port, gsi }, index) =>
    device(numbered("COM", 1, index + 1), aml.eisaId("PNP0501"), index, aml.io(port, 8), aml.interrupt(gsi)),
  )
  if (rtc) devices.push(device("RTC", aml.eisaId("PNP0B00"), 0, aml.io(rtc.port, 2), aml.interrupt(rtc.gsi)))
  if (pvpanic) devices.push(device("PEVT", aml.string("QEMU0001"), 0, aml.io(pvpanic.port, 1)))
  return devices
}

function virtioDevices({ virtioMmio = [] }: MachineDescription): aml.Aml[] {
  return virtioMmio.map(({ address, size = 0x1000, gsi }: VirtioMmioDescription, index) =>
    device(
      numbered("VM", 2, index),
      aml.string("LNRO0005"),
      index,
      aml.memory32Fixed(address, size),
      aml.interrupt(gsi),
    ),
  )
}

function powerManagement({ powerManagement: pm, pci }: MachineDescription): aml.Aml[] {
  if (!pm) return []
  const s5 = aml.name("\\_S5", aml.pack(pm.s5SleepType ?? 5, 0, 0, 0))
  return pm.powerButton
    ? [s5, aml.scope("\\_SB", ...events(pm.powerButton, pci?.hotPlug !== undefined))]
    : [s5]
}

/** The power button and the generic event device, which hands on the events of all that has some. */
function events(
  { statusPort, gsi }: NonNullable<PowerManagement["powerButton"]>,
  hotPlug: boolean,
): aml.Aml[] {
  const pending = aml.local(0)
  const button = aml.device("PWRB", aml.name("_HID", aml.eisaId("PNP0C0C")), aml.name("_UID", 0))
  const eventDevice = aml.device(
    "GED",
    aml.name("_HID", aml.string("ACPI0013")),
    aml.name("_UID", 0),
    aml.name("_CRS", aml.resourceTemplate(aml.interrupt(gsi))),
    aml.operationRegion("EREG", "systemIO", statusPort, 1),
    aml.field("EREG", { access: "byte", update: "writeAsZeros" }, [["ESTS", 8]]),
    // Cleared before it is acted on: an event that comes later raises the edge again.
    aml.method(
      "_EVT",
      { args: 1, serialized: true },
      aml.store("ESTS", pending),
      aml.store(pending, "ESTS"),
      aml.ifThen(aml.and(pending, EVENT.powerButton), aml.notify("PWRB", POWER_BUTTON_PRESSED)),
      ...(hotPlug ? [aml.ifThen(aml.and(pending, EVENT.pciHotPlug), aml.call(PCI_HOT_PLUG_METHOD))] : []),
    ),
  )
  return [button, eventDevice]
}

function device(path: string, hid: aml.Aml, uid: number, ...resources: aml.Aml[]): aml.Aml {
  return aml.device(
    path,
    aml.name("_HID", hid),
    aml.name("_UID", uid),
    aml.name("_CRS", aml.resourceTemplate(...resources)),
  )
}

function numbered(prefix: string, digits: number, value: number): string {
  return prefix + value.toString(16).toUpperCase().padStart(digits, "0")
}
