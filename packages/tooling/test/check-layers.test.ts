import { describe, expect, it } from "vitest"
import { check, parseLayers, refusal } from "../check-layers.mjs"
import { tree } from "./fixture.js"

const table = `
| layer | packages         | may import                           |
| ----- | ---------------- | ------------------------------------ |
| 0     | \`base\`         | nothing                              |
| 0     | \`addon\`        | nothing                              |
| 1     | \`ring\`         | \`base\`                             |
| 2     | \`disk\`, \`net\` | \`base\`, \`addon\` in \`backends/\` |
| 3     | \`machine\`      | everything below                     |
| test  | \`testkit\`      | \`base\`                             |
| test  | \`bench\`        | anything                             |
`

const names = ["base", "addon", "ring", "disk", "net", "machine", "testkit", "bench"]

function monorepo(sources: Record<string, unknown>): string {
  const manifests = names.map((id) => [`packages/${id}/package.json`, { name: `@x/${id}` }])
  return tree({ "docs/architecture.md": table, ...Object.fromEntries(manifests), ...sources })
}

describe("refusal", () => {
  const rules = parseLayers(table)
  const from = (id: string, file = "index.ts", test = false) => ({ id, file, test })

  it.each([
    ["ring", "base"],
    ["machine", "disk"],
    ["bench", "machine"],
  ])("lets %s import %s", (id, to) => expect(refusal(rules, from(id), to)).toBeUndefined())

  it.each([
    ["ring", "machine"],
    ["base", "ring"],
    ["disk", "net"],
    ["disk", "ring"],
    ["machine", "testkit"],
    ["testkit", "ring"],
  ])("does not let %s import %s", (id, to) => expect(refusal(rules, from(id), to)).toMatch("may not import"))

  it("confines an import to the folder that the table names", () => {
    expect(refusal(rules, from("disk", "backends/file.ts"), "addon")).toBeUndefined()
    expect(refusal(rules, from("disk", "device.ts"), "addon")).toMatch("only in src/backends/")
  })

  it("confines one to several folders, too", () => {
    const rules = parseLayers(
      table.replaceAll("`backends/`", "`backends/` and `threads/`, `ring` in `threads/`"),
    )
    expect(refusal(rules, from("disk", "backends/file.ts"), "addon")).toBeUndefined()
    expect(refusal(rules, from("disk", "threads/one.ts"), "addon")).toBeUndefined()
    expect(refusal(rules, from("disk", "device.ts"), "addon")).toMatch("src/backends/ and src/threads/")
    expect(refusal(rules, from("disk", "threads/one.ts"), "ring")).toBeUndefined()
    expect(refusal(rules, from("disk", "backends/file.ts"), "ring")).toMatch("only in src/threads/")
  })

  it("lets tests import lower layers and the testkit, not upper ones", () => {
    expect(refusal(rules, from("disk", "a.test.ts", true), "ring")).toBeUndefined()
    expect(refusal(rules, from("disk", "a.test.ts", true), "testkit")).toBeUndefined()
    expect(refusal(rules, from("disk", "a.test.ts", true), "machine")).toMatch("may not import")
    expect(refusal(rules, from("base", "a.test.ts", true), "testkit")).toMatch("may not import")
  })

  it("refuses a table that points up", () => {
    const bad = parseLayers(table.replace("| `base`                             |", "| `machine` |"))
    expect(refusal(bad, from("ring"), "machine")).toMatch("upwards")
  })
})

describe("the layers check", () => {
  it("passes when imports point down", () => {
    const root = monorepo({
      "packages/ring/src/index.ts": 'import type { A } from "@x/base"\nexport type B = A\n',
      "packages/machine/src/index.ts": 'export * from "@x/ring"\nconst d = await import("@x/disk")\n',
    })
    expect(check(root).findings).toEqual([])
  })

  it.each([
    ["a static import", 'import { m } from "@x/machine"'],
    ["a type import", 'import type { m } from "@x/machine"'],
    ["a re-export", 'export * from "@x/machine/sub"'],
    ["a dynamic import", 'const m = await import("@x/machine")'],
    ["an import type", 'export type M = import("@x/machine").M'],
  ])("finds %s that points up", (_, line) => {
    const root = monorepo({ "packages/ring/src/a.ts": `// one\n${line}\n` })
    expect(check(root).findings).toEqual([
      "packages/ring/src/a.ts:2: ring (layer 1) may not import machine (layer 3)",
    ])
  })

  it("ignores imports in comments and strings", () => {
    const root = monorepo({
      "packages/ring/src/a.ts": '// import "@x/machine"\nconst s = "import \'@x/machine\'"\n',
    })
    expect(check(root).findings).toEqual([])
  })

  it("finds upward imports of tests", () => {
    const root = monorepo({ "packages/ring/test/a.test.ts": 'import "@x/machine"\n' })
    expect(check(root).findings).toHaveLength(1)
  })

  it("finds relative imports that leave the package", () => {
    const root = monorepo({ "packages/ring/src/a.ts": 'import "../../base/src/index.js"\n' })
    expect(check(root).findings).toEqual([expect.stringContaining("leaves the package")])
  })

  it("finds a package without a layer and a layer without its package", () => {
    const root = monorepo({ "packages/extra/package.json": { name: "@x/extra" } })
    expect(check(root).findings).toEqual(["docs/architecture.md: packages/extra is in no layer"])
    const other = tree({ "docs/architecture.md": table, "packages/base/package.json": { name: "@x/base" } })
    expect(check(other).findings).toContain("docs/architecture.md: no package ring")
  })
})
