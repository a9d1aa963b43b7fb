import { kvmConstants } from "@virtkit/native"
import { encode } from "./layout.js"
import { coalescedZoneLayout, ioeventfdLayout, irqfdLayout } from "./structs/machine.js"

export interface IrqFdOptions {
  /** An eventfd. It may be closed any time; KVM then forgets the assignment. */
  fd: number
  gsi: number
  /** Level-triggered: the line stays up until the guest's end of interrupt, which signals this eventfd. */
  resampleFd?: number
}

/** Something that was registered with the VM until it is closed. Closing after the VM does nothing. */
abstract class Registration {
  #undo: (() => void) | undefined

  constructor(undo: () => void) {
    this.#undo = undo
  }

  /** Idempotent. */
  close(): void {
    const undo = this.#undo
    this.#undo = undefined
    try {
      undo?.()
    } catch (error) {
      // The VM's handle may be closed before; the registration went with it or goes with the last descriptor. Without
      // the eventfd KVM cannot find it: an irqfd went with the eventfd, an ioeventfd stays, unreachable, with the VM.
      const gone: unknown[] = ["ERR_VIRTKIT_STATE", "EBADF", "ENOENT"]
      if (!gone.includes((error as { code?: unknown }).code)) throw error
    }
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** An eventfd that raises an interrupt. */
export class IrqFd extends Registration {
  /** @internal Use Vm.irqfd. */
  constructor(ioctl: (argument: DataView) => void, options: IrqFdOptions) {
    const resample = options.resampleFd !== undefined
    const fields = {
      fd: options.fd,
      gsi: options.gsi,
      flags: resample ? kvmConstants.KVM_IRQFD_FLAG_RESAMPLE : 0,
      resamplefd: options.resampleFd ?? 0,
    }
    ioctl(encode(irqfdLayout, fields))
    super(() =>
      ioctl(encode(irqfdLayout, { ...fields, flags: kvmConstants.KVM_IRQFD_FLAG_DEASSIGN, resamplefd: 0 })),
    )
  }
}

export interface IoEventFdOptions {
  /** An eventfd. Close the registration before it, or the VM keeps it. */
  fd: number
  space: "pio" | "mmio"
  /** Port or guest physical address. */
  address: number
  /** Width of the write; 0 matches any. */
  length: 0 | 1 | 2 | 4 | 8
  /** Only writes of this value; needs a `length`. */
  datamatch?: number | bigint
}

/** A guest write that signals an eventfd. */
export class IoEventFd extends Registration {
  /** @internal Use Vm.ioeventfd. */
  constructor(ioctl: (argument: DataView) => void, options: IoEventFdOptions) {
    const flags =
      (options.space === "pio" ? kvmConstants.KVM_IOEVENTFD_FLAG_PIO : 0) |
      (options.datamatch !== undefined ? kvmConstants.KVM_IOEVENTFD_FLAG_DATAMATCH : 0)
    const fields = {
      datamatch: BigInt(options.datamatch ?? 0),
      address: BigInt(options.address),
      length: options.length,
      fd: options.fd,
      flags,
    }
    ioctl(encode(ioeventfdLayout, fields))
    super(() =>
      ioctl(encode(ioeventfdLayout, { ...fields, flags: flags | kvmConstants.KVM_IOEVENTFD_FLAG_DEASSIGN })),
    )
  }
}

export interface CoalescedZoneOptions {
  space: "pio" | "mmio"
  address: number
  /** Bytes. */
  size: number
}

/** A range whose writes are collected. */
export class CoalescedZone extends Registration {
  /** @internal Use Vm.coalesce. */
  constructor(ioctl: (request: string, argument: DataView) => void, options: CoalescedZoneOptions) {
    const zone = encode(coalescedZoneLayout, {
      address: BigInt(options.address),
      size: options.size,
      pio: options.space === "pio" ? 1 : 0,
    })
    ioctl("KVM_REGISTER_COALESCED_MMIO", zone)
    super(() => ioctl("KVM_UNREGISTER_COALESCED_MMIO", zone))
  }
}
