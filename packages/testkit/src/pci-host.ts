import type {
  AcceleratedBusDevice,
  AccessSize,
  BusDevice,
  Doorbell,
  GuestMemory,
  Interrupt,
  RegisterPage,
} from "@virtkit/interface"
import { TestMemory } from "./memory.js"

export type PciSpace = "memory" | "io"

/** A range that answers on a {@link FakePciHost}. */
export interface FakePciMapping {
  readonly space: PciSpace
  readonly address: number
  readonly size: number
  readonly device: BusDevice | AcceleratedBusDevice
  /** Set for devices that can have one, where it fits. */
  readonly page: FakeRegisterPage | undefined
  remove(): void
}

/** A register page on the heap. */
export class FakeRegisterPage implements RegisterPage {
  readonly view: DataView = new DataView(new ArrayBuffer(PAGE_SIZE))
  shown = false

  hide(): void {
    this.shown = false
  }

  show(): void {
    this.shown = true
  }
}

/** A message-signalled interrupt that remembers what happened to it. */
export class FakeMsi implements Interrupt {
  /** Signals, and calls of `route`, so far. */
  count = 0
  routes = 0
  /** Of the last `route`. */
  address: number | undefined
  data: number | undefined
  closed = false
  /** Eventfds that the kernel would send it for. */
  readonly connected: number[] = []

  route(address: number, data: number): void {
    if (this.closed) throw new Error("routed after close")
    this.routes++
    this.address = address
    this.data = data
  }

  signal(): void {
    if (this.closed) throw new Error("signalled after close")
    if (this.routes === 0) throw new Error("signalled before it was routed")
    this.count++
  }

  connectFd(fd: number): () => void {
    if (this.closed) throw new Error("connected after close")
    if (this.routes === 0) throw new Error("connected before it was routed")
    this.connected.push(fd)
    return () => {
      if (this.closed) throw new Error("disconnected after close")
      this.connected.splice(this.connected.indexOf(fd), 1)
    }
  }

  close(): void {
    this.closed = true
  }
}

export interface FakePciHostOptions {
  /** Default: a `TestMemory` of 1 MiB. */
  readonly memory?: GuestMemory
  /** Serve register pages as the VMM does: reads then do not reach the device. Default true. */
  readonly pages?: boolean
  /** `createMsi` throws beyond that many. Default: no limit. */
  readonly maxMsis?: number
}

const PAGE_SIZE = 4096

/**
 * The machine around a PCI bus, as the guest's accesses see it: two address spaces, register pages, doorbells, message
 * signalled interrupts and the four lines. It keeps to the contracts strictly and throws where a bus breaks them.
 */
export class FakePciHost {
  readonly memory: GuestMemory
  readonly mappings: FakePciMapping[] = []
  /** All that were ever created. */
  readonly msis: FakeMsi[] = []
  readonly lines: boolean[] = [false, false, false, false]
  /** Changes of the lines in order. */
  readonly lineLog: { line: number; asserted: boolean }[] = []
  /** Accesses that reached a device, or nobody: what would be an exit. */
  exits = 0
  /** Routes that were set together with others. */
  together = 0
  readonly #pages: boolean
  readonly #maxMsis: number

  constructor(options: FakePciHostOptions = {}) {
    this.memory = options.memory ?? new TestMemory()
    this.#pages = options.pages ?? true
    this.#maxMsis = options.maxMsis ?? Number.POSITIVE_INFINITY
  }

  map(
    space: PciSpace,
    address: number,
    size: number,
    device: BusDevice | AcceleratedBusDevice,
  ): FakePciMapping | undefined {
    if (!Number.isSafeInteger(address) || address < 0 || size < 1)
      throw new Error(`mapped ${address}+${size}`)
    if (this.mappings.some((m) => m.space === space && overlap(m, address, size))) return undefined
    const page = this.#pageFor(space, address, size, device)
    const mapping: FakePciMapping = {
      space,
      address,
      size,
      device,
      page,
      remove: () => this.#remove(mapping),
    }
    this.mappings.push(mapping)
    if (page !== undefined) {
      ;(device as AcceleratedBusDevice).setRegisterPage?.(page)
      page.show()
    }
    return mapping
  }

  createMsi(): FakeMsi {
    if (this.openMsis.length >= this.#maxMsis) throw new Error("no more message-signalled interrupts")
    const msi = new FakeMsi()
    this.msis.push(msi)
    return msi
  }

  get openMsis(): FakeMsi[] {
    return this.msis.filter((msi) => !msi.closed)
  }

  /** What happens within is counted in {@link together}. */
  routeTogether(change: () => void): void {
    const before = this.#routes
    change()
    this.together += this.#routes - before
  }

  get #routes(): number {
    return this.msis.reduce((sum, { routes }) => sum + routes, 0)
  }

  setLine(line: 0 | 1 | 2 | 3, asserted: boolean): void {
    if (this.lines[line] === asserted) throw new Error(`line ${line} is ${asserted} already`)
    this.lines[line] = asserted
    this.lineLog.push({ line, asserted })
  }

  /** What a load of the guest gives. */
  read(space: PciSpace, address: number, size: AccessSize): number {
    const mapping = this.#find(space, address)
    if (mapping === undefined || address + size > mapping.address + mapping.size) {
      if (size === 1) {
        this.exits++
        return 0xff
      }
      return this.#readBytes(space, address, size)
    }
    const offset = address - mapping.address
    if (mapping.page?.shown) return readView(mapping.page.view, offset, size)
    this.exits++
    return checked(mapping.device.read(offset, size), size, mapping.device)
  }

  /** A store of the guest. The promise settles when the vCPU would go on. */
  write(space: PciSpace, address: number, size: AccessSize, value: number): void | Promise<void> {
    const mapping = this.#find(space, address)
    if (mapping === undefined || address + size > mapping.address + mapping.size) {
      if (size > 1) return this.#writeBytes(space, address, size, value)
      this.exits++
      return undefined
    }
    const offset = address - mapping.address
    const doorbell = doorbellAt(mapping.device, offset, size, value)
    if (doorbell !== undefined) {
      doorbell.ring()
      return undefined
    }
    this.exits++
    return mapping.device.write(offset, size, value >>> 0)
  }

  #find(space: PciSpace, address: number): FakePciMapping | undefined {
    return this.mappings.find((m) => m.space === space && overlap(m, address, 1))
  }

  #pageFor(
    space: PciSpace,
    address: number,
    size: number,
    device: BusDevice | AcceleratedBusDevice,
  ): FakeRegisterPage | undefined {
    const fits = space === "memory" && size === PAGE_SIZE && address % PAGE_SIZE === 0
    return this.#pages && fits && "setRegisterPage" in device ? new FakeRegisterPage() : undefined
  }

  #remove(mapping: FakePciMapping): void {
    const index = this.mappings.indexOf(mapping)
    if (index < 0) throw new Error(`${mapping.device.name}: removed twice`)
    this.mappings.splice(index, 1)
    if (mapping.page === undefined) return
    mapping.page.hide()
    ;(mapping.device as AcceleratedBusDevice).setRegisterPage?.(undefined)
  }

  #readBytes(space: PciSpace, address: number, size: AccessSize): number {
    let value = 0
    for (let byte = 0; byte < size; byte++) value |= this.read(space, address + byte, 1) << (8 * byte)
    return value >>> 0
  }

  async #writeBytes(space: PciSpace, address: number, size: AccessSize, value: number): Promise<void> {
    const pending: (void | Promise<void>)[] = []
    for (let byte = 0; byte < size; byte++) {
      pending.push(this.write(space, address + byte, 1, (value >>> (8 * byte)) & 0xff))
    }
    await Promise.all(pending)
  }
}

function overlap(mapping: FakePciMapping, address: number, size: number): boolean {
  return mapping.address < address + size && address < mapping.address + mapping.size
}

function readView(view: DataView, offset: number, size: AccessSize): number {
  let value = 0
  for (let byte = 0; byte < size; byte++) value |= view.getUint8(offset + byte) << (8 * byte)
  return value >>> 0
}

function checked(value: number, size: AccessSize, device: BusDevice): number {
  const limit = 2 ** (8 * size)
  if (!Number.isInteger(value) || value < 0 || value >= limit) {
    throw new Error(`${device.name} read ${value} for ${size} bytes`)
  }
  return value
}

function doorbellAt(
  device: BusDevice | AcceleratedBusDevice,
  offset: number,
  size: AccessSize,
  value: number,
): Doorbell | undefined {
  if (!("doorbells" in device)) return undefined
  return device.doorbells.find(
    (bell) =>
      bell.offset === offset &&
      (bell.length === 0 || bell.length === size) &&
      (bell.datamatch === undefined || bell.datamatch === value),
  )
}
