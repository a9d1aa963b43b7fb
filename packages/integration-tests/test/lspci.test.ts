import { VirtioPci } from "@virtkit/virtio-pci"
import { rng } from "@virtkit/virtio-rng"
import { expect, it } from "vitest"
import { declared, parseInterrupts, parseLspci, uncleanLines } from "../src/lspci.js"

const listing = `00:00.0 Host bridge [0600]: Red Hat, Inc. QEMU PCIe Host bridge [1b36:0008]
	Control: I/O- Mem- BusMaster- SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx-
	Status: Cap- 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-

00:03.0 Unclassified device [00ff]: Red Hat, Inc. Virtio 1.0 RNG [1af4:1044] (rev 01)
	Subsystem: Red Hat, Inc. Device [1af4:1100]
	Status: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
	Interrupt: pin A routed to IRQ 19
	Region 1: Memory at c0004000 (32-bit, non-prefetchable) [size=8K]
	Region 4: Memory at 800008000 (64-bit, prefetchable) [size=16K]
	Capabilities: [7c] MSI-X: Enable+ Count=2 Masked-
		Vector table: BAR=1 offset=00000000
		PBA: BAR=1 offset=00001000
	Capabilities: [88] Vendor Specific Information: VirtIO: CommonCfg
		BAR=4 offset=00000000 size=00000040
	Capabilities: [98] Vendor Specific Information: VirtIO: Notify
		BAR=4 offset=00002000 size=00000004 multiplier=00000004
	Capabilities: [ac] Vendor Specific Information: VirtIO: ISR
		BAR=4 offset=00001000 size=00000004
	Capabilities: [bc] Vendor Specific Information: VirtIO: <unknown>
		BAR=0 offset=00000000 size=00000000
	Kernel driver in use: virtio-pci
`

it("lspci's listing becomes what a function declares", () => {
  const [bridge, entropy] = parseLspci(listing)
  expect(bridge).toMatchObject({ address: "00:00.0", vendorId: 0x1b36, classCode: 0x060000, msix: undefined })
  expect(entropy).toEqual({
    address: "00:03.0",
    msixEnabled: true,
    driver: "virtio-pci",
    ...declared(new VirtioPci({ device: rng() })),
  })
})

it("lines that lspci writes about damage are told from those about devices", () => {
  expect(uncleanLines(listing)).toEqual([])
  for (const line of [
    "	!!! Unknown header type 7f",
    "	!!! Invalid class 0604 for header type 00",
    "	Capabilities: [40] <chain looped>",
    "	Capabilities: <access denied>",
    "	Region 1: Memory at c0004000 (32-bit, non-prefetchable) [disabled] [size=8K]",
    "	Region 1: Memory at <unassigned> (32-bit, non-prefetchable)",
    "	Region 0: [virtual] Memory at c0000000",
  ]) {
    expect(uncleanLines(line)).toEqual([line])
  }
})

it("interrupts are counts by name", () => {
  const text = `           CPU0       CPU1
  4:          0        127   IO-APIC   4-edge      ttyS0
 25:         64          0   PCI-MSI 16385-edge      virtio0-req.0
NMI:          0          0   Non-maskable interrupts
`
  expect([...parseInterrupts(text)]).toEqual([
    ["ttyS0", [0, 127]],
    ["virtio0-req.0", [64, 0]],
  ])
})
