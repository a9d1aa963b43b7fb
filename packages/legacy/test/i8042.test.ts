import { RestoreError } from "@virtkit/interface"
import { I8042 } from "@virtkit/legacy"
import { describe, expect, it } from "vitest"

const DATA = 0
const COMMAND = 4

function controller() {
  const seen = { resets: 0, signals: 0 }
  const device = new I8042({ onReset: () => seen.resets++, interrupt: { signal: () => seen.signals++ } })
  return {
    device,
    seen,
    status: () => device.read(COMMAND, 1),
    data: () => device.read(DATA, 1),
    command: (value: number, data?: number) => {
      device.write(COMMAND, 1, value)
      if (data !== undefined) device.write(DATA, 1, data)
    },
    send: (value: number) => device.write(DATA, 1, value),
  }
}

describe("reset", () => {
  it("comes with a pulse of the reset line, as reboot=k does it", () => {
    const { seen, command } = controller()
    command(0xff)
    command(0xf1)
    expect(seen.resets).toBe(0)
    command(0xfe)
    expect(seen.resets).toBe(1)
  })

  it("comes with the reset bit of the output port", () => {
    const { seen, command, data } = controller()
    command(0xd1, 0x03)
    expect(seen.resets).toBe(0)
    command(0xd1, 0x02)
    expect(seen.resets).toBe(1)
    command(0xd0)
    expect(data()).toBe(0x03)
  })
})

describe("what Linux's i8042 driver probes", () => {
  it("finds nothing to flush", () => {
    const { status } = controller()
    expect(status() & 0x03).toBe(0)
  })

  it("finds a self-test that passes and a command byte that can be written", () => {
    const { status, command, data } = controller()
    command(0xaa)
    expect(status() & 0x05).toBe(0x05)
    expect(data()).toBe(0x55)
    expect(status() & 0x01).toBe(0)
    command(0x20)
    const before = data()
    command(0x60, before & ~0x30)
    command(0x20)
    expect(data()).toBe(before & ~0x30)
  })

  it("finds no auxiliary port", () => {
    const { status, command, data } = controller()
    command(0xd3, 0x5a)
    expect(status() & 0x21).toBe(0x01)
    expect(data()).toBe(0x5a)
    command(0xa9)
    expect(data()).toBe(0x01)
    command(0xd4, 0xf2)
    expect(status() & 0x61).toBe(0x61)
    expect(data()).toBe(0xfe)
  })

  it("finds no keyboard, and does not wait for it", () => {
    const { seen, status, command, data, send } = controller()
    send(0xf2)
    expect(status() & 0x61).toBe(0x41)
    expect(data()).toBe(0xfe)
    expect(status() & 0x61).toBe(0)
    expect(seen.signals).toBe(0)
    command(0x60, 0x01)
    send(0xff)
    expect(seen.signals).toBe(1)
    expect(data()).toBe(0xfe)
  })
})

it("remembers A20, both ways to set it", () => {
  const { command, data } = controller()
  const outputPort = () => {
    command(0xd0)
    return data()
  }
  expect(outputPort()).toBe(0x03)
  command(0xdd)
  expect(outputPort()).toBe(0x01)
  command(0xdf)
  expect(outputPort()).toBe(0x03)
  command(0xd1, 0x01)
  expect(outputPort()).toBe(0x01)
})

it("enables and disables the ports, keeps its memory, and answers the other commands", () => {
  const { device, status, command, data } = controller()
  const read = (which: number) => {
    command(which)
    return data()
  }
  expect(read(0x20)).toBe(0x70)
  command(0xa8)
  expect(read(0x20)).toBe(0x50)
  command(0xae)
  expect(read(0x20)).toBe(0x40)
  command(0xa7)
  command(0xad)
  expect(read(0x20)).toBe(0x70)
  command(0x7f, 0x99)
  expect(read(0x3f)).toBe(0x99)
  expect(read(0xab)).toBe(0x00)
  expect(read(0xc0)).toBe(0x80)
  command(0xd2, 0x1c)
  expect(data()).toBe(0x1c)
  command(0x00)
  expect(status() & 0x09).toBe(0x08)
  // The ports between the two are not its own.
  expect(device.read(1, 1)).toBe(0xff)
  expect(device.read(0, 4)).toBe(0xffffff1c)
  device.write(1, 2, 0xfefe)
})

it("hands its state to a new one, in the middle of a command", () => {
  const one = controller()
  one.command(0xaa)
  one.command(0x61)
  const two = controller()
  two.device.restore(structuredClone(one.device.state()))
  expect(two.device.state()).toEqual(one.device.state())
  two.send(0x42)
  two.command(0x21)
  expect(two.data()).toBe(0x42)
  const good = two.device.state() as Record<string, unknown>
  expect(() => two.device.restore({ ...good, memory: new Uint8Array(31) })).toThrow(RestoreError)
  expect(() => two.device.restore({ ...good, status: 256 })).toThrow(RestoreError)
  expect(two.device.state()).toEqual(good)
})
