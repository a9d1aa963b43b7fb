// The checks that hand over to a tool: each must turn the tool's refusal into findings, and its silence into none.
import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { check as docs } from "../check-docs.mjs"
import { check as format } from "../check-format.mjs"
import { repository, run, toolFindings } from "../check-lib.mjs"
import { check as lint } from "../check-lint.mjs"
import { check as pack } from "../check-pack.mjs"
import { check as types } from "../check-types.mjs"
import { check as unused } from "../check-unused.mjs"
import { manifest, tree } from "./fixture.js"

const biome = { ...JSON.parse(readFileSync(join(repository, "biome.json"), "utf8")), vcs: { enabled: false } }

describe("lint", () => {
  it("passes clean code", async () => {
    expect((await lint(tree({ "biome.json": biome, "a.ts": "export const a = 1\n" }))).findings).toEqual([])
  })
  it("finds an any", async () => {
    const { findings } = await lint(tree({ "biome.json": biome, "a.ts": "export const a: any = 1\n" }))
    expect(findings.join("\n")).toMatch("noExplicitAny")
  })
})

describe("format", () => {
  const configured = { "biome.json": JSON.stringify(biome, null, 2) }
  it("finds unformatted code", async () => {
    const { findings } = await format(tree({ ...configured, "a.ts": "export const a = 'x';\n" }))
    expect(findings.join("\n")).toMatch("a.ts")
  })
})

describe("types", () => {
  const config = { files: ["a.ts"], compilerOptions: { strict: true, noEmit: true, types: [] } }
  it("passes code that compiles", async () => {
    expect(
      (await types(tree({ "tsconfig.json": config, "a.ts": "export const a: number = 1\n" }))).findings,
    ).toEqual([])
  })
  it("finds an error in sources and in tests", async () => {
    const wrong = "export const a: string = 1\n"
    expect((await types(tree({ "tsconfig.json": config, "a.ts": wrong }))).findings[0]).toMatch("a.ts(1,14)")
    const inTests = {
      "tsconfig.json": { ...config, files: ["ok.ts"] },
      "ok.ts": "",
      "tsconfig.test.json": config,
      "a.ts": wrong,
    }
    expect((await types(tree(inTests))).findings[0]).toMatch("a.ts(1,14)")
  })
})

describe("unused", () => {
  it("finds an export that nobody imports and a dependency that nobody uses", async () => {
    const root = tree({
      "package.json": {
        name: "root",
        private: true,
        type: "module",
        main: "a.js",
        dependencies: { lib: "1.0.0" },
      },
      "a.js": 'import { used } from "./b.js"\nused()\n',
      "b.js": "export const used = () => {}\nexport const idle = 1\n",
    })
    const { findings } = await unused(root)
    expect(findings.join("\n")).toMatch("idle")
    expect(findings.join("\n")).toMatch("lib")
  })
})

describe("docs", () => {
  it("finds a link to nothing", async () => {
    const root = tree({
      "typedoc.json": { entryPoints: ["a.ts"], readme: "none", disableGit: true, disableSources: true },
      "tsconfig.json": { files: ["a.ts"], compilerOptions: { types: [], strict: true } },
      "a.ts": "/** See {@link Nothing}. */\nexport const a = 1\n",
    })
    expect((await docs(root)).findings.join("\n")).toMatch("Nothing")
  })
})

describe("pack", () => {
  const files = (extra: Record<string, unknown>) => ({
    "packages/a/package.json": manifest("@x/a"),
    "packages/a/README.md": "# a",
    "packages/a/LICENSE": "licence",
    "packages/a/dist/index.js": "export const a = 1\n",
    "packages/a/dist/index.d.ts": "export declare const a: number\n",
    ...extra,
  })

  it("passes a complete package", async () => {
    expect((await pack(tree(files({})))).findings).toEqual([])
  })
  it("finds missing and stray files", async () => {
    const stray = {
      "packages/a/dist/x.test.js": "",
      "packages/a/dist/tsconfig.json": "{}",
      "packages/a/LICENSE": "",
    }
    const wanted = { "packages/a/package.json": manifest("@x/a", { files: ["dist", "prebuilds"] }) }
    const root = tree(files({ ...stray, ...wanted }))
    rmSync(join(root, "packages/a/LICENSE"))
    rmSync(join(root, "packages/a/dist/index.js"))
    const text = (await pack(root)).findings.join("\n")
    expect(text).toMatch("packages/a: the tarball has dist/x.test.js")
    expect(text).toMatch("packages/a: the tarball has dist/tsconfig.json")
    expect(text).toMatch("packages/a: the tarball lacks LICENSE")
    expect(text).toMatch('packages/a: "files" names prebuilds, of which the tarball has nothing')
    expect(text).toMatch("packages/a: the tarball lacks dist/index.js")
    expect(text).toMatch('pkg.exports["."].default is ./dist/index.js but the file does not exist') // publint
  })

  it("finds a subpath without types", async () => {
    const exports = {
      ".": { types: "./dist/index.d.ts", default: "./dist/index.js" },
      "./bare": "./dist/bare.js",
    }
    const bare = {
      "packages/a/package.json": manifest("@x/a", { exports }),
      "packages/a/dist/bare.js": "export {}\n",
    }
    expect((await pack(tree(files(bare)))).findings.join("\n")).toMatch("No types") // Are The Types Wrong
  })
})

describe("run", () => {
  it("ends a tool that takes too long, and reports one that does not exist", async () => {
    const slow = await run("node", ["-e", "setInterval(() => {}, 1000)"], { cwd: repository, timeout: 200 })
    expect(slow.status).not.toBe(0)
    expect(slow.output).toMatch("time limit")
    expect((await run("no-such-tool", [], { cwd: repository })).status).toBe(127)
  })
  it("never calls a failure silent", () => {
    expect(toolFindings({ status: 3, output: "\n" }, "x")).toEqual([
      "x failed with status 3 and said nothing",
    ])
  })
})
