import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { probeKvm, Vm, type VmOptions } from "@virtkit/vmm"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { collectGarbage, guest, mappingCount, residentBytes, resources } from "../src/index.js"
import { noKvm } from "./kvm.js"

const MiB = 2 ** 20
/**
 * V8 and malloc grow and shrink as they like: their young generation alone is 16 MiB in 64 mappings or not. If each of
 * 200 rounds left a VM behind, that were 200 MiB that the guest has touched, and 800 mappings.
 */
const RESIDENT_SLACK = 48 * MiB
const MAPPING_SLACK = 150

let directory = ""
let disk = ""

/** A guest that has touched much of its memory, with a device of each kind. */
async function round(index: number): Promise<void> {
  const image = guest.guestImage(guest.fillRange(4 * MiB, MiB, index), guest.spin)
  const devices = [block({ path: disk }), consolePort(), rng()]
  const vm = await Vm.create({ kernel: image, memory: "64M", cpus: 1 + (index % 2), devices })
  await vm.start()
  if (index % 3 === 0) await vm.pause()
  if (index % 2 === 0) await vm.kill()
  await vm.close()
}

describe.skipIf(noKvm !== "")(`what VMs leave behind${noKvm}`, () => {
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "virtkit-leaks-"))
    disk = join(directory, "disk")
    writeFileSync(disk, Buffer.alloc(MiB))
  })
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it("200 rounds of create, start and kill: no file, thread, mapping or memory", async () => {
    for (let index = 0; index < 30; index++) await round(index)
    await collectGarbage()
    const before = resources()
    const mappings = mappingCount()
    const resident = residentBytes()
    for (let index = 0; index < 200; index++) await round(index)
    await collectGarbage()
    expect(resources()).toEqual(before)
    expect(mappingCount() - mappings).toBeLessThan(MAPPING_SLACK)
    expect(residentBytes() - resident).toBeLessThan(RESIDENT_SLACK)
  }, 120_000)

  it("VMs that nobody started", async () => {
    const image = guest.guestImage(guest.spin)
    const idle = async () => (await Vm.create({ kernel: image, memory: "8M", devices: [rng()] })).close()
    await idle()
    await collectGarbage()
    const before = resources()
    for (let index = 0; index < 20; index++) await idle()
    await collectGarbage()
    expect(resources()).toEqual(before)
  })

  it("probes", async () => {
    await probeKvm()
    await collectGarbage()
    const before = resources()
    for (let index = 0; index < 10; index++) await probeKvm()
    await collectGarbage()
    expect(resources()).toEqual(before)
  })

  const image = guest.guestImage(guest.spin)
  const aborted = AbortSignal.abort()
  const cases: [what: string, options: Partial<VmOptions>, message: RegExp][] = [
    ["a kernel that is none", { kernel: new Uint8Array(8192) }, /kernel/],
    ["a kernel that is not there", { kernel: "/nonexistent/kernel" }, /\/nonexistent\/kernel/],
    ["an initrd that is not there", { initrd: "/nonexistent/initrd" }, /\/nonexistent\/initrd/],
    ["an initrd larger than memory", { initrd: new Uint8Array(17 * MiB) }, /initrd/i],
    ["a command line that is too long", { cmdline: "x".repeat(100_000) }, /command line|cmdline/],
    ["no memory", { memory: 0 }, /memory/],
    ["more memory than the host has", { memory: "1P" }, /memory/],
    ["no CPU", { cpus: 0 }, /cpus/],
    ["too many CPUs", { cpus: 100_000 }, /cpus/],
    ["a KVM that is not there", { kvm: "/nonexistent/kvm" }, /\/nonexistent\/kvm/],
    ["something else than KVM", { kvm: "/dev/null" }, /\/dev\/null|KVM/],
    ["a signal that was given before", { signal: aborted }, /abort/],
    ["huge pages that nobody set aside", { memory: "1G", memoryBacking: "hugetlb" }, /huge/i],
  ]
  it.each(cases)("creation that fails: %s", async (_what, options, message) => {
    const attempt = async () => {
      const backend = memoryDisk(MiB)
      let closed = 0
      const close = backend.close.bind(backend)
      backend.close = async () => {
        closed++
        await close()
      }
      const devices = [block({ backend }), block({ path: disk }), rng(), consolePort()]
      const base = { kernel: image, memory: "16M", devices }
      const failure = await Vm.create({ ...base, ...options }).then(
        () => undefined,
        (error: Error) => error,
      )
      expect(failure?.message).toMatch(message)
      expect(failure?.message).not.toContain("\n")
      expect(closed).toBe(1)
    }
    await attempt()
    await collectGarbage()
    const before = resources()
    await attempt()
    await collectGarbage()
    expect(resources()).toEqual(before)
  })

  it("creation that fails: a device that could not be had, and one too many", async () => {
    const attempt = async (
      devices: VmOptions["devices"],
      message: string,
      transport: "pci" | "mmio" = "pci",
    ) =>
      expect(Vm.create({ kernel: image, memory: "16M", transport, devices: devices! })).rejects.toThrow(
        message,
      )
    const bad = () => [block({ path: disk }), Promise.reject(new Error("no such device")), rng()]
    const many = (count: number) => [block({ path: disk }), ...Array.from({ length: count }, () => rng())]
    await attempt(bad(), "no such device")
    await attempt(many(31), "no free PCI device number")
    await attempt(many(17), "virtio-mmio has room for 17", "mmio")
    await collectGarbage()
    const before = resources()
    await attempt(bad(), "no such device")
    await attempt(many(31), "no free PCI device number")
    await attempt(many(17), "virtio-mmio has room for 17", "mmio")
    await collectGarbage()
    expect(resources()).toEqual(before)
  })
})
