import { accessSync, constants } from "node:fs"
import { Vm, type VmState } from "@virtkit/vmm"
import { describe, expect, it } from "vitest"

const noKvm: string = (() => {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK)
    return ""
  } catch {
    return " (skipped: there is no usable /dev/kvm)"
  }
})()

/** An ELF image for PVH whose only instruction jumps to itself. */
function endlessLoop(): Uint8Array {
  const image = Buffer.alloc(0x1000)
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  image.writeUInt16LE(2, 16) // ET_EXEC
  image.writeUInt16LE(62, 18) // EM_X86_64
  image.writeUInt32LE(1, 20)
  image.writeBigUInt64LE(0x10_0000n, 24)
  image.writeBigUInt64LE(64n, 32)
  image.writeUInt16LE(64, 52)
  image.writeUInt16LE(56, 54)
  image.writeUInt16LE(2, 56)
  const segments = [
    { at: 64, type: 1, offset: 0x300, size: 2 }, // PT_LOAD
    { at: 120, type: 4, offset: 0x200, size: 20 }, // PT_NOTE
  ]
  for (const { at, type, offset, size } of segments) {
    image.writeUInt32LE(type, at)
    image.writeUInt32LE(5, at + 4)
    const words = [offset, 0x10_0000, 0x10_0000, size, size]
    for (const [i, word] of words.entries()) image.writeBigUInt64LE(BigInt(word), at + 8 + 8 * i)
  }
  for (const [i, word] of [4, 4, 18].entries()) image.writeUInt32LE(word, 0x200 + 4 * i)
  image.write("Xen\0", 0x20c, "latin1")
  image.writeUInt32LE(0x10_0000, 0x210)
  image.set([0xeb, 0xfe], 0x300)
  return image
}

const create = () => Vm.create({ kernel: endlessLoop(), memory: "4M" })

/** What becomes an uncaught exception meanwhile, instead of the test runner getting it. */
async function uncaught(during: () => Promise<void>): Promise<unknown[]> {
  const caught: unknown[] = []
  const before = process.rawListeners("uncaughtException") as ((error: Error) => void)[]
  process.removeAllListeners("uncaughtException")
  process.on("uncaughtException", (error) => caught.push(error))
  try {
    await during()
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.removeAllListeners("uncaughtException")
    for (const listener of before) process.on("uncaughtException", listener)
  }
  return caught
}

describe.skipIf(noKvm !== "")(`listeners of a VM${noKvm}`, () => {
  it("that throw do not keep it from ending", async () => {
    await using vm = await create()
    const states: VmState[] = []
    vm.on("state", (state) => {
      states.push(state)
      throw new Error(state)
    })
    vm.on("exited", () => {
      throw new Error("told")
    })
    const errors = await uncaught(async () => {
      await vm.start()
      await vm.kill()
      expect(await vm.exited).toEqual({ reason: "killed" })
      await vm.close()
    })
    expect(states).toEqual(["running", "exited", "closed"])
    expect(errors.map((error) => (error as Error).message).sort()).toEqual([
      "closed",
      "exited",
      "running",
      "told",
    ])
  })

  it("may end it as it starts and as it goes on: no vCPU runs then", async () => {
    await using first = await create()
    first.on("state", (state) => void (state === "running" && first.kill()))
    await first.start()
    expect(await first.exited).toEqual({ reason: "killed" })
    expect(first.statistics().vcpuExits.total).toBe(0)

    await using second = await create()
    await second.start()
    await second.pause()
    second.on("state", (state) => void (state === "running" && second.kill()))
    await second.resume()
    expect(await second.exited).toEqual({ reason: "killed" })
  })
})
