import { accessSync, constants, readdirSync, readFileSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { type ExitHandler, Kvm, type Vcpu, type VcpuExit, VcpuLoop, type Vm } from "@virtkit/kvm"
import { MemoryMapping } from "@virtkit/native"
import { describe } from "vitest"

function kvmMissing(): string | undefined {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK)
    return undefined
  } catch (error) {
    return `/dev/kvm is not usable: ${(error as { code?: string }).code}`
  }
}

/** A suite that needs /dev/kvm, and says so by name where that is missing. */
export function describeKvm(name: string, body: () => void): void {
  const missing = kvmMissing()
  if (missing === undefined) describe(name, body)
  else describe.skip(`${name} (skipped: ${missing})`, body)
}

export const RAM = 0x10000
export const CODE = 0x1000

/** A machine of one memory slot of 64 KiB at 0, for guests of a few instructions. */
export interface Machine {
  kvm: Kvm
  vm: Vm
  ram: Uint8Array
  mapping: MemoryMapping
  loop: VcpuLoop
  /** A vCPU in real mode that will run `code`, which is put at `address`. */
  addVcpu(code: Uint8Array, id?: number, address?: number): Vcpu
  [Symbol.dispose](): void
}

export interface MachineOptions {
  /** Called before the memory slot and any vCPU are made. */
  prepare?(vm: Vm): void
  logDirty?: boolean
  loop?: VcpuLoop
}

export function machine(options: MachineOptions = {}): Machine {
  const kvm = Kvm.open()
  const vm = kvm.createVm()
  vm.setTssAddress(0xfffbd000)
  vm.setIdentityMapAddress(0xfffbc000)
  options.prepare?.(vm)
  const mapping = new MemoryMapping({ size: RAM, alignment: 4096 })
  vm.setMemorySlot({
    slot: 0,
    guestAddress: 0,
    size: RAM,
    hostAddress: mapping.hostAddress,
    logDirty: options.logDirty ?? false,
  })
  const ram = new Uint8Array(mapping.buffer, mapping.byteOffset, RAM)
  const loop = options.loop ?? new VcpuLoop()
  const vcpus: Vcpu[] = []
  return {
    kvm,
    vm,
    ram,
    mapping,
    loop,
    addVcpu(code, id = 0, address = CODE) {
      ram.set(code, address)
      const vcpu = vm.createVcpu(id)
      vcpus.push(vcpu)
      realMode(vcpu, address)
      return vcpu
    },
    [Symbol.dispose]() {
      for (const vcpu of vcpus) vcpu.close()
      vm.close()
      kvm.close()
      mapping.release()
    },
  }
}

/** Flat real mode at `address`, stack below 0x8000. */
export function realMode(vcpu: Vcpu, address: number): void {
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(address), rsp: 0x8000n, rflags: 2n })
}

/**
 * 64-bit mode at `address`, with the first GiB mapped one to one by page tables at 0x2000 to 0x4fff.
 */
export function longMode(vcpu: Vcpu, ram: Uint8Array, address: number): void {
  const tables = new DataView(ram.buffer, ram.byteOffset)
  tables.setBigUint64(0x2000, 0x3003n, true)
  tables.setBigUint64(0x3000, 0x4003n, true)
  for (let i = 0; i < 512; i++) tables.setBigUint64(0x4000 + i * 8, (BigInt(i) << 21n) | 0x83n, true)
  const sregs = vcpu.getSregs()
  const segment = { ...sregs.cs, base: 0n, limit: 0xffffffff, present: 1, s: 1, g: 1, dpl: 0, unusable: 0 }
  const data = { ...segment, selector: 16, type: 3, db: 1, l: 0 }
  vcpu.setSregs({
    ...sregs,
    cs: { ...segment, selector: 8, type: 11, db: 0, l: 1 },
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    cr0: 0x80000001n,
    cr3: 0x2000n,
    cr4: 0x20n,
    efer: 0x500n,
  })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(address), rsp: 0x8000n, rflags: 2n })
}

export type Access = [operation: string, address: number, size: number, value?: number]

/** A handler that writes everything down, and a promise of the first exit that is no access. */
export interface Recorder extends ExitHandler {
  accesses: Access[]
  exits: VcpuExit[]
  errors: unknown[]
  readonly stopped: Promise<VcpuExit>
}

export function recorder(overrides: Partial<ExitHandler> = {}): Recorder {
  const accesses: Access[] = []
  const exits: VcpuExit[] = []
  const errors: unknown[] = []
  let stop!: (exit: VcpuExit) => void
  const stopped = new Promise<VcpuExit>((resolve) => {
    stop = resolve
  })
  return {
    accesses,
    exits,
    errors,
    stopped,
    portRead(port, size) {
      accesses.push(["in", port, size])
      return 0
    },
    portWrite(port, size, value) {
      accesses.push(["out", port, size, value])
    },
    mmioRead(address, size) {
      accesses.push(["read", address, size])
      return 0
    },
    mmioWrite(address, size, value) {
      accesses.push(["write", address, size, value])
    },
    exit(_vcpu, exit) {
      exits.push(exit)
      stop(exit)
    },
    error(_vcpu, error) {
      errors.push(error)
    },
    ...overrides,
  }
}

/** Runs `code` until the first exit that is no access. */
export async function runToExit(
  m: Machine,
  vcpu: Vcpu,
  overrides: Partial<ExitHandler> = {},
): Promise<Recorder & { exit_: VcpuExit }> {
  const handler = recorder(overrides)
  vcpu.start(m.loop, handler)
  const exit_ = await handler.stopped
  return Object.assign(handler, { exit_ })
}

export const openFiles = (): number => readdirSync("/proc/self/fd").length
/** Threads of vCPUs, by their name. The kernel itself adds other threads to a process that runs guests. */
export const vcpuThreads = (): number =>
  readdirSync("/proc/self/task").filter((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, "latin1").startsWith("vcpu-")
    } catch {
      return false
    }
  }).length

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void

/** Collects garbage and lets finalizers run, which need a turn of the event loop. */
export async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
}
