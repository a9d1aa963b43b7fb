import { type BusDevice, RestoreError } from "@virtkit/interface"
import { ResetControl } from "@virtkit/legacy"
import { describe, expect, it } from "vitest"

function setup() {
  const seen: string[] = []
  const shared: BusDevice = {
    name: "shared",
    read: (offset, size) => {
      seen.push(`read ${offset} ${size}`)
      return 0x55
    },
    write: (offset, size, value) => {
      seen.push(`write ${offset} ${size} ${value}`)
    },
  }
  const device = new ResetControl({ shared, onReset: () => seen.push("reset") })
  return { device, seen }
}

describe("ResetControl", () => {
  it("resets when RST_CPU goes from 0 to 1", () => {
    const { device, seen } = setup()
    device.write(1, 1, 0x02)
    device.write(1, 1, 0x0a)
    expect(seen).toEqual([])
    device.write(1, 1, 0x0e)
    device.write(1, 1, 0x06)
    expect(seen).toEqual(["reset"])
    expect(device.read(1, 1)).toBe(0x06)
    device.write(1, 1, 0xf2)
    device.write(1, 1, 0x06)
    expect(seen).toEqual(["reset", "reset"])
  })

  it("hands all other accesses on", () => {
    const { device, seen } = setup()
    for (const [offset, size] of [
      [0, 4],
      [0, 2],
      [0, 1],
      [2, 1],
      [4, 4],
      [5, 1],
    ] as const) {
      device.write(offset, size, 6)
      expect(device.read(offset, size)).toBe(0x55)
      expect(seen.splice(0)).toEqual([`write ${offset} ${size} 6`, `read ${offset} ${size}`])
    }
  })

  it("hands its state to a new one", () => {
    const { device } = setup()
    device.write(1, 1, 0x06)
    const other = setup()
    other.device.restore(structuredClone(device.state()))
    other.device.write(1, 1, 0x0e)
    expect(other.device.read(1, 1)).toBe(0x0e)
    expect(other.seen).toEqual([])
    expect(() => other.device.restore({ version: 1, value: 0x10 })).toThrow(RestoreError)
  })
})
