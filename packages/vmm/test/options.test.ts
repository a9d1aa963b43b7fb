import { totalmem } from "node:os"
import { PassThrough } from "node:stream"
import { ConfigError, type VirtioDevice } from "@virtkit/interface"
import type { MemoryBacking } from "@virtkit/vmm"
import { describe, expect, it } from "vitest"
import { closeDevices, settleDevices } from "../src/devices.js"
import { checkOptions, checkSharing, composeCmdline, hidesPci, needsLegacy } from "../src/options.js"
import { tapOutput } from "../src/tap.js"
import { Teardown } from "../src/teardown.js"

describe("options", () => {
  const check = (options: object) => checkOptions({ kernel: "k", ...options })

  it("have defaults", () => {
    expect(check({})).toMatchObject({
      name: "vm",
      cmdline: "",
      memoryBytes: 2 ** 29,
      cpus: { count: 1, sockets: 1, cores: 1, threads: 1 },
      cpu: undefined,
      msrFilter: undefined,
      transport: "pci",
      rings: {},
      hotPlugSlots: 0,
      kvm: "/dev/kvm",
    })
  })

  it.each([
    [{ cpus: 0 }, /cpus: 0 is not possible/],
    [{ cpus: 1.5 }, /cpus: 1.5/],
    [{ memory: 0 }, /too little/],
    [{ memory: "1P" }, /more than this host has/],
    [{ memory: totalmem() + 4096 }, /more than this host has/],
    [{ memory: 2 ** 20 + 1 }, /multiple of the page size/],
    [{ memory: -1 }, /not a number of bytes/],
    [{ transport: "isa" }, /transport: isa is not possible/],
    [{ rings: { ordered: true } }, /rings: there is no "ordered", give packed, inOrder, eventIdx, indirect/],
    [{ rings: { packed: "on" } }, /rings: packed is true or false, not "on"/],
    [{ hotPlugSlots: 31 }, /hotPlugSlots: 31 is not possible.*0 to 30/],
    [{ hotPlugSlots: 0.5 }, /hotPlugSlots: 0.5/],
    [{ hotPlugSlots: 1, transport: "mmio" }, /hotPlugSlots: needs the transport "pci"/],
  ])("refuse %j", (options, message) => {
    expect(() => check(options)).toThrow(ConfigError)
    expect(() => check(options)).toThrow(message)
  })

  it("put guest memory where those processes can map it that work on queues", () => {
    const far = {
      name: "far",
      deviceType: 2,
      external: { ringFeatures: 0n, kicks: [] },
    } as unknown as VirtioDevice
    const near = { name: "near", deviceType: 2 } as unknown as VirtioDevice
    const backing = (memoryBacking: MemoryBacking | undefined, ...devices: VirtioDevice[]) =>
      checkOptions({ kernel: "k", ...(memoryBacking && { memoryBacking }) }, devices).memoryBacking
    expect([backing(undefined, near), backing(undefined, near, far)]).toEqual(["anonymous", "memfd"])
    expect([backing("hugetlb", far), backing("memfd", near)]).toEqual(["hugetlb", "memfd"])
    // Threads of this process have it already.
    const threads = { ...far, external: { ...far.external, sameProcess: true } } as VirtioDevice
    expect([backing(undefined, threads), backing("anonymous", threads)]).toEqual(["anonymous", "anonymous"])
    expect(() => backing("anonymous", near, far)).toThrow(ConfigError)
    expect(() => checkSharing(far, "anonymous")).toThrow(/far: another process serves it.*"memfd"/)
  })

  it("let a guest have what PCs had before ACPI if it would not find its devices otherwise, and nobody else", () => {
    for (const words of ["", "quiet pci=nomsi", "pcie=conf1", "mypci=conf1"]) {
      expect([words, needsLegacy("bzimage", words), needsLegacy("vmlinux", words)]).toEqual([
        words,
        false,
        false,
      ])
      expect([needsLegacy("pvh", words), needsLegacy("raw", words)]).toEqual([true, true])
    }
    for (const words of [
      "acpi=off",
      "acpi=noirq",
      "pci=conf1",
      "quiet pci=nomsi,noacpi",
      "pci=nommconf quiet",
    ]) {
      expect([words, needsLegacy("vmlinux", words)]).toEqual([words, true])
    }
  })

  it("leave PCI out of the tables for a kernel that takes PCI from elsewhere", () => {
    expect(["pci=noacpi", "quiet pci=nomsi,noacpi"].map(hidesPci)).toEqual([true, true])
    expect(["", "acpi=off", "pci=noacpix", "xpci=noacpi", "pci=conf1 noacpi"].map(hidesPci)).toEqual(
      Array(5).fill(false),
    )
  })

  it("make a command line that the caller's words can override", () => {
    expect(composeCmdline("", "console=ttyS0", true)).toBe("console=ttyS0 panic=-1")
    expect(composeCmdline("quiet", "console=hvc0", false)).toBe("pci=noearly console=hvc0 panic=-1 quiet")
    expect(composeCmdline("console=hvc0 panic=5", "console=ttyS0", true)).toBe("console=hvc0 panic=5")
    expect(composeCmdline("noconsole=1", "console=ttyS0", true)).toMatch(/^console=ttyS0 /)
  })
})

describe("devices", () => {
  const device = (log: string[], name: string, fails = false) =>
    ({
      name,
      close: async () => {
        log.push(name)
        if (fails) throw new Error(`${name} cannot close`)
      },
    }) as unknown as VirtioDevice

  it("that could be had are closed when another could not", async () => {
    const log: string[] = []
    const pending = [device(log, "a"), Promise.reject(new Error("no b")), Promise.resolve(device(log, "c"))]
    await expect(settleDevices(pending)).rejects.toThrow("no b")
    expect(log).toEqual(["a", "c"])
  })

  it("are all closed although one fails", async () => {
    const log: string[] = []
    await expect(closeDevices([device(log, "a", true), device(log, "b")])).rejects.toThrow("a cannot close")
    expect(log).toEqual(["a", "b"])
  })
})

describe("teardown", () => {
  it("goes backwards, once, past what fails", async () => {
    const log: number[] = []
    const teardown = new Teardown()
    for (const step of [1, 2, 3]) {
      teardown.add(async () => {
        log.push(step)
        if (step === 2) throw new Error("two")
      })
    }
    await expect(teardown.run()).rejects.toThrow("two")
    await teardown.run()
    expect(log).toEqual([3, 2, 1])
  })

  it("tells of several failures together", async () => {
    const teardown = new Teardown()
    for (const step of ["one", "two"]) teardown.add(() => Promise.reject(new Error(step)))
    await expect(teardown.run()).rejects.toThrow(AggregateError)
  })
})

it("a tap hears everything and is no reader", () => {
  const stream = new PassThrough()
  const heard: string[] = []
  tapOutput(stream, (chunk) => heard.push(Buffer.from(chunk).toString()))
  stream.write("ab")
  stream.write("c")
  expect(stream.readableFlowing).toBe(null)
  expect(stream.read(2).toString()).toBe("ab")
  expect(heard.join("")).toBe("abc")
})
