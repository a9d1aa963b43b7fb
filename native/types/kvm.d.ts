/** Frees nothing by itself: every handle must be closed, or is when it is garbage collected. */
interface KvmHandle {
  /** The file descriptor, -1 once closed. */
  readonly fd: number
  /**
   * A request whose argument is nothing, an integer, or a flat buffer (checked against the size that the kernel will
   * touch). Returns the ioctl's result. Throws an Error with `code`, `errno`, `syscall`.
   */
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  /** KVM_{HAS,GET,SET}_DEVICE_ATTR; `value` is 8 bytes or what the attribute needs. "has" returns a boolean. */
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  /** Idempotent. */
  close(): void
}

/** /dev/kvm. */
export declare class KvmSystem implements KvmHandle {
  constructor(path: string)
  readonly fd: number
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  close(): void
}

export interface MsrFilterRange {
  flags: number
  base: number
  /** Number of MSRs from `base` on; `bitmap` has a bit for each, 1 allows. */
  count: number
  bitmap: Uint8Array
}

export declare class KvmVm implements KvmHandle {
  constructor(system: KvmSystem, machineType: number)
  readonly fd: number
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  close(): void
  /** KVM_SET_USER_MEMORY_REGION; `size` 0 removes the slot. */
  setMemorySlot(slot: number, flags: number, guestAddress: number, size: number, hostAddress: number): void
  /** `bitmap` has a bit for each page of the slot, whole 64-bit words. */
  getDirtyLog(slot: number, bitmap: ArrayBufferView): void
  clearDirtyLog(slot: number, firstPage: number, pages: number, bitmap: ArrayBufferView): void
  setMsrFilter(flags: number, ranges: readonly MsrFilterRange[]): void
  /** What vCPU threads answer by themselves; `constant` is the byte that each port reads as, -1 for none. */
  setPort(port: number, length: number, ignoreWrites: boolean, constant: number): void
}

export declare class KvmVcpu implements KvmHandle {
  constructor(vm: KvmVm, id: number)
  readonly fd: number
  /** Throws ERR_VIRTKIT_STATE while the vCPU runs. */
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  /** Stops and joins the thread first. */
  close(): void
  start(hub: ExitHub, slot: number, reportInterrupted: boolean): void
  ask(request: "kick" | "pause" | "stop"): void
  join(): void
  mapDirtyRing(bytes: number): void
  /** Fills pairs of slot and page; returns their number. */
  harvestDirtyRing(out: Float64Array): number
  /** Fills 24-byte struct kvm_coalesced_mmio, oldest first; returns their number. */
  drainCoalesced(out: Uint8Array): number
}

export declare class KvmDevice implements KvmHandle {
  /** With `test` nothing is made: it throws if the type cannot be. */
  constructor(vm: KvmVm, type: number, test: boolean)
  readonly fd: number
  ioctl(request: string, argument?: number | ArrayBufferView | ArrayBuffer): number
  attribute(
    operation: "has" | "get" | "set",
    group: number,
    attribute: number,
    value?: ArrayBufferView,
  ): unknown
  close(): void
}

export declare class KvmStats {
  constructor(of: KvmVm | KvmVcpu)
  read(offset: number, target: ArrayBufferView): number
  close(): void
}

/** See native/src/exit_slot.h for the memory and its protocol. */
export declare class ExitHub {
  /** `wake` is called on this environment's event loop. Unclosed, the hub keeps that alive. */
  constructor(slots: number, spinMicroseconds: number, wake: () => void)
  /** The header and the slots, 1024 bytes each. */
  readonly buffer: ArrayBuffer
  /** A slot with an exit, waiting up to that long for one; or -1, and `wake` will be called at the next exit. */
  poll(spinMicroseconds: number): number
  /** Wakes the vCPU thread that sleeps until its exit is answered. */
  wakeSlot(slot: number): void
  close(): void
}

export type KvmConstant =
  | "KVM_EXIT_UNKNOWN"
  | "KVM_EXIT_EXCEPTION"
  | "KVM_EXIT_IO"
  | "KVM_EXIT_HYPERCALL"
  | "KVM_EXIT_DEBUG"
  | "KVM_EXIT_HLT"
  | "KVM_EXIT_MMIO"
  | "KVM_EXIT_IRQ_WINDOW_OPEN"
  | "KVM_EXIT_SHUTDOWN"
  | "KVM_EXIT_FAIL_ENTRY"
  | "KVM_EXIT_INTR"
  | "KVM_EXIT_SET_TPR"
  | "KVM_EXIT_TPR_ACCESS"
  | "KVM_EXIT_NMI"
  | "KVM_EXIT_INTERNAL_ERROR"
  | "KVM_EXIT_SYSTEM_EVENT"
  | "KVM_EXIT_IOAPIC_EOI"
  | "KVM_EXIT_HYPERV"
  | "KVM_EXIT_X86_RDMSR"
  | "KVM_EXIT_X86_WRMSR"
  | "KVM_EXIT_DIRTY_RING_FULL"
  | "KVM_EXIT_AP_RESET_HOLD"
  | "KVM_EXIT_X86_BUS_LOCK"
  | "KVM_EXIT_XEN"
  | "KVM_EXIT_NOTIFY"
  | "KVM_EXIT_MEMORY_FAULT"
  | "KVM_CAP_IRQCHIP"
  | "KVM_CAP_HLT"
  | "KVM_CAP_USER_MEMORY"
  | "KVM_CAP_SET_TSS_ADDR"
  | "KVM_CAP_VAPIC"
  | "KVM_CAP_EXT_CPUID"
  | "KVM_CAP_CLOCKSOURCE"
  | "KVM_CAP_NR_VCPUS"
  | "KVM_CAP_NR_MEMSLOTS"
  | "KVM_CAP_PIT"
  | "KVM_CAP_MP_STATE"
  | "KVM_CAP_COALESCED_MMIO"
  | "KVM_CAP_SYNC_MMU"
  | "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"
  | "KVM_CAP_USER_NMI"
  | "KVM_CAP_SET_GUEST_DEBUG"
  | "KVM_CAP_REINJECT_CONTROL"
  | "KVM_CAP_IRQ_ROUTING"
  | "KVM_CAP_JOIN_MEMORY_REGIONS_WORKS"
  | "KVM_CAP_MCE"
  | "KVM_CAP_IRQFD"
  | "KVM_CAP_PIT2"
  | "KVM_CAP_SET_BOOT_CPU_ID"
  | "KVM_CAP_PIT_STATE2"
  | "KVM_CAP_IOEVENTFD"
  | "KVM_CAP_SET_IDENTITY_MAP_ADDR"
  | "KVM_CAP_XEN_HVM"
  | "KVM_CAP_ADJUST_CLOCK"
  | "KVM_CAP_INTERNAL_ERROR_DATA"
  | "KVM_CAP_VCPU_EVENTS"
  | "KVM_CAP_HYPERV"
  | "KVM_CAP_HYPERV_VAPIC"
  | "KVM_CAP_HYPERV_SPIN"
  | "KVM_CAP_INTR_SHADOW"
  | "KVM_CAP_DEBUGREGS"
  | "KVM_CAP_X86_ROBUST_SINGLESTEP"
  | "KVM_CAP_ENABLE_CAP"
  | "KVM_CAP_XSAVE"
  | "KVM_CAP_XCRS"
  | "KVM_CAP_ASYNC_PF"
  | "KVM_CAP_TSC_CONTROL"
  | "KVM_CAP_GET_TSC_KHZ"
  | "KVM_CAP_MAX_VCPUS"
  | "KVM_CAP_TSC_DEADLINE_TIMER"
  | "KVM_CAP_SYNC_REGS"
  | "KVM_CAP_KVMCLOCK_CTRL"
  | "KVM_CAP_SIGNAL_MSI"
  | "KVM_CAP_READONLY_MEM"
  | "KVM_CAP_IRQFD_RESAMPLE"
  | "KVM_CAP_DEVICE_CTRL"
  | "KVM_CAP_EXT_EMUL_CPUID"
  | "KVM_CAP_HYPERV_TIME"
  | "KVM_CAP_IOAPIC_POLARITY_IGNORED"
  | "KVM_CAP_ENABLE_CAP_VM"
  | "KVM_CAP_IOEVENTFD_NO_LENGTH"
  | "KVM_CAP_VM_ATTRIBUTES"
  | "KVM_CAP_CHECK_EXTENSION_VM"
  | "KVM_CAP_DISABLE_QUIRKS"
  | "KVM_CAP_X86_SMM"
  | "KVM_CAP_MULTI_ADDRESS_SPACE"
  | "KVM_CAP_GUEST_DEBUG_HW_BPS"
  | "KVM_CAP_GUEST_DEBUG_HW_WPS"
  | "KVM_CAP_SPLIT_IRQCHIP"
  | "KVM_CAP_IOEVENTFD_ANY_LENGTH"
  | "KVM_CAP_HYPERV_SYNIC"
  | "KVM_CAP_VCPU_ATTRIBUTES"
  | "KVM_CAP_MAX_VCPU_ID"
  | "KVM_CAP_X2APIC_API"
  | "KVM_CAP_MSI_DEVID"
  | "KVM_CAP_IMMEDIATE_EXIT"
  | "KVM_CAP_X86_DISABLE_EXITS"
  | "KVM_CAP_HYPERV_SYNIC2"
  | "KVM_CAP_HYPERV_VP_INDEX"
  | "KVM_CAP_GET_MSR_FEATURES"
  | "KVM_CAP_HYPERV_EVENTFD"
  | "KVM_CAP_HYPERV_TLBFLUSH"
  | "KVM_CAP_NESTED_STATE"
  | "KVM_CAP_MSR_PLATFORM_INFO"
  | "KVM_CAP_HYPERV_SEND_IPI"
  | "KVM_CAP_COALESCED_PIO"
  | "KVM_CAP_HYPERV_ENLIGHTENED_VMCS"
  | "KVM_CAP_EXCEPTION_PAYLOAD"
  | "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT"
  | "KVM_CAP_HYPERV_CPUID"
  | "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"
  | "KVM_CAP_PMU_EVENT_FILTER"
  | "KVM_CAP_HYPERV_DIRECT_TLBFLUSH"
  | "KVM_CAP_HALT_POLL"
  | "KVM_CAP_ASYNC_PF_INT"
  | "KVM_CAP_SMALLER_MAXPHYADDR"
  | "KVM_CAP_STEAL_TIME"
  | "KVM_CAP_X86_USER_SPACE_MSR"
  | "KVM_CAP_X86_MSR_FILTER"
  | "KVM_CAP_ENFORCE_PV_FEATURE_CPUID"
  | "KVM_CAP_SYS_HYPERV_CPUID"
  | "KVM_CAP_DIRTY_LOG_RING"
  | "KVM_CAP_X86_BUS_LOCK_EXIT"
  | "KVM_CAP_SET_GUEST_DEBUG2"
  | "KVM_CAP_SGX_ATTRIBUTE"
  | "KVM_CAP_VM_COPY_ENC_CONTEXT_FROM"
  | "KVM_CAP_PTP_KVM"
  | "KVM_CAP_HYPERV_ENFORCE_CPUID"
  | "KVM_CAP_SREGS2"
  | "KVM_CAP_EXIT_HYPERCALL"
  | "KVM_CAP_BINARY_STATS_FD"
  | "KVM_CAP_EXIT_ON_EMULATION_FAILURE"
  | "KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM"
  | "KVM_CAP_VM_GPA_BITS"
  | "KVM_CAP_XSAVE2"
  | "KVM_CAP_SYS_ATTRIBUTES"
  | "KVM_CAP_PMU_CAPABILITY"
  | "KVM_CAP_DISABLE_QUIRKS2"
  | "KVM_CAP_VM_TSC_CONTROL"
  | "KVM_CAP_SYSTEM_EVENT_DATA"
  | "KVM_CAP_X86_TRIPLE_FAULT_EVENT"
  | "KVM_CAP_X86_NOTIFY_VMEXIT"
  | "KVM_CAP_VM_DISABLE_NX_HUGE_PAGES"
  | "KVM_CAP_DIRTY_LOG_RING_ACQ_REL"
  | "KVM_CAP_IRQ_INJECT_STATUS"
  | "KVM_CAP_MEMORY_FAULT_INFO"
  | "KVM_CAP_X86_APIC_BUS_CYCLES_NS"
  | "KVM_MEM_LOG_DIRTY_PAGES"
  | "KVM_MEM_READONLY"
  | "KVM_MP_STATE_RUNNABLE"
  | "KVM_MP_STATE_UNINITIALIZED"
  | "KVM_MP_STATE_INIT_RECEIVED"
  | "KVM_MP_STATE_HALTED"
  | "KVM_MP_STATE_SIPI_RECEIVED"
  | "KVM_IRQCHIP_PIC_MASTER"
  | "KVM_IRQCHIP_PIC_SLAVE"
  | "KVM_IRQCHIP_IOAPIC"
  | "KVM_IRQ_ROUTING_IRQCHIP"
  | "KVM_IRQ_ROUTING_MSI"
  | "KVM_IRQ_ROUTING_HV_SINT"
  | "KVM_IRQFD_FLAG_DEASSIGN"
  | "KVM_IRQFD_FLAG_RESAMPLE"
  | "KVM_IOEVENTFD_FLAG_DATAMATCH"
  | "KVM_IOEVENTFD_FLAG_PIO"
  | "KVM_IOEVENTFD_FLAG_DEASSIGN"
  | "KVM_PIT_SPEAKER_DUMMY"
  | "KVM_PIT_FLAGS_HPET_LEGACY"
  | "KVM_PIT_FLAGS_SPEAKER_DATA_ON"
  | "KVM_CLOCK_TSC_STABLE"
  | "KVM_CLOCK_REALTIME"
  | "KVM_CLOCK_HOST_TSC"
  | "KVM_GUESTDBG_ENABLE"
  | "KVM_GUESTDBG_SINGLESTEP"
  | "KVM_GUESTDBG_USE_SW_BP"
  | "KVM_GUESTDBG_USE_HW_BP"
  | "KVM_GUESTDBG_INJECT_DB"
  | "KVM_GUESTDBG_INJECT_BP"
  | "KVM_GUESTDBG_BLOCKIRQ"
  | "KVM_CPUID_FLAG_SIGNIFCANT_INDEX"
  | "KVM_VCPUEVENT_VALID_NMI_PENDING"
  | "KVM_VCPUEVENT_VALID_SIPI_VECTOR"
  | "KVM_VCPUEVENT_VALID_SHADOW"
  | "KVM_VCPUEVENT_VALID_SMM"
  | "KVM_VCPUEVENT_VALID_PAYLOAD"
  | "KVM_VCPUEVENT_VALID_TRIPLE_FAULT"
  | "KVM_X86_DISABLE_EXITS_MWAIT"
  | "KVM_X86_DISABLE_EXITS_HLT"
  | "KVM_X86_DISABLE_EXITS_PAUSE"
  | "KVM_X86_DISABLE_EXITS_CSTATE"
  | "KVM_X2APIC_API_USE_32BIT_IDS"
  | "KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK"
  | "KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE"
  | "KVM_DIRTY_LOG_INITIALLY_SET"
  | "KVM_MSR_EXIT_REASON_INVAL"
  | "KVM_MSR_EXIT_REASON_UNKNOWN"
  | "KVM_MSR_EXIT_REASON_FILTER"
  | "KVM_MSR_FILTER_READ"
  | "KVM_MSR_FILTER_WRITE"
  | "KVM_MSR_FILTER_DEFAULT_ALLOW"
  | "KVM_MSR_FILTER_DEFAULT_DENY"
  | "KVM_BUS_LOCK_DETECTION_OFF"
  | "KVM_BUS_LOCK_DETECTION_EXIT"
  | "KVM_X86_QUIRK_LINT0_REENABLED"
  | "KVM_X86_QUIRK_CD_NW_CLEARED"
  | "KVM_X86_QUIRK_LAPIC_MMIO_HOLE"
  | "KVM_X86_QUIRK_OUT_7E_INC_RIP"
  | "KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT"
  | "KVM_X86_QUIRK_FIX_HYPERCALL_INSN"
  | "KVM_DEV_TYPE_VFIO"
  | "KVM_VCPU_TSC_CTRL"
  | "KVM_VCPU_TSC_OFFSET"
  | "KVM_X86_XCOMP_GUEST_SUPP"
  | "KVM_SREGS2_FLAGS_PDPTRS_VALID"
  | "KVM_MSI_VALID_DEVID"
  | "KVM_SYSTEM_EVENT_SHUTDOWN"
  | "KVM_SYSTEM_EVENT_RESET"
  | "KVM_SYSTEM_EVENT_CRASH"
  | "KVM_SYSTEM_EVENT_WAKEUP"
  | "KVM_SYSTEM_EVENT_SUSPEND"
  | "KVM_SYSTEM_EVENT_SEV_TERM"
  | "KVM_INTERNAL_ERROR_EMULATION"
  | "KVM_INTERNAL_ERROR_SIMUL_EX"
  | "KVM_INTERNAL_ERROR_DELIVERY_EV"
  | "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON"

/** Numbers of the kernel headers that the addon was compiled with. */
export declare const kvmConstants: Readonly<Record<KvmConstant, number>>
/** Sizes ("kvm_regs") and offsets ("kvm_regs.rip") of structures, in bytes. */
export declare const kvmLayouts: Readonly<Record<string, number>>
