import { accessSync, constants } from "node:fs"
import { type LoadedKernel, loadKernel, loadRaw } from "@virtkit/boot"
import { Kvm, VcpuLoop } from "@virtkit/kvm"
import type { GuestMemoryMap } from "@virtkit/memory"
import { mmapMemory } from "@virtkit/memory/mmap"
import { describe, expect, it } from "vitest"
import { bzImage, elf, MIB } from "./images.js"

function hasKvm(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

const skipped = hasKvm() ? "" : " (skipped: /dev/kvm cannot be opened)"

/** OUT of AL to port 0xf4, HLT. */
const REAL = hex("b0 42 e6 f4 f4")

/**
 * Loads the boot protocol's data selectors, returns far to its code selector (all through the descriptor table in guest
 * memory), and reports the 4 bytes at RSI + 0x202.
 */
const LONG = hex(
  "66 b8 18 00  8e d8  8e c0  8e d0  bc 00 00 08 00  6a 10  48 8d 05 03 00 00 00  50  48 cb " +
    "8b 86 02 02 00 00  ba f4 00 00 00  ef  f4",
)

/** The same in 32 bits, with the 4 bytes at EBX. */
const PROTECTED = hex(
  "66 b8 18 00  8e d8  8e c0  8e d0  bc 00 00 08 00  6a 10  e8 00 00 00 00  58  83 c0 06  50  cb " +
    "8b 03  ba f4 00 00 00  ef  f4",
)

function hex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/[0-9a-f]{2}/g) ?? [], (pair) => Number.parseInt(pair, 16))
}

/** Runs what `load` loads until it halts; returns what it wrote to port 0xf4, or how else it ended. */
async function run(load: (memory: GuestMemoryMap) => LoadedKernel | Promise<LoadedKernel>): Promise<string> {
  const memory = mmapMemory(16 * MIB)
  using kvm = Kvm.open()
  using vm = kvm.createVm()
  try {
    const [region] = memory.regions
    if (!region) throw new Error("no memory")
    vm.setMemorySlot({ slot: 0, guestAddress: 0, size: region.size, hostAddress: region.hostAddress })
    const { setup } = await load(memory)
    using vcpu = vm.createVcpu(0)
    vcpu.setCpuid(kvm.supportedCpuid())
    vcpu.setSregs(setup.applySregs(vcpu.getSregs()))
    vcpu.setRegs(setup.regs)
    const written: number[] = []
    const ended = new Promise<string>((resolve) => {
      vcpu.start(new VcpuLoop(), {
        portRead: () => 0,
        portWrite: (port, _size, value) => void (port === 0xf4 && written.push(value)),
        mmioRead: () => 0,
        mmioWrite: () => {},
        exit: (_, exit) => resolve(exit.reason),
        error: (_, error) => resolve(String(error)),
      })
    })
    const reason = await ended
    await vcpu.stop()
    return [...written.map((value) => value.toString(16)), reason].join(" ")
  } finally {
    vm.close()
    memory.close()
  }
}

describe.skipIf(!hasKvm())(`KVM starts the boot CPU${skipped}`, () => {
  it("in real mode", async () => {
    expect(await run((memory) => loadRaw({ memory, code: REAL, address: 0x12345, mode: "real" }))).toBe(
      "42 hlt",
    )
  })

  it("in protected mode", async () => {
    const code = PROTECTED
    expect(await run((memory) => loadRaw({ memory, code, address: 2 * MIB, mode: "protected" }))).toMatch(
      /hlt$/,
    )
  })

  it("in long mode", async () => {
    const code = LONG
    expect(await run((memory) => loadRaw({ memory, code, address: 2 * MIB, mode: "long" }))).toMatch(/hlt$/)
  })

  it("by the PVH protocol, with hvm_start_info at EBX", async () => {
    const kernel = elf({ segments: [{ address: 2 * MIB, data: PROTECTED }], pvhEntry: 2 * MIB })
    expect(await run((memory) => loadKernel({ memory, kernel }))).toBe("336ec578 hlt")
  })

  it("by the 64-bit Linux protocol, with boot_params at RSI", async () => {
    const kernel = elf({ segments: [{ address: 2 * MIB, data: LONG }] })
    expect(await run((memory) => loadKernel({ memory, kernel }))).toBe("53726448 hlt")
  })

  it("at the 64-bit entry point of a bzImage", async () => {
    const kernel = bzImage()
    kernel.set(LONG, 1024 + 0x200)
    expect(await run((memory) => loadKernel({ memory, kernel, unpack: false }))).toBe("53726448 hlt")
  })
})
