import { PCI_CAPABILITY, PCI_COMMAND, PCI_MSIX } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { machine, msixOptions, TestFunction, VENDOR } from "./machine.js"

const APIC = 0xfee0_0000

/** A function with that many vectors, its BARs placed, a bus master. */
function withVectors(vectors: number, options: Parameters<typeof machine>[0] = {}) {
  const pc = machine(options)
  const fn = new TestFunction("one", msixOptions(vectors))
  pc.bus.add(fn)
  pc.bus.assignResources()
  const at = pc.driver.find(VENDOR, 0x5678)
  void pc.driver.command(at, PCI_COMMAND.BUS_MASTER)
  const table = pc.driver.msixAddress(at, "table")
  const pba = pc.driver.msixAddress(at, "pba")
  return { ...pc, fn, at, table, pba }
}

describe("MSI-X", () => {
  it("takes an interrupt of the host per vector that is unmasked, and delivers to it", () => {
    const { driver, host, fn, at } = withVectors(4)
    driver.setMsix(at, { enabled: true, masked: true })
    for (let vector = 0; vector < 3; vector++) {
      driver.setMsixEntry(at, vector, { address: APIC + 0x1000 * vector, data: 0x40 + vector })
    }
    expect(host.msis).toEqual([])
    driver.setMsix(at, { enabled: true })
    expect(fn.slot.msixEnabled).toBe(true)
    expect(host.msis.map(({ address, data, routes }) => [address, data, routes])).toEqual([
      [APIC, 0x40, 1],
      [APIC + 0x1000, 0x41, 1],
      [APIC + 0x2000, 0x42, 1],
    ])
    fn.slot.msix(1)?.signal()
    fn.slot.msix(1)?.signal()
    fn.slot.msix(3)?.signal()
    expect(host.msis.map(({ count }) => count)).toEqual([0, 2, 0])
    expect(fn.slot.msix(1)).toBe(fn.slot.msix(1))
  })

  it("bad-input #6: a vector that the table does not have", () => {
    const { fn, driver, at, host } = withVectors(4)
    driver.setMsix(at, { enabled: true })
    for (const vector of [4, 2047, 0xffff, -1, 0.5, Number.NaN]) expect(fn.slot.msix(vector)).toBeUndefined()
    // The page goes on behind the table, the entry does not exist.
    driver.setMsixEntry(at, 4, { address: APIC, data: 1 })
    expect(host.msis).toEqual([])
    expect(driver.access.read("memory", driver.msixAddress(at, "table") + 64, 4)).toBe(0)
    const without = new TestFunction("two")
    machine().bus.add(without)
    expect(without.slot.msix(0)).toBeUndefined()
    expect(without.slot.msixEnabled).toBe(false)
  })

  it("keeps what came while a vector was masked, and delivers it once when it is not any more", () => {
    const { driver, host, fn, at, pba } = withVectors(70)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 69, { address: APIC, data: 9 })
    driver.maskMsix(at, 69, true)
    const pending = () => host.read("memory", pba + 8, 4)
    fn.slot.msix(69)?.signal()
    fn.slot.msix(69)?.signal()
    expect([host.msis[0]?.count, pending(), host.read("memory", pba, 4)]).toEqual([0, 1 << 5, 0])
    driver.maskMsix(at, 69, false)
    expect([host.msis[0]?.count, pending()]).toEqual([1, 0])
    driver.setMsix(at, { enabled: true, masked: true })
    fn.slot.msix(69)?.signal()
    expect([host.msis[0]?.count, pending()]).toEqual([1, 1 << 5])
    driver.maskMsix(at, 69, true)
    driver.setMsix(at, { enabled: true })
    expect([host.msis[0]?.count, pending()]).toEqual([1, 1 << 5])
    driver.maskMsix(at, 69, false)
    expect([host.msis[0]?.count, pending()]).toEqual([2, 0])
  })

  it("sends nothing while disabled or without bus mastering, and forgets it", () => {
    const { driver, host, fn, at } = withVectors(1)
    driver.setMsixEntry(at, 0, { address: APIC, data: 9 })
    fn.slot.msix(0)?.signal()
    driver.setMsix(at, { enabled: true })
    void driver.command(at, 0, PCI_COMMAND.BUS_MASTER)
    fn.slot.msix(0)?.signal()
    void driver.command(at, PCI_COMMAND.BUS_MASTER)
    driver.setMsix(at, { enabled: true, masked: true })
    fn.slot.msix(0)?.signal()
    driver.setMsix(at, { enabled: false })
    driver.setMsix(at, { enabled: true })
    expect(host.msis[0]?.count).toBe(0)
    fn.slot.msix(0)?.signal()
    expect(host.msis[0]?.count).toBe(1)
  })

  it("has the kernel send a vector for an eventfd while a signal would leave at once", async () => {
    const { driver, host, fn, at, bus } = withVectors(2)
    const log: string[] = []
    const connect = (fd: number) => fn.slot.msix(1)!.connect!(fd, (direct) => log.push(`${fd} ${direct}`))
    /** What has changed, and what the kernel serves. */
    const after = () => [log.splice(0), host.msis[0]?.connected ?? []]
    const end = connect(7)
    expect(after()).toEqual([[], []])
    driver.setMsixEntry(at, 1, { address: APIC, data: 9 })
    expect(after()).toEqual([[], []])
    driver.setMsix(at, { enabled: true })
    expect(after()).toEqual([["7 true"], [7]])
    connect(8)
    expect(after()).toEqual([["8 true"], [7, 8]])
    driver.maskMsix(at, 1, true)
    expect(after()).toEqual([["7 false", "8 false"], []])
    fn.slot.msix(1)?.signal()
    driver.maskMsix(at, 1, false)
    expect(after()).toEqual([
      ["7 true", "8 true"],
      [7, 8],
    ])
    expect(host.msis[0]?.count).toBe(1)
    end()
    end()
    expect(after()).toEqual([[], [8]])
    for (const [off, on] of [
      [
        () => driver.setMsix(at, { enabled: true, masked: true }),
        () => driver.setMsix(at, { enabled: true }),
      ],
      [() => driver.setMsix(at, { enabled: false }), () => driver.setMsix(at, { enabled: true })],
      [() => driver.command(at, 0, PCI_COMMAND.BUS_MASTER), () => driver.command(at, PCI_COMMAND.BUS_MASTER)],
      // An address of 0 is none.
      [
        () => driver.setMsixEntry(at, 1, { address: 0, data: 9 }),
        () => driver.setMsixEntry(at, 1, { address: APIC, data: 9 }),
      ],
    ] as const) {
      void off()
      expect(after()).toEqual([["8 false"], []])
      void on()
      expect(after()).toEqual([["8 true"], [8]])
    }
    await bus.close()
    expect(after()).toEqual([["8 false"], []])
  })

  it("bad-input #34: masking and unmasking without end takes no route and no interrupt more", () => {
    const { driver, host, fn, at } = withVectors(2)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 0, { address: APIC, data: 9 })
    driver.setMsixEntry(at, 1, { address: APIC, data: 10 })
    for (let i = 0; i < 1000; i++) {
      driver.maskMsix(at, 0, i % 2 === 0)
      driver.setMsix(at, { enabled: i % 3 === 0, masked: i % 2 === 0 })
      void driver.command(at, i % 5 ? PCI_COMMAND.BUS_MASTER : 0)
    }
    driver.setMsix(at, { enabled: true })
    driver.maskMsix(at, 0, false)
    expect(host.msis.map(({ routes, count }) => [routes, count])).toEqual([
      [1, 0],
      [1, 0],
    ])
    fn.slot.msix(0)?.signal()
    expect(host.msis[0]?.count).toBe(1)
  })

  it("bad-input #34: thousands of vectors unmasked by one write are routed together", () => {
    const { driver, host, fn, at } = withVectors(2048)
    driver.setMsix(at, { enabled: true, masked: true })
    for (let vector = 0; vector < 2048; vector++) {
      driver.setMsixEntry(at, vector, { address: APIC, data: vector & 0xff })
    }
    fn.slot.msix(2047)?.signal()
    expect([host.msis.length, host.together]).toEqual([0, 0])
    driver.setMsix(at, { enabled: true })
    expect([host.msis.length, host.together]).toEqual([2048, 2048])
    // What was pending is delivered when it has a route.
    expect(host.msis[2047]?.count).toBe(1)
  })

  it("routes anew when address or data changed", () => {
    const { driver, host, at, table } = withVectors(1)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 0, { address: APIC, data: 9 })
    driver.maskMsix(at, 0, true)
    driver.setMsixEntry(at, 0, { address: APIC + 0x3000, data: 10, masked: true })
    expect(host.msis[0]?.routes).toBe(1)
    driver.maskMsix(at, 0, false)
    expect([host.msis[0]?.routes, host.msis[0]?.address, host.msis[0]?.data]).toEqual([2, APIC + 0x3000, 10])
    // Without masking: undefined by the specification; it takes effect.
    host.write("memory", table + PCI_MSIX.ENTRY_DATA, 4, 11)
    expect(host.msis[0]?.data).toBe(11)
  })

  it("bad-input #35: addresses beyond 2^53 go nowhere; high halves are unsigned", () => {
    const { driver, host, fn, at, table } = withVectors(1)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 0, { address: 2 ** 52 + APIC, data: 0xffff_ffff })
    expect([host.msis[0]?.address, host.msis[0]?.data]).toEqual([2 ** 52 + APIC, 0xffff_ffff])
    for (const upper of [0x20_0000, 0xffff_ffff]) {
      host.write("memory", table + PCI_MSIX.ENTRY_ADDRESS_UPPER, 4, upper)
      expect(host.read("memory", table + PCI_MSIX.ENTRY_ADDRESS_UPPER, 4)).toBe(upper)
      fn.slot.msix(0)?.signal()
    }
    expect([host.msis[0]?.count, host.msis[0]?.routes]).toEqual([0, 1])
    host.write("memory", table + PCI_MSIX.ENTRY_ADDRESS_UPPER, 4, 0)
    fn.slot.msix(0)?.signal()
    expect([host.msis[0]?.count, host.msis[0]?.routes]).toEqual([1, 2])
  })

  it("lives with a host that has no more interrupts, and asks again at the next unmasking", () => {
    const { driver, host, fn, at } = withVectors(3, { maxMsis: 2 })
    driver.setMsix(at, { enabled: true })
    for (let vector = 0; vector < 3; vector++)
      driver.setMsixEntry(at, vector, { address: APIC, data: vector })
    expect(() => fn.slot.msix(2)?.signal()).not.toThrow()
    host.msis[0]?.close()
    driver.maskMsix(at, 2, true)
    driver.maskMsix(at, 2, false)
    fn.slot.msix(2)?.signal()
    expect(host.msis[2]?.count).toBe(1)
  })

  it("a table in pages of its own is read without exits, over 256 vectors too", () => {
    const { driver, host, at, table } = withVectors(300)
    for (const vector of [0, 255, 256, 299]) {
      driver.setMsixEntry(at, vector, { address: APIC, data: 0x1000 + vector, masked: true })
      host.exits = 0
      expect(host.read("memory", table + vector * 16 + 8, 4)).toBe(0x1000 + vector)
      expect(host.read("memory", table + vector * 16 + 12, 4)).toBe(1)
      expect(host.exits).toBe(0)
    }
  })

  it("a table that shares its page works as well", () => {
    const pc = machine()
    const bars = [{ index: 1, kind: "memory32", size: 0x1000, windows: [] }] as const
    const fn = new TestFunction("one", {
      bars,
      msix: { vectors: 3, bar: 1, tableOffset: 0x100, pbaOffset: 0x800 },
    })
    pc.bus.add(fn)
    pc.bus.assignResources()
    const at = pc.driver.find(VENDOR, 0x5678)
    void pc.driver.command(at, PCI_COMMAND.BUS_MASTER)
    pc.driver.setMsix(at, { enabled: true })
    pc.driver.setMsixEntry(at, 2, { address: APIC, data: 77 })
    fn.slot.msix(2)?.signal()
    expect([pc.host.msis[0]?.data, pc.host.msis[0]?.count]).toEqual([77, 1])
    const base = pc.driver.barAddress(at, 1)
    expect(pc.host.read("memory", base + 0x100 + 40, 4)).toBe(77)
    expect(pc.host.read("memory", base + 0x100 + 48, 4)).toBe(0)
  })

  it("bad-input #5: writes of other widths than 32 bits, or astride, change nothing in the table", () => {
    const { host, driver, at, table, pba } = withVectors(2)
    driver.setMsixEntry(at, 0, { address: APIC, data: 0x1234_5678, masked: true })
    for (const [offset, size] of [
      [8, 1],
      [8, 2],
      [10, 2],
      [6, 4],
      [9, 4],
      [11, 1],
    ] as const) {
      void host.write("memory", table + offset, size, 0xffff_ffff)
    }
    void host.write("memory", pba, 4, 0xffff_ffff)
    void host.write("memory", pba + 1, 1, 0xff)
    expect(host.read("memory", table + 8, 4)).toBe(0x1234_5678)
    expect(host.read("memory", table + 9, 2)).toBe(0x3456)
    expect(host.read("memory", pba, 4)).toBe(0)
    // Reserved bits of vector control, and the lowest of the address, stay 0.
    void host.write("memory", table, 4, 0xffff_ffff)
    void host.write("memory", table + 12, 4, 0xffff_ffff)
    expect(host.read("memory", table, 4)).toBe(0xffff_fffc)
    expect(host.read("memory", table + 12, 4)).toBe(1)
  })

  it("after a reset every vector is masked; the host's interrupts are kept for the next time", () => {
    const { driver, host, fn, at, table } = withVectors(1)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 0, { address: APIC, data: 9 })
    const express = driver.capability(at, PCI_CAPABILITY.EXPRESS)
    void driver.writeConfig(at, express + 8, 2, 0x8000)
    expect(fn.slot.msixEnabled).toBe(false)
    fn.slot.msix(0)?.signal()
    const bar = driver.bars(at)[0]
    driver.setBar(at, bar!, table)
    void driver.command(at, PCI_COMMAND.MEMORY | PCI_COMMAND.BUS_MASTER)
    expect(host.read("memory", table + 12, 4)).toBe(1)
    expect(host.read("memory", table, 4)).toBe(0)
    driver.setMsix(at, { enabled: true })
    driver.setMsixEntry(at, 0, { address: APIC, data: 9 })
    fn.slot.msix(0)?.signal()
    expect(host.msis.map(({ count }) => count)).toEqual([1])
  })
})
