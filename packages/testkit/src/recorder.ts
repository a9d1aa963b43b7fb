import {
  ConfigError,
  type DeviceContext,
  type Interrupt,
  type PciFunction,
  type Queue,
  type VirtioDevice,
} from "@virtkit/interface"
import { TraceWriter } from "./record-file.js"
import type { TraceEvent } from "./record-format.js"
import { RecordedFunction } from "./record-pci.js"
import { type QueueLog, RecordedQueue } from "./record-queue.js"
import { type RecordedBusDevice, recordWindow, type TraceLog } from "./record-window.js"

export interface RecorderOptions {
  /** The file, which is overwritten. */
  readonly path: string
  /** Bytes of the readable and of the written part of a chain that are kept, at most 8 MiB. Default 4 MiB. */
  readonly maxData?: number
  /** The trace could not be written further, after which nothing is recorded any more. Must not throw. */
  readonly onError?: (error: Error) => void
  /** Milliseconds, for the times of records. Default `performance.now`. */
  readonly now?: () => number
}

const MAX_DATA = 8 * 1024 * 1024

/**
 * Writes a trace of one device to a file: what its driver and itself do to its queues and configuration, and, where its
 * transport is wrapped too, every register access, doorbell and interrupt. The device, its transport and the VM around them
 * need no change: each decorator stands for what it wraps.
 *
 * The trace is written synchronously, on the VM's thread, in blocks of 64 KiB; it is complete when the device is closed.
 */
export class Recorder {
  readonly #options: RecorderOptions
  #writer: TraceWriter | undefined
  #failed = false
  #windows = 0

  constructor(options: RecorderOptions) {
    const { maxData } = options
    if (maxData !== undefined && !(Number.isInteger(maxData) && maxData >= 0 && maxData <= MAX_DATA)) {
      throw new ConfigError(`maxData is ${maxData}, it must be an integer from 0 to ${MAX_DATA}`)
    }
    this.#options = options
  }

  /** The device as its transport is to get it. Comes first, once. Throws `SystemError` when the file cannot be made. */
  device(device: VirtioDevice): VirtioDevice {
    if (this.#writer !== undefined || this.#failed) throw new ConfigError("a trace is of one device")
    const { path, now = () => performance.now() } = this.#options
    const header = {
      name: device.name,
      deviceType: device.deviceType,
      features: `0x${device.features.toString(16)}`,
      queueMaxSizes: [...device.queueMaxSizes],
      config: Buffer.from(device.config).toString("hex"),
    }
    this.#writer = new TraceWriter(path, header, now)
    return recordedDevice(device, new DeviceLog(this.#log, this.#options.maxData ?? MAX_DATA / 2), () =>
      this.close(),
    )
  }

  /** A virtio-mmio transport as the bus is to get it. */
  mmio(transport: RecordedBusDevice): RecordedBusDevice {
    return recordWindow(transport, "mmio", this.#windows++, this.#log)
  }

  /** The interrupt that such a transport is to be given. */
  interrupt(interrupt: Interrupt): Interrupt {
    return {
      signal: () => {
        this.#add({ kind: "interrupt", vector: 0 })
        interrupt.signal()
      },
    }
  }

  /** A virtio-pci transport as the PCI bus is to get it. Its configuration space and MSI-X table are the bus's own. */
  pci(transport: PciFunction): PciFunction {
    return new RecordedFunction(transport, () => this.#windows++, this.#log)
  }

  /** Completes the trace; done when the device is closed. What happens later is not recorded. Idempotent. */
  close(): void {
    this.#try(() => this.#writer?.close())
  }

  readonly #log: TraceLog = { add: (event) => this.#add(event) }

  #add(event: TraceEvent): void {
    if (!this.#failed) this.#try(() => this.#writer?.add(event))
  }

  /** A full disk must not end the device. */
  #try(write: () => void): void {
    try {
      write()
    } catch (error) {
      this.#failed = true
      this.#writer?.abandon()
      this.#options.onError?.(error as Error)
    }
  }
}

/**
 * The device, with a trace of all that goes through its queues: `devices: [record(await block({ path }), { path: "trace" })]`.
 * For the registers of its transport see {@link Recorder}. Throws `SystemError` when the file cannot be made.
 */
export function record(device: VirtioDevice, options: RecorderOptions): VirtioDevice {
  return new Recorder(options).device(device)
}

class DeviceLog implements QueueLog {
  readonly maxData: number
  readonly #log: TraceLog
  #ids = 0

  constructor(log: TraceLog, maxData: number) {
    this.#log = log
    this.maxData = maxData
  }

  add(event: TraceEvent): void {
    this.#log.add(event)
  }

  nextId(): number {
    return this.#ids++
  }
}

/** Has `writeConfig` and `resetQueue` only if the device has: that is how transports know. */
function recordedDevice(device: VirtioDevice, log: QueueLog, closed: () => void): VirtioDevice {
  let queues: RecordedQueues | undefined
  const recorded: VirtioDevice = {
    name: device.name,
    deviceType: device.deviceType,
    features: device.features,
    queueMaxSizes: device.queueMaxSizes,
    get config() {
      return device.config
    },
    activate: (context) => {
      queues = new RecordedQueues(context, log)
      const queueSizes = context.queues.map((queue) => queue?.size ?? 0)
      log.add({ kind: "activate", features: context.features, queueSizes })
      device.activate(recordedContext(context, queues, device, log))
    },
    notify: (queue) => {
      queues?.update()
      log.add({ kind: "notify", queue })
      device.notify(queue)
    },
    reset: async () => {
      queues?.end()
      log.add({ kind: "reset" })
      await device.reset()
      queues = undefined
      log.add({ kind: "reset-done" })
    },
    close: async () => {
      await device.close()
      closed()
    },
    state: () => device.state(),
    restore: (state) => device.restore(state),
  }
  if (device.writeConfig !== undefined) {
    recorded.writeConfig = (offset, data) => {
      log.add({ kind: "write-config", offset, data: data.slice() })
      device.writeConfig?.(offset, data)
    }
  }
  if (device.resetQueue !== undefined) {
    recorded.resetQueue = (queue) => {
      queues?.end(queue)
      log.add({ kind: "queue-reset", queue })
      const pending = device.resetQueue?.(queue)
      const done = () => log.add({ kind: "queue-reset-done", queue })
      if (pending !== undefined) return pending.then(done)
      done()
      return undefined
    }
  }
  return recorded
}

function recordedContext(
  context: DeviceContext,
  queues: RecordedQueues,
  device: VirtioDevice,
  log: QueueLog,
): DeviceContext {
  return {
    memory: context.memory,
    features: context.features,
    get queues() {
      return queues.update()
    },
    updateConfig: (update) => {
      context.updateConfig(() => {
        update()
        log.add({ kind: "config", config: device.config.slice() })
      })
    },
    needsReset: (reason) => {
      log.add({ kind: "needs-reset", reason })
      context.needsReset(reason)
    },
    defer: (task) => context.defer(task),
  }
}

/** The queues of one activation, as the device gets them. */
class RecordedQueues {
  readonly #context: DeviceContext
  readonly #log: QueueLog
  readonly #inner: (Queue | undefined)[]
  readonly #recorded: (RecordedQueue | undefined)[]

  constructor(context: DeviceContext, log: QueueLog) {
    this.#context = context
    this.#log = log
    this.#inner = [...context.queues]
    this.#recorded = this.#inner.map((queue) => this.#wrap(queue))
  }

  /** Follows the resets of single queues. */
  update(): readonly (Queue | undefined)[] {
    const { queues } = this.#context
    for (let index = 0; index < queues.length; index++) {
      const queue = queues[index]
      if (queue === this.#inner[index]) continue
      this.#inner[index] = queue
      this.#recorded[index] = this.#wrap(queue)
      if (queue !== undefined) this.#log.add({ kind: "queue-start", queue: index, size: queue.size })
    }
    return this.#recorded
  }

  /** All of them, or one, are being reset. */
  end(index?: number): void {
    if (index !== undefined) this.#recorded[index]?.end()
    else for (const queue of this.#recorded) queue?.end()
  }

  #wrap(queue: Queue | undefined): RecordedQueue | undefined {
    return queue && new RecordedQueue(queue, this.#context.memory, this.#log)
  }
}
