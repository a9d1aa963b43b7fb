export type { Capability } from "./capability.js"
export type { ExitCounters } from "./counters.js"
export type { Device } from "./device.js"
export type { ExitAnswer, ExitReason, MsrExitCause, SystemEvent, VcpuExit } from "./exits.js"
export type { ExitHandler } from "./handler.js"
export type {
  CoalescedZone,
  CoalescedZoneOptions,
  IoEventFd,
  IoEventFdOptions,
  IrqFd,
  IrqFdOptions,
} from "./irq.js"
export { Kvm } from "./kvm.js"
export type { Statistic, Statistics } from "./stats.js"
export type { Clock, IoapicState, PicState, PitChannel, PitState } from "./structs/machine.js"
export type {
  CpuidEntry,
  DebugRegs,
  DescriptorTable,
  Fpu,
  GuestDebug,
  Msr,
  Regs,
  Segment,
  Sregs,
  Sregs2,
  Translation,
  VcpuEvents,
  Xcr,
} from "./structs/registers.js"
export type { StartOptions, Vcpu } from "./vcpu.js"
export { VcpuLoop, type VcpuLoopOptions } from "./vcpu-loop.js"
export type { MpState } from "./vcpu-state.js"
export type { GsiRoute, MemorySlot, Msi, MsrFilterRange, Vm } from "./vm.js"
