import { KvmStats, type KvmVcpu, type KvmVm } from "@virtkit/native"
import { converting } from "./errors.js"

const kinds = ["cumulative", "instant", "peak", "linear-histogram", "log-histogram"] as const
const units = ["none", "bytes", "seconds", "cycles", "boolean"] as const

/** One statistic (struct kvm_stats_desc). */
export interface Statistic {
  name: string
  kind: (typeof kinds)[number] | "unknown"
  unit: (typeof units)[number] | "unknown"
  /** The value counts units times `base` to the power of `exponent`. */
  base: 2 | 10
  exponent: number
  /** Of a linear histogram. */
  bucketSize: number
  /** One value, or one a bucket. */
  values: readonly bigint[]
}

interface Descriptor extends Omit<Statistic, "values"> {
  offset: number
  count: number
}

/** Statistics that KVM keeps of a VM or vCPU (KVM_GET_STATS_FD); reading does not disturb a running vCPU. */
export class Statistics {
  #native: KvmStats
  /** Of the kernel, such as "kvm-1234/vcpu-0". */
  readonly id: string
  #descriptors: Descriptor[]
  #dataOffset: number
  #data: DataView

  /** @internal Use Vm.statistics or Vcpu.statistics. */
  static of(handle: KvmVm | KvmVcpu): Statistics {
    return converting(() => new Statistics(new KvmStats(handle)))
  }

  private constructor(native: KvmStats) {
    this.#native = native
    const header = this.#read(0, 24)
    const nameSize = header.getUint32(4, true)
    const count = header.getUint32(8, true)
    this.id = text(this.#read(header.getUint32(12, true), nameSize))
    this.#dataOffset = header.getUint32(20, true)
    const size = 16 + nameSize
    const table = this.#read(header.getUint32(16, true), count * size)
    this.#descriptors = Array.from({ length: count }, (_, i) => descriptor(table, i * size, nameSize))
    const end = Math.max(0, ...this.#descriptors.map((d) => d.offset + d.count * 8))
    this.#data = new DataView(new ArrayBuffer(end))
  }

  /** The present values. */
  read(): Statistic[] {
    converting(() => this.#native.read(this.#dataOffset, this.#data))
    return this.#descriptors.map(({ offset, count, ...rest }) => ({
      ...rest,
      values: Array.from({ length: count }, (_, i) => this.#data.getBigUint64(offset + i * 8, true)),
    }))
  }

  /** Idempotent. */
  close(): void {
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #read(offset: number, length: number): DataView {
    const view = new DataView(new ArrayBuffer(length))
    this.#native.read(offset, view)
    return view
  }
}

// flags: type in bits 0-3, unit in bits 4-7, base in bits 8-11 (KVM_STATS_*_SHIFT).
function descriptor(table: DataView, at: number, nameSize: number): Descriptor {
  const flags = table.getUint32(at, true)
  return {
    name: text(new DataView(table.buffer, at + 16, nameSize)),
    kind: kinds[flags & 15] ?? "unknown",
    unit: units[(flags >> 4) & 15] ?? "unknown",
    base: ((flags >> 8) & 15) === 0 ? 10 : 2,
    exponent: table.getInt16(at + 4, true),
    count: table.getUint16(at + 6, true),
    offset: table.getUint32(at + 8, true),
    bucketSize: table.getUint32(at + 12, true),
  }
}

function text(view: DataView): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  const end = bytes.indexOf(0)
  return new TextDecoder().decode(bytes.subarray(0, end < 0 ? bytes.length : end))
}
