import { Bus } from "@virtkit/bus"
import type { GuestMemory, VirtioDevice } from "@virtkit/interface"
import type { RingOffers } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"
import { AddressSpaces } from "../src/address-spaces.js"
import type { Doorbells } from "../src/doorbells.js"
import type { Interrupts } from "../src/interrupts.js"
import { PciRoot } from "../src/pci-root.js"
import { VirtioBus } from "../src/virtio-bus.js"

const device = {
  name: "device",
  deviceType: 4,
  features: 0n,
  queueMaxSizes: [8],
  config: new Uint8Array(0),
} as unknown as VirtioDevice

/** What both buses of devices need, without KVM. */
function surroundings(rings: RingOffers) {
  const doorbells = { add: () => undefined } as unknown as Doorbells
  const ports = new Bus({ name: "port", limit: 0x1_0000 })
  const mmio = new Bus({ name: "mmio" })
  const message = () => ({ signal: () => {}, route: () => {}, close: () => {} })
  return {
    rings,
    spaces: new AddressSpaces({ ports, mmio, doorbells, pages: undefined }),
    memory: { regions: [] } as unknown as GuestMemory,
    interrupts: { line: () => ({ signal: () => {} }), message } as unknown as Interrupts,
    onError: () => {},
    onNeedsReset: () => {},
  }
}

/** Feature words 0 and 1 as the driver of virtio-mmio reads them (4.2.2). */
function offeredByMmio(rings: RingOffers): number[] {
  const bus = new VirtioBus(surroundings(rings))
  bus.attach(device)
  const [transport] = bus.transports
  return [0, 1].map((word) => {
    transport!.write(0x14, 4, word)
    return transport!.read(0x10, 4)
  })
}

/** The same of virtio-pci (4.1.4.3); `plugged`: of a device that comes later. */
function offeredByPci(rings: RingOffers, plugged: boolean): number[] {
  const root = new PciRoot({
    ...surroundings(rings),
    hotPlugSlots: 1,
    hasFirmware: false,
    physicalBits: 40,
    raiseHotPlug: () => {},
    onReset: () => {},
    coverAbsent: () => {},
  })
  if (plugged) root.plug(device)
  else root.attach(device)
  const [transport] = root.transports
  const common = transport!.bars.find(({ index }) => index === 4)!.windows[0]!.device
  return [0, 1].map((word) => {
    common.write(0, 4, word)
    return common.read(4, 4)
  })
}

const WAYS: [how: string, offered: (rings: RingOffers) => number[]][] = [
  ["virtio-mmio", offeredByMmio],
  ["virtio-pci", (rings) => offeredByPci(rings, false)],
  ["virtio-pci, plugged in later", (rings) => offeredByPci(rings, true)],
]

describe.each(WAYS)("rings of devices on %s", (_how, offered) => {
  it.each([
    [{}, { indirect: true, eventIdx: true, packed: false, inOrder: false }],
    [{ packed: true }, { indirect: true, eventIdx: true, packed: true, inOrder: false }],
    [{ inOrder: true }, { indirect: true, eventIdx: true, packed: false, inOrder: true }],
    [
      { packed: true, inOrder: true, eventIdx: false },
      { indirect: true, eventIdx: false, packed: true, inOrder: true },
    ],
    [{ indirect: false }, { indirect: false, eventIdx: true, packed: false, inOrder: false }],
  ])("%j of the VM's options are offered as %j", (rings, expected) => {
    const [low = 0, high = 0] = offered(rings)
    const bit = (word: number, number: number) => ((word >>> number) & 1) === 1
    expect({
      indirect: bit(low, 28),
      eventIdx: bit(low, 29),
      packed: bit(high, 2),
      inOrder: bit(high, 3),
    }).toEqual(expected)
  })
})
