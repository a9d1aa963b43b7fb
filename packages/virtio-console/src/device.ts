import type { Duplex } from "node:stream"
import {
  type Chain,
  ConfigError,
  type DeviceContext,
  type Queue,
  type VirtioDevice,
} from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"
import * as virtio from "./constants.js"
import { type ConsoleState, parseConsoleState } from "./state.js"
import { ConsoleStream } from "./stream.js"

const QUEUE_SIZE = 128

export interface ConsoleDeviceOptions {
  name: string
  cols: number
  rows: number
  outputBuffer: number
}

/** Port 0 of a virtio console. Made by `consolePort`, which documents it. */
export class VirtioConsole implements VirtioDevice {
  readonly name: string
  readonly deviceType: number = virtio.VIRTIO_ID_CONSOLE
  readonly features: bigint = virtio.VIRTIO_CONSOLE_F_SIZE | virtio.VIRTIO_CONSOLE_F_EMERG_WRITE
  readonly queueMaxSizes: readonly number[] = [QUEUE_SIZE, QUEUE_SIZE]
  readonly config: Uint8Array = new Uint8Array(virtio.CONFIG_LENGTH)
  readonly #stream: ConsoleStream
  readonly #view = new DataView(this.config.buffer)
  #context: DeviceContext | undefined
  /** Bytes already taken of the next chain of the transmit queue; that chain was put back for want of room. */
  #transmitOffset = 0
  /** By queue index: what a drain does with a chain; false when it cannot take it now. */
  readonly #handlers: readonly ((chain: Chain) => boolean)[] = [
    (chain) => this.#receive(chain),
    (chain) => this.#transmit(chain),
  ]
  /** A drain of that queue waits for a later turn of the event loop. */
  readonly #deferred: [boolean, boolean] = [false, false]

  constructor(options: ConsoleDeviceOptions) {
    this.name = options.name
    this.#setSize(options.cols, options.rows)
    this.#view.setUint32(virtio.CONFIG_MAX_NR_PORTS, 1, true)
    this.#stream = new ConsoleStream({
      capacity: options.outputBuffer,
      onInput: () => this.#drain(virtio.RECEIVEQ),
      onRoom: () => this.#drain(virtio.TRANSMITQ),
    })
  }

  get stream(): Duplex {
    return this.#stream
  }

  resize(cols: number, rows: number): void {
    checkSize("cols", cols)
    checkSize("rows", rows)
    if (this.#context === undefined) this.#setSize(cols, rows)
    else this.#context.updateConfig(() => this.#setSize(cols, rows))
  }

  #setSize(cols: number, rows: number): void {
    this.#view.setUint16(virtio.CONFIG_COLS, cols, true)
    this.#view.setUint16(virtio.CONFIG_ROWS, rows, true)
  }

  /** 5.3.4: emerg_wr takes a character in its low byte, at any time, even before the driver has set anything up. */
  writeConfig(offset: number, data: Uint8Array): void {
    const character = data[virtio.CONFIG_EMERG_WR - offset]
    if (character !== undefined) this.#stream.putOutput(character)
  }

  activate(context: DeviceContext): void {
    this.#context = context
    this.#drain(virtio.RECEIVEQ)
    this.#drain(virtio.TRANSMITQ)
  }

  notify(queueIndex: number): void {
    this.#drain(queueIndex)
  }

  // No chain is ever held: what the stream has no room for goes back to the queue. So there is nothing to wait for.
  reset(): Promise<void> {
    this.#context = undefined
    this.#transmitOffset = 0
    this.#deferred.fill(false)
    return Promise.resolve()
  }

  resetQueue(queueIndex: number): void {
    if (queueIndex === virtio.TRANSMITQ) this.#transmitOffset = 0
  }

  async close(): Promise<void> {
    await this.reset()
    this.#stream.finish()
  }

  state(): ConsoleState {
    return {
      version: 1,
      cols: this.#view.getUint16(virtio.CONFIG_COLS, true),
      rows: this.#view.getUint16(virtio.CONFIG_ROWS, true),
      transmitOffset: this.#transmitOffset,
    }
  }

  restore(state: unknown): void {
    const saved = parseConsoleState(state)
    this.#setSize(saved.cols, saved.rows)
    this.#transmitOffset = saved.transmitOffset
  }

  #drain(index: number): void {
    const context = this.#context
    const queue = this.#queue(index)
    const handle = this.#handlers[index]
    if (context === undefined || queue === undefined || handle === undefined || this.#deferred[index]) return
    if (drainQueue(queue, handle) !== "limit") return
    // A driver that refills while we drain waits for its next turn, as others do (bad-input #16).
    this.#deferred[index] = true
    context.defer(() => {
      this.#deferred[index] = false
      this.#drain(index)
    })
  }

  /** Host to guest. Without input the buffers stay in the queue. */
  #receive(chain: Chain): boolean {
    const input = this.#stream.input
    if (input === undefined) return false
    const written = chain.copyIn(0, input)
    this.#queue(virtio.RECEIVEQ)?.push(chain, written)
    this.#stream.consumeInput(written)
    return true
  }

  /** Guest to host. A chain is complete when all of it was taken, in as many pieces as that needs (bad-input #12). */
  #transmit(chain: Chain): boolean {
    this.#transmitOffset += this.#stream.takeOutput(chain, this.#transmitOffset)
    if (this.#transmitOffset < chain.readableBytes) return false
    this.#transmitOffset = 0
    this.#queue(virtio.TRANSMITQ)?.push(chain, 0)
    return true
  }

  #queue(index: number): Queue | undefined {
    return this.#context?.queues[index]
  }
}

export function checkSize(what: string, value: number): void {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff) {
    throw new ConfigError(`${what} is ${value}, it must be an integer from 0 to 65535`)
  }
}
