import { VIRTIO_PCI_COMMON as COMMON, MMIO, STATUS } from "@virtkit/testkit"
import { type Code, powerOff, say } from "./guest-image.js"

/**
 * Guests of a few instructions that drive one virtio device: 32-bit code of moves and compares, without stack or interrupts,
 * which polls memory and its local APIC. Their single ring is written by the host beforehand, {@link RING}.
 */

/** Guest addresses of the parts of the ring, and how many descriptors it has. */
export const RING = { desc: 0x30_0000, avail: 0x30_1000, used: 0x30_2000, size: 8 } as const

const ECAM = 0xe000_0000
/** The first device behind the host bridge. */
const FUNCTION = ECAM + 0x8000
/** Where the guest puts the BARs with registers and with MSI-X. */
const REGISTERS = 0xc200_0000
const MSIX = 0xc100_0000
const NOTIFY = REGISTERS + 0x2000
/** In configuration space, behind the capability of PCI Express. */
const MSIX_CAPABILITY = 0x7c
const LOCAL_APIC = 0xfee0_0000
const VECTOR = 0x41
const VIRTIO_MMIO = 0xd000_0000

function le(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff)
}

const store8 = (address: number, value: number): Code => [0xc6, 0x05, ...le(address, 4), value] // mov byte [address], value
const store16 = (address: number, value: number): Code => [
  ...[0x66, 0xc7, 0x05, ...le(address, 4), ...le(value, 2)], // mov word [address], value
]
const store32 = (address: number, value: number): Code => [0xc7, 0x05, ...le(address, 4), ...le(value, 4)]
/** Again and again: cmp word [address], value; jne. */
const await16 = (address: number, value: number): Code => [
  ...[0x66, 0x81, 0x3d, ...le(address, 4), ...le(value, 2), 0x75, 0xf5],
]
/** Again and again: test dword [address], mask; jz. */
const awaitAny = (address: number, mask: number): Code => [
  ...[0xf7, 0x05, ...le(address, 4), ...le(mask, 4), 0x74, 0xf4],
]

const BEFORE_OK = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK
const VERSION_1 = 1

function setUpPci(): Code {
  const common = (field: number) => REGISTERS + field
  const address = (field: number, value: number) => [
    ...store32(common(field), value),
    ...store32(common(field) + 4, 0),
  ]
  const entry = MSIX + 16
  return [
    ...store32(FUNCTION + 0x14, MSIX), // BAR 1
    ...store32(FUNCTION + 0x20, REGISTERS), // BAR 4, low and high half
    ...store32(FUNCTION + 0x24, 0),
    ...store16(FUNCTION + 0x04, 6), // memory, bus master
    ...store32(LOCAL_APIC + 0xf0, 0x1ff), // spurious interrupt vector: enabled
    ...store32(entry, LOCAL_APIC), // address, its upper half, data, vector control
    ...store32(entry + 4, 0),
    ...store32(entry + 8, VECTOR),
    ...store32(entry + 12, 0),
    ...store16(FUNCTION + MSIX_CAPABILITY + 2, 0x8000),
    ...store8(common(COMMON.DEVICE_STATUS), STATUS.ACKNOWLEDGE),
    ...store8(common(COMMON.DEVICE_STATUS), STATUS.ACKNOWLEDGE | STATUS.DRIVER),
    ...store32(common(COMMON.DRIVER_FEATURE_SELECT), 1),
    ...store32(common(COMMON.DRIVER_FEATURE), VERSION_1),
    ...store8(common(COMMON.DEVICE_STATUS), BEFORE_OK),
    ...store16(common(COMMON.QUEUE_SELECT), 0),
    ...store16(common(COMMON.QUEUE_SIZE), RING.size),
    ...store16(common(COMMON.QUEUE_MSIX_VECTOR), 1),
    ...address(COMMON.QUEUE_DESC, RING.desc),
    ...address(COMMON.QUEUE_DRIVER, RING.avail),
    ...address(COMMON.QUEUE_DEVICE, RING.used),
    ...store16(common(COMMON.QUEUE_ENABLE), 1),
    ...store8(common(COMMON.DEVICE_STATUS), BEFORE_OK | STATUS.DRIVER_OK),
  ]
}

function setUpMmio(): Code {
  const registers: [number, number][] = [
    [MMIO.STATUS, STATUS.ACKNOWLEDGE],
    [MMIO.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER],
    [MMIO.DRIVER_FEATURES_SEL, 1],
    [MMIO.DRIVER_FEATURES, VERSION_1],
    [MMIO.STATUS, BEFORE_OK],
    [MMIO.QUEUE_SEL, 0],
    [MMIO.QUEUE_SIZE, RING.size],
    [MMIO.QUEUE_DESC_LOW, RING.desc],
    [MMIO.QUEUE_DRIVER_LOW, RING.avail],
    [MMIO.QUEUE_DEVICE_LOW, RING.used],
    [MMIO.QUEUE_READY, 1],
    [MMIO.STATUS, BEFORE_OK | STATUS.DRIVER_OK],
  ]
  return registers.flatMap(([register, value]) => store32(VIRTIO_MMIO + register, value))
}

/**
 * Has the device carry out the chain at descriptor 0 `requests` times, one after the other, then waits until it was
 * interrupted, says "done" and powers off.
 */
export function virtioGuest(transport: "pci" | "mmio", requests: number): Code {
  const isPci = transport === "pci"
  const notify = isPci ? store16(NOTIFY, 0) : store32(VIRTIO_MMIO + MMIO.QUEUE_NOTIFY, 0)
  const request = (index: number): Code => [
    ...store16(RING.avail + 2, index),
    ...notify,
    ...await16(RING.used + 2, index),
  ]
  const irr = LOCAL_APIC + 0x200 + 0x10 * (VECTOR >>> 5)
  return [
    ...(isPci ? setUpPci() : setUpMmio()),
    ...Array.from({ length: requests }, (_, index) => request(index + 1)).flat(),
    ...(isPci ? awaitAny(irr, 1 << (VECTOR & 31)) : awaitAny(VIRTIO_MMIO + MMIO.INTERRUPT_STATUS, 1)),
    ...say("done"),
    ...powerOff,
  ]
}
