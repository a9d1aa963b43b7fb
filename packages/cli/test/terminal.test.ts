import { PassThrough, Writable } from "node:stream"
import { describe, expect, it } from "vitest"
import { EscapeKeys, showOutput, windowSize } from "../src/terminal.js"

async function type(...chunks: number[][]): Promise<{ passed: number[]; left: number }> {
  let left = 0
  const keys = new EscapeKeys(() => {
    left++
  })
  const passed: number[] = []
  keys.on("data", (chunk: Buffer) => passed.push(...chunk))
  for (const chunk of chunks) keys.write(Buffer.from(chunk))
  keys.end()
  await new Promise((resolve) => keys.on("end", resolve))
  return { passed, left }
}

const A = 1
const x = 0x78

describe("EscapeKeys", () => {
  it("passes ordinary keys", async () => {
    expect(await type([3, x, 10])).toEqual({ passed: [3, x, 10], left: 0 })
  })
  it("leaves on Ctrl-A x, also in two pieces, and passes neither", async () => {
    expect(await type([A, x])).toEqual({ passed: [], left: 1 })
    expect(await type([A], [x, 97])).toEqual({ passed: [97], left: 1 })
  })
  it("passes one Ctrl-A for two", async () => {
    expect(await type([A, A, x])).toEqual({ passed: [A, x], left: 0 })
  })
  it("passes Ctrl-A and any other key as they are", async () => {
    expect(await type([A, 98])).toEqual({ passed: [A, 98], left: 0 })
  })
})

describe("windowSize", () => {
  it("asks the terminal, else the environment, and takes only what is possible", () => {
    const told = { COLUMNS: "132", LINES: "43" }
    expect(windowSize({ columns: 100, rows: 30 }, told)).toEqual({ cols: 100, rows: 30 })
    expect(windowSize({}, told)).toEqual({ cols: 132, rows: 43 })
    expect(windowSize({}, {})).toEqual({})
    expect(windowSize({}, { COLUMNS: "wide", LINES: "70000" })).toEqual({})
  })
})

describe("showOutput", () => {
  it("passes everything on and leaves the target open", async () => {
    const source = new PassThrough()
    const target = new PassThrough()
    showOutput(source, target)
    source.end("abc")
    await new Promise((resolve) => source.on("end", resolve))
    expect(target.read().toString()).toBe("abc")
    expect(target.writable).toBe(true)
  })

  it("discards what comes after the reader went away, so that nobody waits for it", async () => {
    const source = new PassThrough()
    const target = new Writable({ write: (_chunk, _encoding, done) => done(new Error("EPIPE")) })
    showOutput(source, target)
    const ended = new Promise((resolve) => source.on("end", resolve))
    for (let i = 0; i < 100; i++) source.write(Buffer.alloc(4096))
    source.end()
    await ended
  })
})
