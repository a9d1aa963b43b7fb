import { ConfigError } from "@virtkit/interface"
import * as aml from "./aml/index.js"
import type { PciAddressRange, PciHostDescription, PciRootPortDescription } from "./description.js"
import { acpiTable } from "./table.js"

/** Absolute path of the method that the generic event device calls for a PCI hot-plug event. */
export const PCI_HOT_PLUG_METHOD = "\\_SB.PCI0.HPEV"

/** Notification values (ACPI 5.6.6, table 5.164): something came, something shall go. */
const DEVICE_CHECK = 0x01
const EJECT_REQUEST = 0x03

const DEVICES = 32
const PINS = 4
/** In the address of a _PRT entry: whatever function (ACPI 6.2.13). */
const ANY_FUNCTION = 0xffff

/** Bytes of configuration space of one bus in ECAM. */
const ECAM_BUS_SIZE = 0x10_0000
/** Registers of the hot-plug controller: inserted, removal requested, eject, 32 bits each. */
const HOT_PLUG_SIZE = 12

/** _OSC of a PCI host bridge (PCI Firmware 3.3, section 4.5.1). */
const OSC_UUID = "33db4d5b-1ff7-401c-9657-7441c03dd766"
const OSC_UNRECOGNIZED_UUID = 0x04
const OSC_UNRECOGNIZED_REVISION = 0x08
const OSC_CAPABILITIES_MASKED = 0x10
/** What the guest may have of what it asks for: the PCI Express capability. Native hot plug, PME, AER are not there. */
const OSC_GRANTED = 0x10

/** The MCFG table, which says where configuration space is in memory (PCI Firmware 3.3, section 4.1.2). */
export function mcfg({ ecam }: PciHostDescription): Uint8Array {
  const body = new DataView(new ArrayBuffer(8 + 16))
  body.setBigUint64(8, BigInt(ecam.address), true)
  body.setUint16(16, 0, true)
  body.setUint8(18, 0)
  body.setUint8(19, ecam.buses - 1)
  return acpiTable("MCFG", 1, new Uint8Array(body.buffer))
}

/** The host bridge with its root ports, and a device that reserves the addresses that the bridge itself takes. */
export function pciHost(pci: PciHostDescription): aml.Aml[] {
  const { rootPorts = [], hotPlug } = pci
  const bridge = aml.device(
    "PCI0",
    aml.name("_HID", aml.eisaId("PNP0A08")),
    aml.name("_CID", aml.eisaId("PNP0A03")),
    aml.name("_SEG", 0),
    aml.name("_BBN", 0),
    aml.name("_UID", 0),
    aml.name("_CRS", aml.resourceTemplate(...bridgeResources(pci))),
    aml.name("_PRT", aml.pack(...interruptRouting(pci, everyDevice(), 0))),
    operatingSystemCapabilities(),
    ...(hotPlug ? hotPlugRegisters(hotPlug.port) : []),
    ...rootPorts.map((port) => rootPort(pci, port)),
    ...(hotPlug ? [hotPlugEvent(rootPorts)] : []),
  )
  return [bridge, reservation(pci)]
}

/** What goes through the bridge: buses, ports, memory. */
function bridgeResources({ ecam, windows, conf1 }: PciHostDescription): aml.Aml[] {
  const { io, memory32, memory64 } = windows
  const resources = [aml.wordSpace({ type: "bus", min: 0, max: ecam.buses - 1 })]
  if (conf1) resources.push(aml.io(0xcf8, 8))
  if (io) resources.push(aml.wordSpace({ type: "io", ...bounds(io) }))
  for (const range of [memory32 ?? []].flat()) {
    resources.push(aml.dwordSpace({ type: "memory", ...bounds(range) }))
  }
  // Not prefetchable either: BARs of both kinds may lie in a window that is not, but not the other way round.
  if (memory64) resources.push(aml.qwordSpace({ type: "memory", ...bounds(memory64) }))
  return resources
}

function bounds({ address, size }: PciAddressRange): { min: number; max: number } {
  return { min: address, max: address + size - 1 }
}

/**
 * A _PRT for `devices`, behind a bridge that sits in slot `swizzle` of the bus above (0 on the root bus). Four pins a
 * device, swizzled so that the INTA# of neighbours are different lines (PCI Express base 2.2.8.1): the entries name
 * GSIs, which are then level-triggered.
 */
function interruptRouting(
  { interruptGsis }: PciHostDescription,
  devices: readonly number[],
  swizzle: number,
): aml.Aml[] {
  return devices.flatMap((device) =>
    Array.from({ length: PINS }, (_, pin) => {
      const gsi = interruptGsis[(swizzle + device + pin) % PINS] as number
      return aml.pack(device * 0x1_0000 + ANY_FUNCTION, pin, 0, gsi)
    }),
  )
}

function everyDevice(): number[] {
  return Array.from({ length: DEVICES }, (_, device) => device)
}

/** `Method (_OSC)`: grants what {@link OSC_GRANTED} has and says where that is less than what was asked. */
function operatingSystemCapabilities(): aml.Aml {
  const [id, revision, capabilities] = [aml.arg(0), aml.arg(1), aml.arg(3)]
  const granted = aml.local(0)
  return aml.method(
    "_OSC",
    { args: 4, serialized: true },
    aml.createDWordField(capabilities, 0, "CDW1"),
    aml.ifThen(
      aml.equal(id, aml.uuid(OSC_UUID)),
      aml.createDWordField(capabilities, 8, "CDW3"),
      aml.and("CDW3", OSC_GRANTED, granted),
      aml.ifThen(aml.logicalNot(aml.equal(revision, 1)), aml.or("CDW1", OSC_UNRECOGNIZED_REVISION, "CDW1")),
      aml.ifThen(aml.logicalNot(aml.equal("CDW3", granted)), aml.or("CDW1", OSC_CAPABILITIES_MASKED, "CDW1")),
      aml.store(granted, "CDW3"),
    ),
    aml.otherwise(aml.or("CDW1", OSC_UNRECOGNIZED_UUID, "CDW1")),
    aml.returnValue(capabilities),
  )
}

/** A root port, and below it the one device that can be plugged into it. */
function rootPort(pci: PciHostDescription, { device, slot }: PciRootPortDescription): aml.Aml {
  const slotDevice = aml.device(
    slotName(slot),
    aml.name("_ADR", 0),
    aml.name("_SUN", slot),
    ...(pci.hotPlug ? [aml.method("_EJ0", { args: 1 }, aml.store(slotBit(slot), "HPEJ"))] : []),
  )
  return aml.device(
    rootPortName(device),
    aml.name("_ADR", device * 0x1_0000),
    aml.name("_PRT", aml.pack(...interruptRouting(pci, [0], device))),
    slotDevice,
  )
}

function rootPortName(device: number): string {
  return `S${twoDigits(device)}`
}

function slotName(slot: number): string {
  return `P${twoDigits(slot)}`
}

function twoDigits(value: number): string {
  return value.toString(16).toUpperCase().padStart(2, "0")
}

function slotBit(slot: number): number {
  return 2 ** slot
}

function hotPlugRegisters(port: number): aml.Aml[] {
  return [
    aml.operationRegion("HPRG", "systemIO", port, HOT_PLUG_SIZE),
    aml.field("HPRG", { access: "dword", update: "writeAsZeros" }, [
      ["HPIN", 32],
      ["HPRM", 32],
      ["HPEJ", 32],
    ]),
  ]
}

/** `Method (HPEV)`: tells the guest's driver of each slot what happened to it. */
function hotPlugEvent(rootPorts: readonly PciRootPortDescription[]): aml.Aml {
  const [inserted, leaving] = [aml.local(0), aml.local(1)]
  const tell = (bits: aml.Aml, value: number): aml.Aml[] =>
    rootPorts.map(({ device, slot }) =>
      aml.ifThen(
        aml.and(bits, slotBit(slot)),
        aml.notify(`^${rootPortName(device)}.${slotName(slot)}`, value),
      ),
    )
  return aml.method(
    "HPEV",
    { args: 0, serialized: true },
    // Cleared before they are acted on: what comes later raises the event again.
    aml.store("HPIN", inserted),
    aml.store(inserted, "HPIN"),
    aml.store("HPRM", leaving),
    aml.store(leaving, "HPRM"),
    ...tell(inserted, DEVICE_CHECK),
    ...tell(leaving, EJECT_REQUEST),
  )
}

/**
 * Motherboard resources: ECAM, which Linux uses only when it is reserved here and in the memory map (PCI Firmware 3.3,
 * section 4.1.2), and the ports of the hot-plug controller.
 */
function reservation({ ecam, hotPlug }: PciHostDescription): aml.Aml {
  const resources = [aml.memory32Fixed(ecam.address, ecam.buses * ECAM_BUS_SIZE)]
  if (hotPlug) resources.push(aml.io(hotPlug.port, HOT_PLUG_SIZE))
  return aml.device(
    "PRES",
    aml.name("_HID", aml.eisaId("PNP0C02")),
    aml.name("_UID", 0),
    aml.name("_CRS", aml.resourceTemplate(...resources)),
  )
}

/** Throws {@link ConfigError} for a description that contradicts itself. */
export function checkPci(pci: PciHostDescription, hasEventDevice: boolean): void {
  const { ecam, windows, interruptGsis, rootPorts = [], hotPlug } = pci
  const low = [windows.memory32 ?? []].flat()
  const ecamEnd = ecam.address + ecam.buses * ECAM_BUS_SIZE
  const requirements: [holds: boolean, message: string][] = [
    [ecam.buses >= 1 && ecam.buses <= 256, `ECAM is for 1 to 256 buses, not ${ecam.buses}`],
    [ecam.address % ECAM_BUS_SIZE === 0, "ECAM must lie at a multiple of 1 MiB"],
    // Linux believes a place above 4 GiB only of firmware that gives a date from 2010 on.
    [ecamEnd <= 2 ** 32, "ECAM must lie below 4 GiB"],
    [fits(windows.io, 2 ** 16), "the I/O window must have a size and end at port 0xffff at most"],
    [low.every((range) => fits(range, 2 ** 32)), "a 32-bit window must have a size and end at 4 GiB at most"],
    [fits(windows.memory64, 2 ** 52), "the 64-bit window must have a size and end at 2^52 at most"],
    [interruptGsis.length === PINS, `there are ${PINS} PCI interrupts, not ${interruptGsis.length}`],
    [unique(rootPorts, "device", DEVICES), "root ports need different devices from 0 to 31"],
    [unique(rootPorts, "slot", 32), "root ports need different slots from 0 to 31"],
    [!hotPlug || hasEventDevice, "PCI hot plug needs the event device: describe powerButton"],
  ]
  for (const [holds, message] of requirements) if (!holds) throw new ConfigError(message)
}

function fits(range: PciAddressRange | undefined, limit: number): boolean {
  return !range || (range.size > 0 && range.address >= 0 && range.address + range.size <= limit)
}

function unique(
  ports: readonly PciRootPortDescription[],
  key: keyof PciRootPortDescription,
  limit: number,
): boolean {
  const values = ports.map((port) => port[key])
  return new Set(values).size === values.length && values.every((value) => value >= 0 && value < limit)
}
