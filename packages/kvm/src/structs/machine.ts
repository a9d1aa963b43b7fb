import { array, bytes, flag, i64, type Layout, reserved, struct, u8, u16, u32, u64 } from "../layout.js"

/** One of the two 8259 interrupt controllers (struct kvm_pic_state). */
export interface PicState {
  lastIrr: number
  irr: number
  imr: number
  isr: number
  priorityAdd: number
  irqBase: number
  readRegSelect: number
  poll: number
  specialMask: number
  initState: number
  autoEoi: number
  rotateOnAutoEoi: number
  specialFullyNestedMode: number
  init4: number
  elcr: number
  elcrMask: number
}

export const picStateLayout: Layout<PicState> = struct<PicState>({
  lastIrr: u8,
  irr: u8,
  imr: u8,
  isr: u8,
  priorityAdd: u8,
  irqBase: u8,
  readRegSelect: u8,
  poll: u8,
  specialMask: u8,
  initState: u8,
  autoEoi: u8,
  rotateOnAutoEoi: u8,
  specialFullyNestedMode: u8,
  init4: u8,
  elcr: u8,
  elcrMask: u8,
})

/** The IOAPIC (struct kvm_ioapic_state). */
export interface IoapicState {
  baseAddress: bigint
  ioregsel: number
  id: number
  irr: number
  /** The 24 redirection table entries as the guest sees them. */
  redirtbl: readonly bigint[]
}

export const ioapicStateLayout: Layout<IoapicState> = struct<IoapicState>({
  baseAddress: u64,
  ioregsel: u32,
  id: u32,
  irr: u32,
  _pad: reserved(4),
  redirtbl: array(u64, 24),
})

/** One of the three counters of the 8254. */
export interface PitChannel {
  count: number
  latchedCount: number
  countLatched: number
  statusLatched: number
  status: number
  readState: number
  writeState: number
  writeLatch: number
  rwMode: number
  mode: number
  bcd: number
  gate: number
  /** Host time in ns. */
  countLoadTime: bigint
}

const pitChannelLayout: Layout<PitChannel> = struct<PitChannel>({
  count: u32,
  latchedCount: u16,
  countLatched: u8,
  statusLatched: u8,
  status: u8,
  readState: u8,
  writeState: u8,
  writeLatch: u8,
  rwMode: u8,
  mode: u8,
  bcd: u8,
  gate: u8,
  countLoadTime: i64,
})

/** The 8254 timer (struct kvm_pit_state2). */
export interface PitState {
  channels: readonly PitChannel[]
  /** KVM_PIT_FLAGS_*. */
  flags: number
}

export const pitStateLayout: Layout<PitState> = struct<PitState>({
  channels: array(pitChannelLayout, 3),
  flags: u32,
  _pad: reserved(36),
})

/** The guest's paravirtual clock (struct kvm_clock_data). */
export interface Clock {
  /** ns. */
  clock: bigint
  /** KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC: what of the following is valid. */
  flags: number
  /** Host's CLOCK_REALTIME in ns at the same instant. */
  realtime: bigint
  hostTsc: bigint
}

export const clockLayout: Layout<Clock> = struct<Clock>({
  clock: u64,
  flags: u32,
  _pad0: reserved(4),
  realtime: u64,
  hostTsc: u64,
  _pad1: reserved(16),
})

export const irqchipLayout: Layout<{ chipId: number; chip: Uint8Array }> = struct<{
  chipId: number
  chip: Uint8Array
}>({ chipId: u32, _pad: reserved(4), chip: bytes(512) })

export const irqLevelLayout: Layout<{ irq: number; level: number }> = struct<{ irq: number; level: number }>({
  irq: u32,
  level: u32,
})

export const msiLayout: Layout<MsiFields> = struct<MsiFields>({
  addressLow: u32,
  addressHigh: u32,
  data: u32,
  flags: u32,
  devid: u32,
  _pad: reserved(12),
})
interface MsiFields {
  addressLow: number
  addressHigh: number
  data: number
  flags: number
  devid: number
}

/** The union of a routing entry as four words. */
interface RoutingFields {
  gsi: number
  type: number
  flags: number
  word0: number
  word1: number
  word2: number
  word3: number
}
export const routingEntryLayout: Layout<RoutingFields> = struct<RoutingFields>({
  gsi: u32,
  type: u32,
  flags: u32,
  _pad0: reserved(4),
  word0: u32,
  word1: u32,
  word2: u32,
  word3: u32,
  _pad1: reserved(16),
})

interface IrqfdFields {
  fd: number
  gsi: number
  flags: number
  resamplefd: number
}
export const irqfdLayout: Layout<IrqfdFields> = struct<IrqfdFields>({
  fd: u32,
  gsi: u32,
  flags: u32,
  resamplefd: u32,
  _pad: reserved(16),
})

interface IoeventfdFields {
  datamatch: bigint
  address: bigint
  length: number
  fd: number
  flags: number
}
export const ioeventfdLayout: Layout<IoeventfdFields> = struct<IoeventfdFields>({
  datamatch: u64,
  address: u64,
  length: u32,
  fd: u32,
  flags: u32,
  _pad: reserved(36),
})

interface EnableCapFields {
  cap: number
  flags: number
  args: readonly bigint[]
}
export const enableCapLayout: Layout<EnableCapFields> = struct<EnableCapFields>({
  cap: u32,
  flags: u32,
  args: array(u64, 4),
  _pad: reserved(64),
})

interface CoalescedZoneFields {
  address: bigint
  size: number
  pio: number
}
export const coalescedZoneLayout: Layout<CoalescedZoneFields> = struct<CoalescedZoneFields>({
  address: u64,
  size: u32,
  pio: u32,
})

export const reinjectLayout: Layout<{ reinject: boolean }> = struct<{ reinject: boolean }>({
  reinject: flag,
  _pad: reserved(31),
})

export const pitConfigLayout: Layout<{ flags: number }> = struct<{ flags: number }>({
  flags: u32,
  _pad: reserved(60),
})
