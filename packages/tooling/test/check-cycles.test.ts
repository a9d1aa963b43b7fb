import { describe, expect, it } from "vitest"
import { check, cycles } from "../check-cycles.mjs"
import { tree } from "./fixture.js"

describe("cycles", () => {
  it("finds none in a diamond", () => {
    const graph = new Map([
      ["a", ["b", "c"]],
      ["b", ["d"]],
      ["c", ["d"]],
    ])
    expect(cycles(graph)).toEqual([])
  })

  it("finds a loop behind a tail, and a self-loop", () => {
    const graph = new Map([
      ["a", ["b"]],
      ["b", ["c"]],
      ["c", ["b", "c"]],
    ])
    expect(cycles(graph)).toEqual([
      ["b", "c", "b"],
      ["c", "c"],
    ])
  })
})

describe("the cycles check", () => {
  it("counts devDependencies", () => {
    const root = tree({
      "packages/a/package.json": { name: "@x/a", dependencies: { "@x/b": "1.0.0" } },
      "packages/b/package.json": { name: "@x/b", devDependencies: { "@x/a": "1.0.0" } },
    })
    expect(check(root).findings).toEqual(["packages: @x/a -> @x/b -> @x/a"])
  })

  it("counts imports of tests", () => {
    const root = tree({
      "packages/a/package.json": { name: "@x/a", dependencies: { "@x/b": "1.0.0" } },
      "packages/b/package.json": { name: "@x/b" },
      "packages/b/test/b.test.ts": 'import "@x/a"\n',
    })
    expect(check(root).findings).toEqual(["packages: @x/a -> @x/b -> @x/a"])
  })

  it("finds cycles between files, but not of types alone", () => {
    const root = tree({
      "packages/a/package.json": { name: "@x/a" },
      "packages/a/src/one.ts": 'import { two } from "./two.js"\n',
      "packages/a/src/two.ts": 'import { one } from "./one.js"\n',
      "packages/a/src/three.ts": 'import type { Four } from "./four.js"\n',
      "packages/a/src/four.ts": 'import { three } from "./three.js"\n',
    })
    expect(check(root).findings).toEqual([
      "files: packages/a/src/one.ts -> packages/a/src/two.ts -> packages/a/src/one.ts",
    ])
  })
})
