import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { ConsoleTail } from "../src/console-tail.js"

describe("ConsoleTail", () => {
  it("keeps exactly the last bytes, however they came", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 40 })), (chunks) => {
        const tail = new ConsoleTail(64)
        for (const chunk of chunks) tail.add(Buffer.from(chunk, "latin1"))
        const all = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk, "latin1")))
        expect(tail.text()).toBe(all.subarray(-64).toString("utf8"))
      }),
    )
  })

  it("gives the last lines without blank ones and control characters", () => {
    const tail = new ConsoleTail()
    tail.add(Buffer.from("one\r\n\r\n\u001b[31mtwo\u0007\nthree"))
    expect(tail.lines(2)).toEqual([" [31mtwo", "three"])
  })

  it("sees a reboot only in the last line", () => {
    const tail = new ConsoleTail()
    expect(tail.restarting).toBe(false)
    tail.add(Buffer.from("[ 1.0] reboot: Restarting system\r\n"))
    expect(tail.restarting).toBe(true)
    tail.add(Buffer.from("and on"))
    expect(tail.restarting).toBe(false)
  })

  it("sees a panic whose line came in two pieces", () => {
    const tail = new ConsoleTail()
    tail.add(Buffer.from("[ 1.0] Kernel panic - not"))
    expect(tail.panicked).toBe(false)
    tail.add(Buffer.from(" syncing: sysrq"))
    expect(tail.panicked).toBe(true)
  })

  it("tells a crash with its headline, however long the trace below it is", () => {
    const tail = new ConsoleTail()
    const trace = Array.from({ length: 40 }, (_, index) => `trace ${index}`)
    tail.add(Buffer.from(`before\nKernel panic - not syncing: test\n${trace.join("\n")}\n`))
    expect(tail.crashLines(3)).toEqual(["Kernel panic - not syncing: test", "trace 38", "trace 39"])
    expect(tail.crashLines(42)).toEqual(["before", "Kernel panic - not syncing: test", ...trace].slice(-42))
    expect(new ConsoleTail().crashLines(3)).toEqual([])
  })
})
