import { ConfigError, RestoreError } from "@virtkit/interface"
import {
  CmosRtc,
  DebugConsole,
  FW_CFG_CPUS,
  FwCfg,
  type FwCfgFiles,
  type FwCfgOptions,
} from "@virtkit/legacy"
import { TestMemory } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"

// Numbers of QEMU's documentation of the device, offsets from port 0x510.
const SELECTOR = 0
const DATA = 1
const DMA = 4
const ERROR = 1
const READ = 2
const SKIP = 4
const SELECT = 8
const WRITE = 16

const REQUEST = 0x100
const MEMORY = 0x10000

const files: FwCfgFiles = {
  "etc/e820": Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
  bootorder: Uint8Array.from("HALT", (letter) => letter.charCodeAt(0)),
}

function setup(options: FwCfgOptions = {}, size = MEMORY) {
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size }] })
  const items = new Map([[FW_CFG_CPUS, Uint8Array.of(4, 0)]])
  const device = new FwCfg({ files, items, memory, ...options })
  const select = (item: number) => device.write(SELECTOR, 2, item)
  const bytes = (count: number) => Array.from({ length: count }, () => device.read(DATA, 1))
  const dma = (control: number, length: number, target: number, at = REQUEST) => {
    const request = new DataView(new ArrayBuffer(16))
    request.setUint32(0, control)
    request.setUint32(4, length)
    request.setUint32(8, Math.floor(target / 2 ** 32))
    request.setUint32(12, target % 2 ** 32)
    memory.write(at, new Uint8Array(request.buffer))
    writeAddress(device, at)
    const result = new Uint8Array(4)
    memory.read(at, result)
    return new DataView(result.buffer).getUint32(0)
  }
  return { memory, device, select, bytes, dma }
}

/** As a little-endian guest does it that swaps the two halves' bytes. */
function writeAddress(device: FwCfg, address: number): void {
  const swapped = new DataView(new ArrayBuffer(8))
  swapped.setUint32(0, Math.floor(address / 2 ** 32))
  swapped.setUint32(4, address % 2 ** 32)
  device.write(DMA, 4, swapped.getUint32(0, true))
  device.write(DMA + 4, 4, swapped.getUint32(4, true))
}

const text = (bytes: number[]) => String.fromCharCode(...bytes)

describe("FwCfg, by ports", () => {
  it("tells what it is", () => {
    const { select, bytes } = setup()
    select(0)
    expect(text(bytes(4))).toBe("QEMU")
    select(1)
    expect(bytes(4)).toEqual([3, 0, 0, 0])
  })

  it("lists its files by name and serves them from 0x20 on", () => {
    const { select, bytes } = setup()
    select(0x19)
    expect(bytes(4)).toEqual([0, 0, 0, 2])
    expect(bytes(8)).toEqual([0, 0, 0, 4, 0, 0x20, 0, 0])
    expect(text(bytes(56))).toBe("bootorder".padEnd(56, "\0"))
    expect(bytes(8)).toEqual([0, 0, 0, 8, 0, 0x21, 0, 0])
    expect(text(bytes(56))).toBe("etc/e820".padEnd(56, "\0"))
    select(0x21)
    expect(bytes(8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    select(0x20)
    expect(text(bytes(4))).toBe("HALT")
    select(FW_CFG_CPUS)
    expect(bytes(3)).toEqual([4, 0, 0])
  })

  it("gives zeros past the end, for items that it does not have and at ports that are not for reading", () => {
    const { device, select, bytes } = setup()
    select(0x21)
    bytes(8)
    expect(bytes(3)).toEqual([0, 0, 0])
    select(0x1234)
    expect(bytes(2)).toEqual([0, 0])
    expect(device.read(SELECTOR, 1)).toBe(0)
  })

  it("ignores writes of the data, and the write channel", () => {
    const { device, select, bytes } = setup()
    select(0x21 | 0x4000)
    device.write(DATA, 1, 0xff)
    device.write(SELECTOR, 1, 0)
    expect(bytes(2)).toEqual([1, 2])
  })

  it("has no DMA without memory", () => {
    const device = new FwCfg()
    device.write(SELECTOR, 2, 1)
    expect(device.read(DATA, 1)).toBe(1)
    expect(device.read(DMA, 4)).toBe(0)
    writeAddress(device, REQUEST)
  })
})

describe("FwCfg, by DMA", () => {
  it("has its signature where the address goes", () => {
    const { device } = setup()
    const signature = new DataView(new ArrayBuffer(8))
    signature.setUint32(0, device.read(DMA, 4), true)
    signature.setUint32(4, device.read(DMA + 4, 4), true)
    expect(text([...new Uint8Array(signature.buffer)])).toBe("QEMU CFG")
  })

  it("selects, skips and reads, and fills up with zeros", () => {
    const { memory, bytes, dma } = setup()
    memory.fill(0x200, 8, 0xff)
    expect(dma(((0x21 << 16) | SELECT | SKIP) >>> 0, 2, 0)).toBe(0)
    expect(dma(READ, 3, 0x200)).toBe(0)
    expect(bytes(1)).toEqual([6])
    expect(dma(READ, 5, 0x203)).toBe(0)
    const got = new Uint8Array(8)
    memory.read(0x200, got)
    expect([...got]).toEqual([3, 4, 5, 7, 8, 0, 0, 0])
  })

  it("reads nothing without fault", () => {
    expect(setup().dma(READ, 0, 0xffff_ffff)).toBe(0)
  })

  it("refuses writes", () => {
    const { dma, bytes, select } = setup()
    expect(dma(((0x21 << 16) | SELECT | WRITE) >>> 0, 4, 0x200)).toBe(ERROR)
    select(0x21)
    expect(bytes(2)).toEqual([1, 2])
  })

  it("bad-input #11: requests and targets outside of RAM, across its end or beyond 2^53 have no effect", () => {
    const { device, dma, memory } = setup()
    const before = memory.readUint32(MEMORY - 8)
    for (const address of [MEMORY, MEMORY - 8, 0xffff_fff8, 2 ** 52, 2 ** 64 - 2 ** 12]) {
      writeAddress(device, address)
      expect(dma(((0x21 << 16) | SELECT | READ) >>> 0, 16, address)).toBe(ERROR)
    }
    expect(memory.readUint32(MEMORY - 8)).toBe(before)
  })

  it("bad-input #12: a huge length is refused before anything is done", () => {
    const { device, dma, memory } = setup({}, 32 * 2 ** 20)
    memory.writeUint8(0x200, 0x55)
    expect(dma(READ, 17 * 2 ** 20, 0x200)).toBe(ERROR)
    expect(memory.readUint8(0x200)).toBe(0x55)
    for (let i = 0; i < 3; i++) expect(dma(SKIP, 0xffff_ffff, 0)).toBe(0)
    const { device: other } = setup()
    other.restore(device.state()) // which refuses places that no item has
  })

  it("bad-input #18: a request that lies over its own target is read once", () => {
    const { dma, memory } = setup()
    expect(dma(((0x21 << 16) | SELECT | READ) >>> 0, 8, REQUEST + 8)).toBe(0)
    expect(memory.readUint32(REQUEST + 8)).toBe(0x04030201)
  })
})

describe("FwCfg", () => {
  it("hands its state to a new one", () => {
    const { device, select, bytes } = setup()
    select(0x21)
    bytes(3)
    const other = setup()
    other.device.restore(structuredClone(device.state()))
    expect(other.bytes(2)).toEqual([4, 5])
  })

  it("bad-input #31: a state that does not fit is refused", () => {
    const { device, bytes, select } = setup()
    select(0x21)
    const state = { version: 1, selector: 0x20, offset: 0, dmaHigh: 0 }
    for (const change of [{ version: 2 }, { selector: 0x10000 }, { offset: -1 }, { dmaHigh: 2 ** 32 }]) {
      expect(() => device.restore({ ...state, ...change })).toThrow(RestoreError)
    }
    expect(bytes(1)).toEqual([1])
    device.restore({ ...state, offset: 1000 })
    expect(bytes(1)).toEqual([0])
  })

  it.each(["", "x".repeat(56), "ä", "a b"])("refuses the file name %j", (name) => {
    expect(() => new FwCfg({ files: { [name]: new Uint8Array(1) } })).toThrow(ConfigError)
  })

  it("refuses a file that one request could not read", () => {
    expect(() => new FwCfg({ files: { a: new Uint8Array(2 ** 24 + 1) } })).toThrow(ConfigError)
  })
})

describe("what else firmware asks", () => {
  it("a debug console is known by what it reads as", () => {
    const seen: number[] = []
    const port = new DebugConsole({ onByte: (byte) => seen.push(byte) })
    expect(port.read(0, 1)).toBe(0xe9)
    port.write(0, 1, 0x41)
    expect(seen).toEqual([0x41])
  })

  it("CMOS memory holds what it was given, and the clock keeps its registers", () => {
    const clock = () => Date.UTC(2024, 0, 2, 3, 4, 5)
    const memory = new Map([
      [0x34, 0xf0],
      [0x00, 0x77],
      [0x01, 0x77],
      [0x0b, 0xff],
      [0x32, 0x99],
    ])
    const rtc = new CmosRtc({ clock, memory })
    const read = (register: number) => {
      rtc.write(0, 1, register)
      return rtc.read(1, 1)
    }
    expect([0x34, 0x35, 0x00, 0x01, 0x0b, 0x32].map(read)).toEqual([0xf0, 0, 0x05, 0, 0x02, 0x20])
  })
})
