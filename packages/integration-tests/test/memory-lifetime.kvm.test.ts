import { existsSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { type ExitHandler, Kvm, VcpuLoop } from "@virtkit/kvm"
import { mmapMemory } from "@virtkit/memory/mmap"
import { describe, expect, it } from "vitest"

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void
const turn = () => new Promise((resolve) => setImmediate(resolve))

const MiB = 2 ** 20
const CODE = 0x1000
const VALUE = 0x3000

/** Real mode: again and again, writes the byte at VALUE to port 0x10. */
const program = new Uint8Array([0xa0, VALUE & 0xff, VALUE >> 8, 0xe6, 0x10, 0xeb, 0xf9])

/** A guest in that loop. `next` resolves to the next byte that it writes, or "exit" when it came to its end. */
function runningGuest() {
  const kvm = Kvm.open()
  const vm = kvm.createVm()
  const memory = mmapMemory(4 * MiB)
  memory.write(CODE, program)
  memory.writeUint8(VALUE, 1)
  const hostAddress = memory.hostAddress(0, 4 * MiB)
  vm.setMemorySlot({ slot: 0, guestAddress: 0, size: 4 * MiB, hostAddress, owner: memory })
  const vcpu = vm.createVcpu(0)
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE), rflags: 2n })

  let wake: (value: number | "exit") => void = () => {}
  const handler: ExitHandler = {
    portRead: () => 0,
    portWrite: (_port, _size, value) => wake(value),
    mmioRead: () => 0,
    mmioWrite: () => {},
    exit: () => wake("exit"),
    error: () => {},
  }
  vcpu.start(new VcpuLoop(), handler)
  const next = () =>
    new Promise<number | "exit">((resolve) => {
      wake = resolve
    })
  return { kvm, vm, vcpu, memory, next }
}

const reason = existsSync("/dev/kvm") ? "" : " (skipped: there is no /dev/kvm)"
describe.skipIf(reason !== "")(`guest memory and a running guest${reason}`, () => {
  it("is the same for both", async () => {
    const { kvm, vm, vcpu, memory, next } = runningGuest()
    expect(await next()).toBe(1)
    memory.writeUint8(VALUE, 7)
    await next()
    expect(await next()).toBe(7)
    await vcpu.stop()
    for (const handle of [vcpu, vm, kvm, memory]) handle.close()
  })

  it("may be closed while the guest runs: the guest loses it, the host nothing", async () => {
    const { kvm, vm, vcpu, memory, next } = runningGuest()
    expect(await next()).toBe(1)
    const region = memory.regions[0]!
    memory.close()
    // What the guest does with a memory of zeroes is its own affair; it must be stoppable.
    await turn()
    await vcpu.stop()
    expect(new DataView(region.buffer, region.byteOffset).getUint8(CODE)).toBe(0)
    for (const handle of [kvm, vm, vcpu]) handle.close()
  })

  it("stays as long as a slot refers to it, whoever else forgets it", async () => {
    const { kvm, vcpu, next } = runningGuest()
    expect(await next()).toBe(1)
    for (let i = 0; i < 5; i++) {
      gc()
      await turn()
    }
    // Were the memory gone, so were the program and its 1.
    await next()
    expect(await next()).toBe(1)
    await vcpu.stop()
    vcpu.close()
    kvm.close()
  })
})
