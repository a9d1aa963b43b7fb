import { KvmVm, kvmConstants } from "@virtkit/native"
import { type Capability, capabilityNumber } from "./capability.js"
import { Device } from "./device.js"
import { converting } from "./errors.js"
import { Handle } from "./handle.js"
import {
  CoalescedZone,
  type CoalescedZoneOptions,
  IoEventFd,
  type IoEventFdOptions,
  IrqFd,
  type IrqFdOptions,
} from "./irq.js"
import type { Kvm } from "./kvm.js"
import { blank, encode, encodeList, type Layout, u64 } from "./layout.js"
import { Statistics } from "./stats.js"
import {
  type Clock,
  clockLayout,
  enableCapLayout,
  type IoapicState,
  ioapicStateLayout,
  irqchipLayout,
  irqLevelLayout,
  msiLayout,
  type PicState,
  type PitState,
  picStateLayout,
  pitConfigLayout,
  pitStateLayout,
  reinjectLayout,
  routingEntryLayout,
} from "./structs/machine.js"
import { Vcpu } from "./vcpu.js"

/** A range of guest physical memory and the memory of this process behind it. */
export interface MemorySlot {
  slot: number
  /** Multiple of 4096. */
  guestAddress: number
  /** Bytes, a multiple of 4096; 0 removes the slot. */
  size: number
  /** Address of page-aligned memory in this process that must stay mapped until the slot is gone. */
  hostAddress: number
  /** Guest writes exit as MMIO, reads and execution do not (KVM_MEM_READONLY). */
  readonly?: boolean
  /** Record written pages for `dirtyLog` (KVM_MEM_LOG_DIRTY_PAGES). */
  logDirty?: boolean
  /**
   * Whatever keeps that memory mapped while it is referenced, such as a GuestMemoryMap. The VM and its vCPUs refer to it
   * until the slot is removed: memory that was collected and used for something else would be open to the guest.
   */
  owner?: object
}

/** A message-signalled interrupt. */
export interface Msi {
  /** 64-bit address; on x86 0xfee00000 with the destination in bits 12 to 19. */
  address: number
  data: number
}

/** Where an interrupt that is raised by GSI goes: a pin of an in-kernel controller, or a message. */
export type GsiRoute =
  | { gsi: number; irqchip: "pic-master" | "pic-slave" | "ioapic"; pin: number }
  | { gsi: number; msi: Msi }

/** One range of KVM_X86_SET_MSR_FILTER. */
export interface MsrFilterRange {
  read?: boolean
  write?: boolean
  base: number
  /** One entry an MSR from `base` on: whether the guest may access it without an exit or #GP. */
  allow: readonly boolean[]
}

const chips = {
  "pic-master": kvmConstants.KVM_IRQCHIP_PIC_MASTER,
  "pic-slave": kvmConstants.KVM_IRQCHIP_PIC_SLAVE,
  ioapic: kvmConstants.KVM_IRQCHIP_IOAPIC,
}

/** One virtual machine. */
export class Vm extends Handle<KvmVm> {
  #slotPages = new Map<number, number>()
  readonly #slotOwners = new Map<number, object>()

  /** @internal Use Kvm.createVm. */
  static create(kvm: Kvm, machineType: number): Vm {
    return new Vm(converting(() => new KvmVm(kvm.native, machineType)))
  }

  /** KVM_CHECK_EXTENSION on the VM: some capabilities depend on its type. */
  checkExtension(capability: Capability | number): number {
    return this.ioctl("KVM_CHECK_EXTENSION", capabilityNumber(capability))
  }

  /** KVM_ENABLE_CAP. */
  enableCapability(capability: Capability | number, args: readonly bigint[] = [], flags = 0): void {
    const padded = [0, 1, 2, 3].map((i) => args[i] ?? 0n)
    this.ioctl(
      "KVM_ENABLE_CAP",
      encode(enableCapLayout, { cap: capabilityNumber(capability), flags, args: padded }),
    )
  }

  /** KVM_CREATE_VCPU. `id` is the local APIC id. In-kernel interrupt controllers must exist before. */
  createVcpu(id: number): Vcpu {
    this.assertOpen()
    return Vcpu.create(this, id)
  }

  // Memory

  /** KVM_SET_USER_MEMORY_REGION: adds, moves, changes the flags of, or with size 0 removes a slot. */
  setMemorySlot(slot: MemorySlot): void {
    this.assertOpen()
    const flags =
      (slot.readonly ? kvmConstants.KVM_MEM_READONLY : 0) |
      (slot.logDirty ? kvmConstants.KVM_MEM_LOG_DIRTY_PAGES : 0)
    converting(() =>
      this.native.setMemorySlot(slot.slot, flags, slot.guestAddress, slot.size, slot.hostAddress),
    )
    this.#slotPages.delete(slot.slot)
    this.#slotOwners.delete(slot.slot)
    if (slot.size === 0) return
    this.#slotPages.set(slot.slot, slot.size / 4096)
    if (slot.owner !== undefined) this.#slotOwners.set(slot.slot, slot.owner)
  }

  removeMemorySlot(slot: number): void {
    this.setMemorySlot({ slot, guestAddress: 0, size: 0, hostAddress: 0 })
  }

  /**
   * KVM_GET_DIRTY_LOG: a bit for each page of the slot that was written since the last call, page 0 in bit 0 of word 0,
   * whole 64-bit units. Clears the log, unless manual clearing was enabled.
   */
  dirtyLog(slot: number, bitmap: Uint32Array = this.#emptyBitmap(slot)): Uint32Array {
    this.assertOpen()
    converting(() => this.native.getDirtyLog(slot, bitmap))
    return bitmap
  }

  /** With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: starts to log these pages anew. `bitmap` begins with `firstPage`. */
  clearDirtyLog(slot: number, firstPage: number, pages: number, bitmap: Uint32Array): void {
    this.assertOpen()
    converting(() => this.native.clearDirtyLog(slot, firstPage, pages, bitmap))
  }

  /**
   * Uses dirty rings of `bytes` (a power of two, at most `checkExtension("KVM_CAP_DIRTY_LOG_RING")`) instead of
   * the log. Before the first vCPU; each vCPU then needs `mapDirtyRing(bytes)`.
   */
  enableDirtyRing(bytes: number): void {
    this.enableCapability("KVM_CAP_DIRTY_LOG_RING", [BigInt(bytes)])
  }

  /** KVM_RESET_DIRTY_RINGS: harvested entries are logged anew; returns their number. */
  resetDirtyRings(): number {
    return this.ioctl("KVM_RESET_DIRTY_RINGS")
  }

  #emptyBitmap(slot: number): Uint32Array {
    return new Uint32Array(Math.ceil((this.#slotPages.get(slot) ?? 0) / 64) * 2)
  }

  // Addresses that KVM on Intel needs for itself, below 4 GiB and outside memory slots

  /** KVM_SET_TSS_ADDR: three pages. */
  setTssAddress(address: number): void {
    this.ioctl("KVM_SET_TSS_ADDR", address)
  }

  /** KVM_SET_IDENTITY_MAP_ADDR: one page. Before the first vCPU. */
  setIdentityMapAddress(address: number): void {
    this.ioctl("KVM_SET_IDENTITY_MAP_ADDR", encode(u64, BigInt(address)))
  }

  /** KVM_SET_BOOT_CPU_ID: the vCPU that starts by itself, 0 by default. Before the first vCPU. */
  setBootCpuId(id: number): void {
    this.ioctl("KVM_SET_BOOT_CPU_ID", id)
  }

  // Interrupts

  /** KVM_CREATE_IRQCHIP: both 8259, the IOAPIC and local APICs in the kernel. Before the first vCPU. */
  createIrqchip(): void {
    this.ioctl("KVM_CREATE_IRQCHIP")
  }

  /** Local APICs in the kernel, the IOAPIC (of `pins`) in user space. Before the first vCPU. */
  enableSplitIrqchip(pins = 24): void {
    this.enableCapability("KVM_CAP_SPLIT_IRQCHIP", [BigInt(pins)])
  }

  /** KVM_CREATE_PIT2: the 8254 timer in the kernel. `speaker` also answers port 0x61. */
  createPit(options: { speaker?: boolean } = {}): void {
    const flags = options.speaker ? kvmConstants.KVM_PIT_SPEAKER_DUMMY : 0
    this.ioctl("KVM_CREATE_PIT2", encode(pitConfigLayout, { flags }))
  }

  /** KVM_IRQ_LINE: level of an interrupt controller's pin. */
  setIrqLine(gsi: number, level: 0 | 1): void {
    this.ioctl("KVM_IRQ_LINE", encode(irqLevelLayout, { irq: gsi, level }))
  }

  /** KVM_IRQ_LINE_STATUS: as setIrqLine; 0: merged with one pending, negative: masked, else: delivered to so many. */
  setIrqLineStatus(gsi: number, level: 0 | 1): number {
    const view = encode(irqLevelLayout, { irq: gsi, level })
    this.ioctl("KVM_IRQ_LINE_STATUS", view)
    return view.getInt32(0, true)
  }

  /** KVM_SIGNAL_MSI: 0 if the guest blocked it, else the number of vCPUs that it went to. */
  signalMsi(msi: Msi): number {
    const { low, high } = halves(msi.address)
    const fields = { addressLow: low, addressHigh: high, data: msi.data, flags: 0, devid: 0 }
    return this.ioctl("KVM_SIGNAL_MSI", encode(msiLayout, fields))
  }

  /** KVM_SET_GSI_ROUTING: replaces all routes, those of KVM_CREATE_IRQCHIP too. */
  setGsiRouting(routes: readonly GsiRoute[]): void {
    const entries = routes.map((route) => {
      const common = { gsi: route.gsi, flags: 0, word2: 0, word3: 0 }
      if ("irqchip" in route)
        return {
          ...common,
          type: kvmConstants.KVM_IRQ_ROUTING_IRQCHIP,
          word0: chips[route.irqchip],
          word1: route.pin,
        }
      const { low, high } = halves(route.msi.address)
      return {
        ...common,
        type: kvmConstants.KVM_IRQ_ROUTING_MSI,
        word0: low,
        word1: high,
        word2: route.msi.data,
      }
    })
    this.ioctl("KVM_SET_GSI_ROUTING", encodeList(8, routingEntryLayout, entries))
  }

  /** KVM_IRQFD: each signal of the eventfd raises the GSI, with no system call of this process. */
  irqfd(options: IrqFdOptions): IrqFd {
    return new IrqFd((argument) => this.ioctl("KVM_IRQFD", argument), options)
  }

  /** KVM_IOEVENTFD: matching guest writes signal the eventfd and do not exit. */
  ioeventfd(options: IoEventFdOptions): IoEventFd {
    return new IoEventFd((argument) => this.ioctl("KVM_IOEVENTFD", argument), options)
  }

  /**
   * Collects guest writes to the range in a ring; they reach the handler before the next exit's access does. That exit may never come:
   * it is for registers that only say what a later access is about, and not for one that resets or stops the guest.
   */
  coalesce(options: CoalescedZoneOptions): CoalescedZone {
    return new CoalescedZone((request, argument) => this.ioctl(request, argument), options)
  }

  /**
   * Ports that the vCPU threads answer without JavaScript: writes are dropped, and reads give the byte `constant` for
   * each port. An access is answered so only if all ports that it covers are set; neither option: back to the handler.
   */
  setPort(port: number, length: number, options: { ignoreWrites?: boolean; constant?: number }): void {
    this.assertOpen()
    converting(() => this.native.setPort(port, length, options.ignoreWrites ?? false, options.constant ?? -1))
  }

  // State of the in-kernel devices

  getPic(which: "master" | "slave"): PicState {
    return this.#getChip(chips[`pic-${which}`], picStateLayout)
  }
  setPic(which: "master" | "slave", state: PicState): void {
    this.#setChip(chips[`pic-${which}`], picStateLayout, state)
  }
  getIoapic(): IoapicState {
    return this.#getChip(chips.ioapic, ioapicStateLayout)
  }
  setIoapic(state: IoapicState): void {
    this.#setChip(chips.ioapic, ioapicStateLayout, state)
  }

  #getChip<T>(chipId: number, layout: Layout<T>): T {
    const view = encode(irqchipLayout, { chipId, chip: new Uint8Array(0) })
    this.ioctl("KVM_GET_IRQCHIP", view)
    return layout.read(view, 8)
  }
  #setChip<T>(chipId: number, layout: Layout<T>, state: T): void {
    const view = encode(irqchipLayout, { chipId, chip: new Uint8Array(0) })
    layout.write(view, 8, state)
    this.ioctl("KVM_SET_IRQCHIP", view)
  }

  /** KVM_GET_PIT2. */
  getPit(): PitState {
    return this.#get("KVM_GET_PIT2", pitStateLayout)
  }
  /** KVM_SET_PIT2. */
  setPit(state: PitState): void {
    this.ioctl("KVM_SET_PIT2", encode(pitStateLayout, state))
  }
  /** KVM_REINJECT_CONTROL: whether ticks that the guest missed are made up for (the default). */
  setPitReinject(reinject: boolean): void {
    this.ioctl("KVM_REINJECT_CONTROL", encode(reinjectLayout, { reinject }))
  }

  /** KVM_GET_CLOCK. */
  getClock(): Clock {
    return this.#get("KVM_GET_CLOCK", clockLayout)
  }
  /** KVM_SET_CLOCK. */
  setClock(clock: Clock): void {
    this.ioctl("KVM_SET_CLOCK", encode(clockLayout, clock))
  }

  /** TSC frequency of new vCPUs in kHz (KVM_CAP_VM_TSC_CONTROL). */
  getTscKhz(): number {
    return this.ioctl("KVM_GET_TSC_KHZ")
  }
  setTscKhz(khz: number): void {
    this.ioctl("KVM_SET_TSC_KHZ", khz)
  }

  // MSRs that exit, other kernel objects

  /** Accesses to MSRs for these reasons exit as rdmsr and wrmsr (KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_*). */
  setUserspaceMsrReasons(reasons: number): void {
    this.enableCapability("KVM_CAP_X86_USER_SPACE_MSR", [BigInt(reasons)])
  }

  /** KVM_X86_SET_MSR_FILTER, at most 16 ranges; none: no filter. */
  setMsrFilter(defaultAccess: "allow" | "deny", ranges: readonly MsrFilterRange[]): void {
    this.assertOpen()
    const flags =
      defaultAccess === "deny"
        ? kvmConstants.KVM_MSR_FILTER_DEFAULT_DENY
        : kvmConstants.KVM_MSR_FILTER_DEFAULT_ALLOW
    const native = ranges.map((range) => ({
      flags:
        (range.read ? kvmConstants.KVM_MSR_FILTER_READ : 0) |
        (range.write ? kvmConstants.KVM_MSR_FILTER_WRITE : 0),
      base: range.base,
      count: range.allow.length,
      bitmap: toBitmap(range.allow),
    }))
    converting(() => this.native.setMsrFilter(flags, native))
  }

  /** KVM_CREATE_DEVICE; `type` is KVM_DEV_TYPE_*. */
  createDevice(type: number): Device {
    this.assertOpen()
    return Device.create(this.native, type)
  }
  /** Whether `createDevice` could. */
  canCreateDevice(type: number): boolean {
    this.assertOpen()
    return Device.possible(this.native, type)
  }

  /** KVM_GET_STATS_FD. */
  statistics(): Statistics {
    this.assertOpen()
    return Statistics.of(this.native)
  }

  #get<T>(request: string, layout: Layout<T>): T {
    const view = blank(layout)
    this.ioctl(request, view)
    return layout.read(view, 0)
  }
}

function halves(address: number): { low: number; high: number } {
  return { low: address >>> 0, high: Math.floor(address / 2 ** 32) }
}

function toBitmap(bits: readonly boolean[]): Uint8Array {
  const bitmap = new Uint8Array(Math.ceil(bits.length / 8))
  bits.forEach((bit, i) => {
    if (bit) bitmap[i >> 3]! |= 1 << (i & 7)
  })
  return bitmap
}
