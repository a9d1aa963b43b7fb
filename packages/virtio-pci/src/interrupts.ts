import type { AccessSize, BusDevice, PciSlot } from "@virtkit/interface"
import { VIRTIO_INTERRUPT_CONFIG, VIRTIO_INTERRUPT_QUEUE } from "@virtkit/virtio"
import { VIRTIO_MSI_NO_VECTOR } from "./constants.js"

/** An eventfd whose signals are interrupts of a queue, while MSI-X is enabled and the queue has a vector. */
interface Connection {
  readonly fd: number
  readonly changed: (direct: boolean) => void
  /** Set while it is connected to that vector. */
  end: (() => void) | undefined
  direct: boolean
}

/**
 * How the driver is told: by MSI-X vectors if it enabled MSI-X, else by ISR status and INTx (4.1.5.1.2, 4.1.4.5). As a
 * bus device it is the ISR status, which a read clears.
 */
export class PciInterrupts implements BusDevice {
  readonly name: string
  /** Number of vectors that the table has. */
  readonly #vectors: number
  /** By queue, what the driver chose. */
  readonly #queueVectors: Uint16Array
  #configVector = VIRTIO_MSI_NO_VECTOR
  #isr = 0
  /** By queue. */
  readonly #connections = new Map<number, Connection>()
  #slot: PciSlot | undefined

  constructor(name: string, queues: number, vectors: number) {
    this.name = `${name} ISR`
    this.#vectors = vectors
    this.#queueVectors = new Uint16Array(queues).fill(VIRTIO_MSI_NO_VECTOR)
  }

  attach(slot: PciSlot): void {
    this.#slot = slot
  }

  get isr(): number {
    return this.#isr
  }

  get configVector(): number {
    return this.#configVector
  }

  /** What the table does not have becomes NO_VECTOR, which the driver finds when it reads it back (bad-input #6). */
  set configVector(vector: number) {
    this.#configVector = this.#checked(vector)
  }

  /** NO_VECTOR for a queue that is not there (bad-input #3). */
  queueVector(queue: number): number {
    return this.#queueVectors[queue] ?? VIRTIO_MSI_NO_VECTOR
  }

  setQueueVector(queue: number, vector: number): void {
    if (queue >= this.#queueVectors.length) return
    this.#queueVectors[queue] = this.#checked(vector)
    const connection = this.#connections.get(queue)
    if (connection !== undefined) this.#connectVector(queue, connection)
  }

  /** Signals of the eventfd are used buffer notifications of the queue: `ExternalQueue.connect`. */
  connect(queue: number, fd: number, changed: (direct: boolean) => void): void {
    const connection = { fd, changed, end: undefined, direct: false }
    this.#connections.get(queue)?.end?.()
    this.#connections.set(queue, connection)
    this.#connectVector(queue, connection)
  }

  /** Ends all connections. */
  disconnect(): void {
    for (const connection of this.#connections.values()) connection.end?.()
    this.#connections.clear()
  }

  /** The vector of the queue may be another than before. Without MSI-X the vector is never direct. */
  #connectVector(queue: number, connection: Connection): void {
    connection.end?.()
    connection.end = undefined
    const was = connection.direct
    connection.direct = false
    const vector = this.#queueVectors[queue]!
    const interrupt = vector === VIRTIO_MSI_NO_VECTOR ? undefined : this.#slot?.msix(vector)
    connection.end = interrupt?.connect?.(connection.fd, (direct) => {
      connection.direct = direct
      connection.changed(direct)
    })
    if (was && !connection.direct) connection.changed(false)
  }

  get queueVectors(): number[] {
    return [...this.#queueVectors]
  }

  /** Used buffer notification. */
  queue(index: number): void {
    if (this.#slot?.msixEnabled) this.#signal(this.#queueVectors[index]!)
    else this.#raise(VIRTIO_INTERRUPT_QUEUE)
  }

  /** Configuration change notification. 4.1.4.5.1: its bit is set with MSI-X too. */
  config(): void {
    this.#raise(VIRTIO_INTERRUPT_CONFIG)
    if (this.#slot?.msixEnabled) this.#signal(this.#configVector)
  }

  /** 4.1.4.5: a read clears the status and takes INTx back. */
  read(offset: number, _size: AccessSize): number {
    if (offset !== 0) return 0
    const isr = this.#isr
    if (isr !== 0) this.#setIsr(0)
    return isr
  }

  write(_offset: number, _size: AccessSize, _value: number): void {}

  /** The state after a reset of the device. */
  reset(): void {
    this.#configVector = VIRTIO_MSI_NO_VECTOR
    this.#queueVectors.fill(VIRTIO_MSI_NO_VECTOR)
    if (this.#isr !== 0) this.#setIsr(0)
  }

  /** Whether a vector of a saved state is possible. */
  isVector(value: unknown): value is number {
    return (
      value === VIRTIO_MSI_NO_VECTOR || (Number.isInteger(value) && this.#checked(value as number) === value)
    )
  }

  /** Causes of a saved state, besides those that came up meanwhile. */
  restoreIsr(isr: number): void {
    if (isr !== 0) this.#raise(isr)
  }

  #checked(vector: number): number {
    return vector >= 0 && vector < this.#vectors ? vector : VIRTIO_MSI_NO_VECTOR
  }

  #signal(vector: number): void {
    if (vector !== VIRTIO_MSI_NO_VECTOR) this.#slot?.msix(vector)?.signal()
  }

  #raise(causes: number): void {
    const before = this.#isr
    if ((before | causes) !== before) this.#setIsr(before | causes)
  }

  /** 4.1.4.5.1: INTx is asserted while any bit is set. The bus keeps it silent while MSI-X is enabled. */
  #setIsr(isr: number): void {
    const before = this.#isr
    this.#isr = isr
    if ((before !== 0) !== (isr !== 0)) this.#slot?.setIntx(isr !== 0)
  }
}
