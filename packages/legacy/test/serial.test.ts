import { once } from "node:events"
import { setImmediate as turn } from "node:timers/promises"
import { ConfigError, RestoreError } from "@virtkit/interface"
import { Serial16550 } from "@virtkit/legacy"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const [RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7]
const FCR = IIR

function port(options: { outputBuffer?: number } = {}) {
  let signals = 0
  const serial = new Serial16550({ interrupt: { signal: () => signals++ }, ...options })
  return {
    serial,
    read: (offset: number) => serial.read(offset, 1),
    write: (offset: number, value: number) => serial.write(offset, 1, value),
    /** Edges since the last look. */
    edges: () => {
      const seen = signals
      signals = 0
      return seen
    },
  }
}

describe("what Linux's 8250 driver probes", () => {
  it("finds an IER of 4 bits", () => {
    const { read, write } = port()
    write(IER, 0xff)
    expect(read(IER)).toBe(0x0f)
    write(IER, 0)
    expect(read(IER)).toBe(0)
  })

  it("finds the modem lines looped back", () => {
    const { read, write } = port()
    write(MCR, 0x10 | 0x0a)
    expect(read(MSR) & 0xf0).toBe(0x90)
    write(MCR, 0x10 | 0x05)
    expect(read(MSR) & 0xf0).toBe(0x60)
    write(MCR, 0)
    expect(read(MSR) & 0xf0).toBe(0xb0)
  })

  it("finds working FIFOs of 16 bytes and no later chip", () => {
    const { read, write } = port()
    expect(read(IIR)).toBe(0x01)
    write(FCR, 0x01)
    expect(read(IIR) >> 6).toBe(3)
    write(LCR, 0x80)
    write(FCR, 0x21)
    expect(read(IIR) & 0xe0).toBe(0xc0)
    write(LCR, 0xbf)
    write(FCR, 0)
    expect(read(IIR) >> 6).toBe(0)
  })

  it("finds that enabling the THRE interrupt makes it due every time", () => {
    const { read, write } = port()
    for (let i = 0; i < 2; i++) {
      write(IER, 0x02)
      expect(read(LSR) & 0x60).toBe(0x60)
      expect(read(IIR)).toBe(0x02)
      expect(read(IIR)).toBe(0x01)
      write(IER, 0)
    }
  })
})

describe("registers", () => {
  it("keeps the scratch register, the line control and 5 bits of modem control", () => {
    const { read, write } = port()
    write(SCR, 0xa5)
    write(LCR, 0x1b)
    write(MCR, 0xff)
    expect([read(SCR), read(LCR), read(MCR)]).toEqual([0xa5, 0x1b, 0x1f])
  })

  it("has the divisor latch at offsets 0 and 1 while DLAB is set", async () => {
    const { serial, read, write } = port()
    write(IER, 0x01)
    write(LCR, 0x83)
    write(0, 0x34)
    write(1, 0x12)
    expect([read(0), read(1)]).toEqual([0x34, 0x12])
    write(LCR, 0x03)
    expect(read(IER)).toBe(0x01)
    await turn()
    expect(serial.stream.read()).toBe(null)
  })

  it("does wide accesses byte by byte and reads 0 past its end", () => {
    const { serial } = port()
    serial.write(LCR!, 2, 0x0302)
    expect(serial.read(LCR!, 2)).toBe(0x0302)
    serial.write(4, 4, 0xff000000)
    expect(serial.read(4, 4)).toBe(0xffb06000)
    expect(serial.read(8, 1)).toBe(0)
  })

  it("ignores writes to LSR and MSR", () => {
    const { read, write } = port()
    write(LSR, 0)
    write(MSR, 0)
    expect([read(LSR), read(MSR)]).toEqual([0x60, 0xb0])
  })
})

describe("transmitting", () => {
  it("hands the bytes of a turn to the reader as one chunk", async () => {
    const { serial, write } = port()
    const chunks: string[] = []
    serial.stream.on("data", (chunk: Buffer) => chunks.push(chunk.toString()))
    for (const byte of Buffer.from("hello\n")) write(RBR, byte)
    expect(chunks).toEqual([])
    await turn()
    write(RBR, 0x21)
    await turn()
    await turn()
    expect(chunks).toEqual(["hello\n", "!"])
    expect(serial.counters).toEqual({ transmitted: 7, received: 0, overrun: 0 })
  })

  it("makes one edge for a FIFO's worth of bytes, and one per byte without FIFOs", () => {
    const { read, write, edges } = port()
    write(FCR, 0x01)
    write(IER, 0x02)
    expect(edges()).toBe(1)
    expect(read(IIR)).toBe(0xc2)
    for (let i = 0; i < 16; i++) write(RBR, 0x61)
    expect(edges()).toBe(1)
    expect(read(IIR)).toBe(0xc2)
    write(FCR, 0x00)
    for (let i = 0; i < 3; i++) write(RBR, 0x61)
    expect(edges()).toBe(3)
  })

  it("bad-input #33: a reader that is behind stops the transmitter, and nothing is lost", async () => {
    const { serial, read, write, edges } = port({ outputBuffer: 64 })
    write(FCR, 0x01)
    const sent: number[] = []
    const send = async () => {
      // As a driver does: up to 16 bytes whenever the transmitter is empty.
      while ((read(LSR) & 0x20) !== 0) {
        for (let i = 0; i < 16; i++) {
          write(RBR, sent.length & 0xff)
          sent.push(sent.length & 0xff)
        }
        if (sent.length % 64 === 0) await turn()
      }
    }
    await send()
    // The Readable's own buffer and ours are full now.
    expect(sent.length).toBeLessThan(serial.stream.readableHighWaterMark + 3 * 64)
    expect(serial.counters.overrun).toBe(0)
    await turn()
    expect(read(LSR) & 0x60).toBe(0)
    write(IER, 0x02)
    expect(edges()).toBe(0)
    expect(read(IIR)).toBe(0xc1)

    const received: Buffer[] = []
    serial.stream.on("data", (chunk: Buffer) => received.push(chunk))
    while (Buffer.concat(received).length < sent.length) await turn()
    expect(edges()).toBe(1)
    expect(read(LSR) & 0x60).toBe(0x60)
    expect(Buffer.concat(received)).toEqual(Buffer.from(sent))
  })

  it("bad-input #33: a guest that ignores the transmitter's state loses bytes and the host no memory", async () => {
    const { serial, write } = port({ outputBuffer: 64 })
    for (let i = 0; i < 1000; i++) write(RBR, 0x61)
    expect(serial.counters).toEqual({ transmitted: 64, received: 0, overrun: 936 })
  })

  it("goes on into nothing when the stream is destroyed or the port closed", async () => {
    for (const end of ["destroy", "close"] as const) {
      const { serial, read, write, edges } = port({ outputBuffer: 16 })
      for (let i = 0; i < 16; i++) write(RBR, 0x61)
      write(IER, 0x02)
      expect(read(LSR) & 0x60).toBe(0)
      if (end === "destroy") serial.stream.destroy()
      else serial.close()
      expect(edges()).toBe(1)
      for (let i = 0; i < 100; i++) write(RBR, 0x62)
      expect(read(LSR) & 0x60).toBe(0x60)
      expect(serial.counters.overrun).toBe(0)
    }
  })
})

describe("receiving", () => {
  it("delivers input with one edge per chunk, and calls the writer back when the guest took it all", async () => {
    const { serial, read, write, edges } = port()
    write(FCR, 0x81)
    write(IER, 0x01)
    let written = false
    serial.stream.write("0123456789", () => {
      written = true
    })
    expect(edges()).toBe(1)
    expect(read(IIR)).toBe(0xc4)
    let text = ""
    while ((read(LSR) & 0x01) !== 0) {
      text += String.fromCharCode(read(RBR))
      // Below the trigger level of 8 the rest is a character timeout.
      if (text.length === 3) expect(read(IIR)).toBe(0xcc)
      await turn()
      expect(written).toBe(text.length === 10)
    }
    expect(text).toBe("0123456789")
    expect(read(IIR)).toBe(0xc1)
    expect(edges()).toBe(0)
    expect(serial.counters.received).toBe(10)
  })

  it("bad-input #33: input floods wait in the writer, and nothing is lost", async () => {
    const { serial, read, write } = port()
    const data = Buffer.from(Array.from({ length: 70_000 }, (_, i) => (i * 7) & 0xff))
    let more = true
    for (let at = 0; at < data.length; at += 1000) more = serial.stream.write(data.subarray(at, at + 1000))
    expect(more).toBe(false)
    write(FCR, 0x01)
    const received: number[] = []
    while (received.length < data.length) {
      while ((read(LSR) & 0x01) !== 0) received.push(read(RBR))
      await turn()
    }
    expect(Buffer.from(received)).toEqual(data)
    if (serial.stream.writableNeedDrain) await once(serial.stream, "drain")
  })

  it("loses no input when the guest clears the FIFOs", () => {
    const { serial, read, write } = port()
    serial.stream.write("ab")
    write(FCR, 0x07)
    write(FCR, 0x00)
    expect([read(RBR), read(RBR), read(RBR)]).toEqual([0x61, 0x62, 0])
  })

  it("ends the writer's callbacks when it is closed", async () => {
    const { serial } = port()
    const callbacks: string[] = []
    serial.stream.write("a", () => callbacks.push("a"))
    serial.stream.write("b", () => callbacks.push("b"))
    serial.close()
    serial.close()
    serial.stream.resume()
    await once(serial.stream, "close")
    expect(callbacks).toEqual(["a", "b"])
  })

  it("can be closed after the writer has ended its side, or destroyed it all", async () => {
    for (const how of ["end", "destroy"] as const) {
      const { serial } = port()
      const stream = serial.stream
      stream[how]()
      await turn()
      serial.close()
      stream.resume()
      await turn()
      expect(stream.destroyed).toBe(true)
    }
  })

  it("reports a break as line status, before received data", () => {
    const { serial, read, write, edges } = port()
    write(FCR, 0x41)
    write(IER, 0x05)
    serial.sendBreak()
    expect(edges()).toBe(1)
    expect(read(IIR)).toBe(0xc6)
    expect(read(LSR)).toBe(0x80 | 0x60 | 0x10 | 0x01)
    expect(read(IIR)).toBe(0xcc)
    expect(read(LSR)).toBe(0x61)
    expect(read(RBR)).toBe(0)
    expect(read(LSR)).toBe(0x60)
    expect(read(IIR)).toBe(0xc1)
  })
})

describe("loopback", () => {
  it("receives what it transmits, the other side sees nothing and is not heard", async () => {
    const { serial, read, write } = port()
    write(FCR, 0x01)
    serial.stream.write("host")
    write(MCR, 0x10)
    write(RBR, 0x55)
    write(RBR, 0xaa)
    expect(read(LSR)).toBe(0x61)
    expect([read(RBR), read(RBR), read(RBR)]).toEqual([0x55, 0xaa, 0])
    expect(read(LSR)).toBe(0x60)
    await turn()
    expect(serial.stream.read()).toBe(null)
    write(MCR, 0)
    expect(read(RBR)).toBe(0x68)
  })

  it("overruns: the new byte is lost with FIFOs, replaces the old one without", () => {
    const { read, write } = port()
    write(FCR, 0x01)
    write(MCR, 0x10)
    write(IER, 0x04)
    for (let i = 1; i <= 17; i++) write(RBR, i)
    expect(read(IIR)).toBe(0xc6)
    expect(read(LSR)).toBe(0x63)
    expect(read(LSR)).toBe(0x61)
    for (let i = 1; i <= 16; i++) expect(read(RBR)).toBe(i)
    expect(read(LSR)).toBe(0x60)
    write(FCR, 0x00)
    write(RBR, 1)
    write(RBR, 2)
    expect(read(LSR)).toBe(0x63)
    expect(read(RBR)).toBe(2)
  })

  it("reports changes of the modem lines once, with the lowest priority", () => {
    const { read, write, edges } = port()
    write(MCR, 0x14) // CTS, DSR, DCD fall and RI rises
    expect(read(MSR)).toBe(0x40 | 0x0b)
    expect(read(MSR)).toBe(0x40)
    write(IER, 0x0b)
    expect(read(IIR)).toBe(0x02)
    edges()
    write(MCR, 0x11) // RI falls, DSR rises
    expect(edges()).toBe(1)
    write(RBR, 0x55)
    expect(read(IIR)).toBe(0x04)
    read(RBR)
    expect(read(IIR)).toBe(0x02)
    expect(read(IIR)).toBe(0x00)
    expect(read(MSR)).toBe(0x20 | 0x06)
    expect(read(IIR)).toBe(0x01)
  })
})

describe("state", () => {
  it("goes into a new port, with the interrupt that was due", () => {
    const one = port()
    one.write(LCR, 0x83)
    one.write(0, 0x01)
    one.write(LCR, 0x03)
    one.write(FCR, 0x41)
    one.write(MCR, 0x1b)
    one.write(SCR, 0x77)
    one.write(IER, 0x05)
    for (let i = 0; i < 5; i++) one.write(RBR, 0x30 + i)
    one.serial.sendBreak()
    const two = port()
    two.serial.restore(structuredClone(one.serial.state()))
    expect(two.edges()).toBe(1)
    expect(two.serial.state()).toEqual(one.serial.state())
    expect(two.read(IIR)).toBe(0xc4)
    for (let i = 0; i < 5; i++) expect(two.read(RBR)).toBe(0x30 + i)
    expect(two.read(IIR)).toBe(0xc6)
    expect(two.read(LSR) & 0x10).toBe(0x10)
  })

  it("refuses a state that does not fit, and stays as it was", () => {
    const { serial } = port()
    const good = serial.state() as Record<string, unknown>
    for (const bad of [
      null,
      7,
      { ...good, version: 2 },
      { ...good, ier: 0x10 },
      { ...good, divisor: 65536 },
      { ...good, trigger: 4 },
      { ...good, receiver: new Uint8Array(33) },
      { ...good, fifosEnabled: 1 },
    ]) {
      expect(() => serial.restore(bad)).toThrow(RestoreError)
    }
    expect(serial.state()).toEqual(good)
  })
})

it("refuses an output buffer smaller than a FIFO", () => {
  expect(() => port({ outputBuffer: 15 })).toThrow(ConfigError)
  expect(() => port({ outputBuffer: Number.NaN })).toThrow(ConfigError)
})

it("never loses, doubles or reorders a byte, whatever the two sides do", async () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant("transmit" as const), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ do: fc.constant("input" as const), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ do: fc.constant("receive" as const), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ do: fc.constant("read" as const), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ do: fc.constant("fifo" as const), count: fc.integer({ min: 0, max: 7 }) }),
    fc.record({ do: fc.constant("turn" as const), count: fc.constant(1) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const { serial, read, write } = port({ outputBuffer: 48 })
      let sent = 0
      let seen = 0
      let typed = 0
      let got = 0
      const readAll = () => {
        for (const byte of (serial.stream.read() as Buffer | null) ?? []) expect(byte).toBe(seen++ & 0xff)
      }
      const receiveAll = (limit: number) => {
        for (let i = 0; i < limit && (read(LSR) & 1) !== 0; i++) expect(read(RBR)).toBe(got++ & 0xff)
      }
      for (const { do: what, count } of steps) {
        if (what === "transmit") {
          if ((read(LSR) & 0x20) !== 0)
            for (let i = 0; i < Math.min(count, 16); i++) write(RBR, sent++ & 0xff)
        } else if (what === "input") {
          serial.stream.write(Uint8Array.from({ length: count }, () => typed++ & 0xff))
        } else if (what === "receive") receiveAll(count)
        else if (what === "read") readAll()
        else if (what === "fifo") write(FCR, count)
        else await turn()
      }
      for (let i = 0; i < 1000 && (seen < sent || got < typed); i++) {
        receiveAll(100)
        readAll()
        await turn()
      }
      expect([seen, got]).toEqual([sent, typed])
    }),
    { numRuns: 60 },
  )
})
