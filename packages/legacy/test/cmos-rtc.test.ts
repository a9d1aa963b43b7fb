import { RestoreError } from "@virtkit/interface"
import { CmosRtc } from "@virtkit/legacy"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"

const [A, B, C, D, CENTURY] = [0x0a, 0x0b, 0x0c, 0x0d, 0x32]
/** A Tuesday. */
const START = Date.UTC(2024, 11, 31, 23, 59, 57, 250)

let signals: number
let rtc: CmosRtc

beforeEach(() => {
  vi.useFakeTimers({ now: START, toFake: ["Date", "setTimeout", "clearTimeout"] })
  signals = 0
  rtc = new CmosRtc({ interrupt: { signal: () => signals++ } })
})

afterEach(() => {
  rtc.close()
  vi.useRealTimers()
})

const read = (index: number): number => {
  rtc.write(0, 1, index)
  return rtc.read(1, 1)
}
const write = (index: number, value: number): void => {
  rtc.write(0, 1, index)
  rtc.write(1, 1, value)
}
/** Century, year, month, day, day of week, hours, minutes, seconds. */
const time = () => [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(read)
const hex = (text: string) => text.split(" ").map((byte) => Number.parseInt(byte, 16))

describe("the time", () => {
  it("is the host's in UTC, in BCD and 24 hours at first", () => {
    expect(time()).toEqual(hex("20 24 12 31 03 23 59 57"))
    vi.setSystemTime(START + 3000)
    expect(time()).toEqual(hex("20 25 01 01 04 00 00 00"))
  })

  it("is binary or of 12 hours as register B says", () => {
    write(B, 0x06)
    expect(time()).toEqual([20, 24, 12, 31, 3, 23, 59, 57])
    write(B, 0x04)
    expect(read(4)).toBe(0x80 | 11)
    write(B, 0x00)
    expect(read(4)).toBe(0x80 | 0x11)
    vi.setSystemTime(START + 3000)
    expect(read(4)).toBe(0x12)
    vi.setSystemTime(START + 3000 + 12 * 3_600_000)
    expect(read(4)).toBe(0x92)
  })

  it("comes from the clock that is given", () => {
    rtc = new CmosRtc({ clock: () => Date.UTC(1970, 0, 2) })
    expect(time()).toEqual(hex("19 70 01 02 06 00 00 00"))
  })

  it("has the update bit only shortly before a second ends", () => {
    expect(read(A)).toBe(0x26)
    vi.setSystemTime(START + 749)
    expect(read(A)).toBe(0xa6)
    vi.setSystemTime(START + 750)
    expect(read(A)).toBe(0x26)
    vi.setSystemTime(START + 749)
    write(B, 0x82)
    expect(read(A)).toBe(0x26)
  })

  it("can be set as Linux does it, and runs on from there", () => {
    write(B, 0x82)
    write(A, 0x76)
    const to = hex("19 99 06 15 03 13 37 42")
    ;[CENTURY, 9, 8, 7, 6, 4, 2, 0].forEach((index, i) => {
      write(index, to[i]!)
    })
    expect(time()).toEqual(to)
    vi.setSystemTime(START + 5000)
    expect(time()).toEqual(to)
    write(A, 0x26)
    expect(time()).toEqual(to)
    write(B, 0x02)
    expect(time()).toEqual(to)
    vi.setSystemTime(START + 6000)
    expect(time()).toEqual(hex("19 99 06 15 03 13 37 43"))
  })

  it("is not lost when the clock is held and nothing is written, and can be set on the run", () => {
    write(B, 0x82)
    vi.setSystemTime(START + 2000)
    expect(read(0)).toBe(0x57)
    write(B, 0x02)
    expect(read(0)).toBe(0x59)
    write(7, 0x05)
    expect(time()).toEqual(hex("20 24 12 05 05 23 59 59"))
    expect(read(A)).toBe(0x26)
    vi.setSystemTime(START + 2749)
    expect(read(A)).toBe(0xa6)
  })

  it("bad-input #35: any bytes are some time, and no write makes it stop", () => {
    for (const format of [0x00, 0x02, 0x04, 0x06]) {
      for (const byte of [0x00, 0x7f, 0x99, 0xaa, 0xff]) {
        write(B, 0x80 | format)
        for (const index of [0, 2, 4, 6, 7, 8, 9, CENTURY]) write(index, byte)
        write(B, format)
        for (const value of time()) expect(value >= 0 && value <= 255 && Number.isInteger(value)).toBe(true)
        const before = read(0)
        vi.setSystemTime(Date.now() + 1000)
        expect(read(0)).not.toBe(before)
      }
    }
  })
})

describe("registers", () => {
  it("masks the NMI bit of the index, whose port cannot be read", () => {
    write(0x80 | 0x40, 0x5a)
    expect(read(0x40)).toBe(0x5a)
    expect(rtc.read(0, 1)).toBe(0xff)
    expect(rtc.read(0, 2)).toBe(0x5aff)
    rtc.write(0, 2, 0x6641)
    expect(read(0x41)).toBe(0x66)
  })

  it("says that the battery is good, and ignores writes to C and D", () => {
    write(C, 0xff)
    write(D, 0)
    expect(read(C)).toBe(0)
    expect(read(D)).toBe(0x80)
  })

  it("has no memory size, and keeps what is written to the rest", () => {
    for (const index of [0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35, 0x5b, 0x5c, 0x5d]) {
      expect(read(index)).toBe(0)
    }
    write(0x0f, 0x0a)
    expect(read(0x0f)).toBe(0x0a)
  })
})

describe("interrupts", () => {
  it("has no timer while none is enabled, and flags that can be polled", () => {
    expect(vi.getTimerCount()).toBe(0)
    expect(read(C)).toBe(0)
    vi.setSystemTime(START + 1000)
    expect(read(C)).toBe(0x50)
    expect(read(C)).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
    expect(signals).toBe(0)
  })

  it("signals the alarm when its time comes, once until C is read", () => {
    write(5, 0x00)
    write(3, 0x01)
    write(1, 0x30)
    write(B, 0x22)
    vi.advanceTimersByTime(92_749)
    expect(signals).toBe(0)
    vi.advanceTimersByTime(1)
    expect(signals).toBe(1)
    expect(time().slice(-3)).toEqual(hex("00 01 30"))
    expect(vi.getTimerCount()).toBe(0)
    vi.advanceTimersByTime(2 * 86_400_000)
    expect(signals).toBe(1)
    expect(read(C) & 0xa0).toBe(0xa0)
    vi.advanceTimersByTime(86_400_000)
    expect(signals).toBe(2)
  })

  it("waits for the hour, in 12 hours too", () => {
    write(5, 0x92) // noon
    write(3, 0x00)
    write(1, 0x00)
    write(B, 0x20)
    vi.advanceTimersByTime(2750 + 12 * 3_600_000 - 1)
    expect(signals).toBe(0)
    vi.advanceTimersByTime(1)
    expect(signals).toBe(1)
    expect(read(4)).toBe(0x92)
  })

  it("takes 'any' in the alarm, and an impossible time for never", () => {
    write(5, 0xff)
    write(3, 0xc0)
    write(1, 0x10)
    write(B, 0x22)
    vi.advanceTimersByTime(12_750)
    expect(signals).toBe(1)
    read(C)
    vi.advanceTimersByTime(60_000)
    expect(signals).toBe(2)
    read(C)
    write(1, 0x75)
    expect(vi.getTimerCount()).toBe(0)
  })

  it("signals updates and periods, and an enable bit for a flag that is set already", () => {
    write(B, 0x12)
    vi.advanceTimersByTime(750)
    expect(signals).toBe(1)
    expect(read(C) & 0x90).toBe(0x90)
    vi.advanceTimersByTime(1000)
    expect(signals).toBe(2)
    read(C)
    write(A, 0x2f) // 2 Hz
    write(B, 0x42)
    read(C)
    vi.advanceTimersByTime(500)
    expect(signals).toBe(3)
    read(C)
    write(B, 0x02)
    vi.advanceTimersByTime(1000)
    expect(signals).toBe(3)
    write(B, 0x12)
    expect(signals).toBe(4)
  })

  it("bad-input #34: a guest that does not acknowledge costs no timer, the fastest rate 1000 per second", () => {
    write(A, 0x23)
    write(B, 0x42)
    vi.advanceTimersByTime(1)
    expect([signals, vi.getTimerCount()]).toEqual([1, 0])
    for (let i = 0; i < 1000; i++) {
      vi.advanceTimersByTime(1)
      read(C)
    }
    expect(signals).toBeLessThanOrEqual(1001)
  })

  it("is silent after close, and does not catch up on time that was set", () => {
    write(B, 0x12)
    write(1, 0x00)
    write(B, 0x92)
    write(9, 0x50)
    write(B, 0x12)
    expect([signals, read(C)]).toEqual([0, 0])
    rtc.close()
    rtc.close()
    vi.advanceTimersByTime(5000)
    expect(signals).toBe(0)
  })

  it("survives a host clock that is set back", () => {
    write(B, 0x12)
    vi.setSystemTime(START - 3_600_000)
    expect(read(C)).toBe(0)
    expect(read(2)).toBe(0x59)
    vi.advanceTimersByTime(1000)
    expect(signals).toBe(1)
  })
})

it("hands its state to a new one, with the guest's own time and the alarm", () => {
  write(B, 0x82)
  write(9, 0x30)
  write(B, 0x02)
  write(5, 0xff)
  write(3, 0xff)
  write(1, 0x59)
  write(B, 0x22)
  const saved = structuredClone(rtc.state())
  rtc.close()
  const before = time()
  rtc = new CmosRtc({ interrupt: { signal: () => signals++ } })
  rtc.restore(saved)
  expect(time()).toEqual(before)
  vi.advanceTimersByTime(2000)
  expect(signals).toBe(1)
  const good = rtc.state() as Record<string, unknown>
  for (const bad of [
    { offset: Number.NaN },
    { offset: 1e300 },
    { index: 128 },
    { memory: "" },
    { flags: 0x80 },
  ]) {
    expect(() => rtc.restore({ ...good, ...bad })).toThrow(RestoreError)
  }
  expect(rtc.state()).toEqual(good)
})

it("bad-input #31: what a guest set as far ahead as the registers go can be saved and restored", () => {
  write(B, 0x86) // held; binary, 24 hours
  for (const [index, value] of [
    [CENTURY, 255],
    [9, 255],
    [8, 255],
    [7, 255],
  ] as const)
    write(index, value)
  write(B, 0x06)
  const saved = structuredClone(rtc.state())
  const before = time()
  rtc.restore(saved)
  expect(time()).toEqual(before)
})
