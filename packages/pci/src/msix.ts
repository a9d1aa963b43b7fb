import { type Interrupt, type PciBar, type PciMsixLayout, RestoreError } from "@virtkit/interface"
import {
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
} from "./constants.js"
import type { PciHost, PciMsi } from "./host.js"
import { MsixConnections } from "./msix-connections.js"
import {
  ENTRY_ADDRESS,
  ENTRY_ADDRESS_UPPER,
  ENTRY_CONTROL,
  ENTRY_DATA,
  MsixTablePage,
  VECTORS_PER_PAGE,
} from "./msix-table.js"
import type { Segment } from "./placement.js"

/** Saved state; the two bits of message control are in configuration space. */
export interface MsixState {
  readonly table: Uint8Array
  readonly pending: Uint8Array
}

/** A high half of an address beyond which it is no safe integer, and no interrupt of any machine. */
const MAX_ADDRESS_UPPER = 0x1f_ffff

/**
 * The MSI-X structures of a function and the delivery of its messages (PCI 3.0, 6.8.2 and 6.8.3).
 *
 * A vector gets an interrupt of the host when it is first unmasked, and a new route only when address or data are others
 * than before: a guest that masks and unmasks costs nothing but its own exits (bad-input #34).
 */
export class Msix {
  readonly #layout: PciMsixLayout
  readonly #name: string
  readonly #host: PciHost
  readonly #busMaster: () => boolean
  readonly #pages: MsixTablePage[] = []
  readonly #vectors: (Interrupt | undefined)[]
  readonly #messages: (PciMsi | undefined)[]
  /** What each message is routed to; NaN for one that is not. */
  readonly #routedAddress: Float64Array
  readonly #routedData: Uint32Array
  /** A bit a vector, in whole 64-bit words. */
  readonly #pending: Uint8Array
  #pendingCount = 0
  readonly #connections: MsixConnections
  #enabled = false
  #masked = false

  constructor(name: string, host: PciHost, layout: PciMsixLayout, busMaster: () => boolean) {
    this.#name = name
    this.#host = host
    this.#layout = layout
    this.#busMaster = busMaster
    this.#connections = new MsixConnections((vector) => this.#liveMessage(vector))
    const { vectors } = layout
    this.#vectors = new Array(vectors).fill(undefined)
    this.#messages = new Array(vectors).fill(undefined)
    this.#routedAddress = new Float64Array(vectors).fill(Number.NaN)
    this.#routedData = new Uint32Array(vectors)
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8)
    for (let first = 0; first < vectors; first += VECTORS_PER_PAGE) {
      const count = Math.min(VECTORS_PER_PAGE, vectors - first)
      this.#pages.push(
        new MsixTablePage(`${name} MSI-X table`, count, (index, field) =>
          this.#entryWritten(first + index, field),
        ),
      )
    }
  }

  get enabled(): boolean {
    return this.#enabled
  }

  /** The interrupt of a vector; undefined for one that the table does not have (bad-input #6). */
  vector(index: number): Interrupt | undefined {
    if (!Number.isInteger(index) || index < 0 || index >= this.#layout.vectors) return undefined
    this.#vectors[index] ??= {
      signal: () => this.#signal(index),
      connect: (fd, changed) => this.#connections.add(index, fd, changed),
    }
    return this.#vectors[index]
  }

  /** Table and pending bits as parts of `bar`. A page of the table that it has for itself is read without exits. */
  segments(bar: PciBar): Segment[] {
    const { tableOffset, pbaOffset } = this.#layout
    const pba: Segment = {
      offset: pbaOffset,
      size: this.#pending.length,
      device: {
        name: `${this.#name} MSI-X pending bits`,
        read: (offset, size) => readBytes(this.#pending, offset, size),
        write: () => undefined,
      },
    }
    const others = [...bar.windows, pba]
    const table = this.#pages.map((page, index) =>
      page.segment(tableOffset + index * page.pageSize, bar.size, others),
    )
    return [...table, pba]
  }

  /** Message control changed. */
  control(flags: number): void {
    const wasLive = this.#enabled && !this.#masked
    const wasEnabled = this.#enabled
    this.#enabled = (flags & PCI_MSIX_FLAGS_ENABLE) !== 0
    this.#masked = (flags & PCI_MSIX_FLAGS_MASKALL) !== 0
    if (wasEnabled && !this.#enabled) this.#clearPending()
    if (!wasLive && this.#enabled && !this.#masked) this.#goLive()
    this.#connections.update()
  }

  /** The vectors that are not masked each by itself can be sent from now on. */
  #goLive(): void {
    this.#together(() => {
      for (let vector = 0; vector < this.#layout.vectors; vector++) {
        if (!this.#isMasked(vector)) this.#route(vector)
      }
    })
    for (let vector = 0; this.#pendingCount > 0 && vector < this.#layout.vectors; vector++)
      this.#unmask(vector)
  }

  /** What the function may do has changed. */
  busMasterChanged(): void {
    this.#connections.update()
  }

  /** As after power-on: every vector masked. Routes stay, for the case that the guest wants the same again. */
  reset(): void {
    this.#enabled = false
    this.#masked = false
    this.#connections.update()
    this.#clearPending()
    for (const page of this.#pages) page.reset()
  }

  /** Gives the host's interrupts back. */
  close(): void {
    this.reset()
    this.#together(() => {
      for (const message of this.#messages) message?.close()
    })
    this.#messages.fill(undefined)
    this.#routedAddress.fill(Number.NaN)
  }

  state(): MsixState {
    const table = new Uint8Array(this.#layout.vectors * PCI_MSIX_ENTRY_SIZE)
    for (const [index, page] of this.#pages.entries()) table.set(page.state(), index * page.pageSize)
    return { table, pending: this.#pending.slice() }
  }

  /** Throws {@link RestoreError} unless the lengths agree with this table (bad-input #31). */
  check(saved: unknown): void {
    const { table, pending } = (saved ?? {}) as Partial<MsixState>
    if (!(table instanceof Uint8Array) || table.length !== this.#layout.vectors * PCI_MSIX_ENTRY_SIZE) {
      throw new RestoreError(`${this.#name}: the MSI-X table does not have ${this.#layout.vectors} vectors`)
    }
    if (!(pending instanceof Uint8Array) || pending.length !== this.#pending.length) {
      throw new RestoreError(`${this.#name}: the MSI-X pending bits are not ${this.#pending.length} bytes`)
    }
  }

  /** `saved` has passed {@link check}; `flags` is message control. */
  restore(saved: MsixState, flags: number): void {
    this.reset()
    for (const [index, page] of this.#pages.entries()) page.restore(saved.table, index * page.pageSize)
    for (let vector = 0; vector < this.#layout.vectors; vector++) {
      if (saved.pending[vector >>> 3]! & (1 << (vector & 7))) this.#setPending(vector)
    }
    this.control(flags)
  }

  #together(change: () => void): void {
    if (this.#host.routeTogether === undefined) change()
    else this.#host.routeTogether(change)
  }

  #page(vector: number): MsixTablePage {
    return this.#pages[Math.floor(vector / VECTORS_PER_PAGE)]!
  }

  #isMasked(vector: number): boolean {
    if (this.#masked) return true
    const control = this.#page(vector).get(vector % VECTORS_PER_PAGE, ENTRY_CONTROL)
    return (control & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0
  }

  #signal(vector: number): void {
    if (!this.#enabled || !this.#busMaster()) return
    if (this.#isMasked(vector)) this.#setPending(vector)
    else this.#deliver(vector)
  }

  #deliver(vector: number): void {
    if (!Number.isNaN(this.#routedAddress[vector]!)) this.#messages[vector]?.signal()
  }

  #entryWritten(vector: number, field: number): void {
    if (!this.#enabled) return
    if (!this.#isMasked(vector)) this.#entryChanged(vector, field)
    this.#connections.update(vector)
  }

  #entryChanged(vector: number, field: number): void {
    // The specification leaves open what a change of address or data does without masking first: it takes effect.
    if (field === ENTRY_CONTROL) this.#unmask(vector)
    else this.#route(vector)
  }

  #unmask(vector: number): void {
    if (this.#isMasked(vector)) return
    this.#route(vector)
    const bit = 1 << (vector & 7)
    if ((this.#pending[vector >>> 3]! & bit) === 0) return
    this.#pending[vector >>> 3]! &= ~bit
    this.#pendingCount--
    if (this.#busMaster()) this.#deliver(vector)
  }

  #route(vector: number): void {
    const page = this.#page(vector)
    const index = vector % VECTORS_PER_PAGE
    const upper = page.get(index, ENTRY_ADDRESS_UPPER)
    const address = upper * 2 ** 32 + page.get(index, ENTRY_ADDRESS)
    const data = page.get(index, ENTRY_DATA)
    if (address === this.#routedAddress[vector] && data === this.#routedData[vector]) return
    // An entry that was never filled in, or whose address is beyond all there is (bad-input #35), goes nowhere.
    this.#routedAddress[vector] = Number.NaN
    if (address === 0 || upper > MAX_ADDRESS_UPPER) return
    const message = this.#message(vector)
    if (message === undefined) return
    message.route(address, data)
    this.#routedAddress[vector] = address
    this.#routedData[vector] = data
  }

  /** Undefined when the host has no more; the next time that the guest unmasks the vector it is tried again. */
  #message(vector: number): PciMsi | undefined {
    try {
      this.#messages[vector] ??= this.#host.createMsi()
      return this.#messages[vector]
    } catch {
      return undefined
    }
  }

  /** The message that a signal of the vector would send at once. */
  #liveMessage(vector: number): PciMsi | undefined {
    if (!this.#enabled || !this.#busMaster() || this.#isMasked(vector)) return undefined
    return Number.isNaN(this.#routedAddress[vector]!) ? undefined : this.#messages[vector]
  }

  #setPending(vector: number): void {
    const bit = 1 << (vector & 7)
    if ((this.#pending[vector >>> 3]! & bit) !== 0) return
    this.#pending[vector >>> 3]! |= bit
    this.#pendingCount++
  }

  #clearPending(): void {
    if (this.#pendingCount === 0) return
    this.#pending.fill(0)
    this.#pendingCount = 0
  }
}

function readBytes(bytes: Uint8Array, offset: number, size: number): number {
  let value = 0
  for (let byte = 0; byte < size; byte++) value |= (bytes[offset + byte] ?? 0) << (8 * byte)
  return value >>> 0
}
