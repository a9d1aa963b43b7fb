import { spawnSync } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it, onTestFinished } from "vitest"
import { campaign, kindOf } from "../src/campaign.js"
import { readCorpus, writeCorpus, writeFailed } from "../src/corpus.js"
import { Input, Output } from "../src/input.js"
import { minimise } from "../src/minimise.js"
import { mutate } from "../src/mutate.js"
import { NATIVE_TARGETS } from "../src/native.js"
import { PLANTS } from "../src/planted.js"
import { Random } from "../src/random.js"
import type { FuzzTarget } from "../src/target.js"
import { TARGET_NAMES } from "../src/targets/index.js"

/** What threads run is compiled. */
const dist = (file: string) => fileURLToPath(new URL(`../dist/${file}`, import.meta.url))

/** Fails when the first three bytes are 9, 9, 9; each that is right happens, so that two are a step on the way. */
const toy: FuzzTarget = {
  about: "a lock",
  maxBytes: 16,
  seeds: () => [new Uint8Array(8)],
  run(input) {
    const right = [...input.subarray(0, 3)].findIndex((byte) => byte !== 9)
    if (right < 0 && input.length >= 3) throw new Error(`opened with ${input.length} bytes`)
    return [`${right} right`]
  },
}

const options = { corpus: [], seeds: true, seconds: 60, runs: 200_000, before: () => {} }

describe("a campaign", () => {
  it("finds what needs steps on the way, and the same seed leads to the same inputs", async () => {
    const inputs: string[][] = [[], []]
    const [one, two] = [
      await campaign(toy, { ...options, seed: 5, before: (input) => inputs[0]!.push(input.join()) }),
      await campaign(toy, { ...options, seed: 5, before: (input) => inputs[1]!.push(input.join()) }),
    ]
    expect(one.failure?.input.subarray(0, 3)).toEqual(Uint8Array.of(9, 9, 9))
    expect(inputs[0]).toEqual(inputs[1])
    expect(two.runs).toBe(one.runs)
    const other = await campaign(toy, { ...options, seed: 6 })
    expect(other.failure).toBeDefined()
    expect(other.runs).not.toBe(one.runs)
  })

  it("ends after the runs that it was given, but not before it ran what it starts with", async () => {
    const corpus = [1, 2, 3].map((byte) => Uint8Array.of(byte))
    const result = await campaign(toy, { ...options, corpus, seed: 1, runs: 2 })
    expect([result.runs, result.failure]).toEqual([4, undefined])
    expect(result.kept).toEqual([Uint8Array.of(1)])
  })
})

it("mutated inputs are never too long, and the old one stays as it was", () => {
  const random = new Random(1)
  const [input, other] = [Uint8Array.of(1, 2, 3, 4), new Uint8Array(40).fill(7)]
  const lengths = new Set<number>()
  for (let i = 0; i < 5000; i++) lengths.add(mutate(input, other, random, 12).length)
  expect(Math.max(...lengths)).toBe(12)
  expect(lengths.has(0)).toBe(true)
  expect(input).toEqual(Uint8Array.of(1, 2, 3, 4))
  for (let i = 0; i < 100; i++) mutate(new Uint8Array(0), other, random, 12)
})

it("a failing input becomes as short as it can be", async () => {
  const input = Uint8Array.from({ length: 100 }, (_, i) => i + 1)
  const fails = (bytes: Uint8Array) => bytes.includes(20) && bytes.includes(70) && bytes.length >= 3
  const shortest = await minimise(input, fails, 2000)
  expect(shortest.length).toBe(3)
  expect(fails(shortest)).toBe(true)
  expect(shortest.filter((byte) => byte !== 0).length).toBe(2)
  expect(kindOf(new Error("at 0x1f, 12 bytes\nmore"))).toBe(kindOf(new Error("at 0x2, 7 bytes")))
})

it("inputs are made of the numbers that they are taken apart into", () => {
  const input = new Input(new Output().u8(1).u16(0x203).u32(0x8000_0004).bytes([5, 6]).input)
  expect([input.u8(), input.u16(), input.u32(), input.left]).toEqual([1, 0x203, 0x8000_0004, 2])
  expect([...input.bytes(9), input.u8(), input.u32(), input.left <= 0]).toEqual([5, 6, 0, 0, true])
})

it("the corpus keeps what failed, and the shortest of the rest", () => {
  const corpus = mkdtempSync(join(tmpdir(), "virtkit-corpus-"))
  onTestFinished(() => rmSync(corpus, { recursive: true }))
  writeFailed("toy", Uint8Array.of(9, 9, 9), corpus)
  writeCorpus("toy", [Uint8Array.of(1, 2), Uint8Array.of(1)], 2, corpus)
  writeCorpus("toy", [Uint8Array.of(1, 2, 3), Uint8Array.of(4), Uint8Array.of(5, 6)], 2, corpus)
  const kept = readCorpus("toy", corpus)
  expect([...kept.values()].sort((a, b) => a.length - b.length)).toEqual([
    Uint8Array.of(4),
    Uint8Array.of(5, 6),
    Uint8Array.of(9, 9, 9),
  ])
  expect(readdirSync(join(corpus, "toy")).filter((name) => name.startsWith("failed-"))).toHaveLength(1)
  expect(readCorpus("none", corpus).size).toBe(0)
})

it("every target has a planted defect", () => {
  const names = [...TARGET_NAMES, ...Object.keys(NATIVE_TARGETS)]
  expect(PLANTS.map(({ target }) => target).sort()).toEqual(names.sort())
})

describe("the command", () => {
  const command = (...args: string[]) =>
    spawnSync(process.execPath, [dist("index.js"), ...args], { encoding: "utf8" })

  it("finds a planted defect, and nothing without one", () => {
    const planted = command("--planted", "--seed", "1", "rng")
    expect([planted.stdout, planted.status]).toEqual([
      expect.stringMatching(/^rng .*found: Finding: bytes/),
      0,
    ])
    const plain = command("--seconds", "20", "--runs", "50", "--seed", "1", "rng")
    expect([plain.stdout, plain.status]).toEqual([
      expect.stringMatching(/^rng .* runs in .*, 0 findings\n$/),
      0,
    ])
  })

  it("says how it is used when it is used wrongly", () => {
    expect(command("nothing")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("there is no target"),
    })
    expect(command("--seconds", "x", "rng").status).toBe(2)
    expect(command("--sekonds", "3").status).toBe(2)
  })
})

describe("a thread that is watched", () => {
  it("ends when a run does not, with the input that it hangs with", async () => {
    const { runTarget } = (await import(dist("run-target.js"))) as typeof import("../src/run-target.js")
    const plant = PLANTS.find(({ target }) => target === "ring-split")!
    const common = { target: "ring-split", seed: 1, seconds: 10, hangSeconds: 1, minimise: false }
    const report = await runTarget({ ...common, corpus: [], plant })
    expect(report.finding?.error).toMatch(/did not end within 1 seconds/)
    const replayed = await runTarget({ ...common, corpus: [report.finding!.input], seeds: false, seconds: 0 })
    expect([replayed.runs, replayed.finding]).toEqual([1, undefined])
  })
})
