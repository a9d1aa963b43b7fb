import type { VirtioDevice } from "@virtkit/interface"
import type { Machine } from "./machine-build.js"

export interface VmStatistics {
  /** Milliseconds from the beginning of `Vm.create` to the end of each phase that was reached. */
  readonly phasesMs: Readonly<Record<string, number>>
  readonly vcpuExits: {
    /** Returns of KVM_RUN: the exits that left the kernel. */
    readonly total: number
    /** Those that a device model in JavaScript handled, single accesses counted. */
    readonly toUser: number
    readonly byReason: Readonly<Record<string, number>>
  }
  readonly devices: readonly {
    readonly name: string
    readonly queues: readonly unknown[]
    /** Of a disk in a file, what carries its requests out: "io_uring" or "threads". */
    readonly engine?: string
  }[]
  /** Ranges of both address spaces that devices answer at. */
  readonly ranges: number
  /** Message-signalled interrupts that exist; each has a GSI and a route. */
  readonly messages: number
}

/** When the phases of a VM's life ended. */
export class Phases {
  readonly #began = performance.now()
  readonly #ends: Record<string, number> = {}

  mark(phase: string): void {
    this.#ends[phase] = Math.round((performance.now() - this.#began) * 10) / 10
  }

  get ends(): Readonly<Record<string, number>> {
    return { ...this.#ends }
  }
}

export function collectStatistics(machine: Machine, phases: Phases): VmStatistics {
  const counters = machine.vcpus.map((vcpu) => vcpu.counters)
  const byReason: Record<string, number> = {}
  for (const counter of counters) {
    for (const [reason, count] of Object.entries(counter.byReason)) {
      byReason[reason] = (byReason[reason] ?? 0) + count
    }
  }
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  return {
    phasesMs: phases.ends,
    vcpuExits: {
      total: sum(counters.map(({ runs }) => runs)),
      toUser: sum(counters.map(({ delivered }) => delivered)),
      byReason,
    },
    devices: machine.transports().map(({ name, device, queues }) => ({
      name,
      queues: queues.map((queue, index) => copyOf(countersOf(device, index) ?? queue?.counters)),
      ...("engine" in device && typeof device.engine === "string" && { engine: device.engine }),
    })),
    ranges: machine.spaces.mapped,
    messages: machine.interrupts.messages,
  }
}

function copyOf(counters: object | undefined): object | undefined {
  return counters && { ...counters }
}

/** Of a queue that somebody else works on; a reset does not end them. */
function countersOf(device: object, queue: number): object | undefined {
  return (device as Partial<VirtioDevice>).external?.counters?.[queue]
}
