import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { check } from "../check-examples.mjs"
import { repository } from "../check-lib.mjs"
import { linkModules, tree } from "./fixture.js"

const base = readFileSync(join(repository, "tsconfig.base.json"), "utf8")
const root = { name: "root", private: true, type: "module", workspaces: ["packages/*"] }

/** A monorepo whose README has `text`; its node_modules are the project's. */
function withReadme(text: string): string {
  const path = tree({ "package.json": root, "tsconfig.base.json": base, "README.md": text })
  linkModules(path)
  return path
}

describe("the examples check", () => {
  it("passes when every ts block compiles, each on its own, and leaves other blocks alone", () => {
    const block =
      '```ts\nimport { readFileSync } from "node:fs"\nconst x: string = readFileSync("f", "utf8")\n```\n'
    const result = check(
      withReadme(`${block}\n${block}\n\`\`\`text\nnot code\n\`\`\`\n\`\`\`js\nalso not(\n\`\`\`\n`),
    )
    expect(result).toEqual({ findings: [], summary: "2 examples compile" })
  })

  it("finds a wrong type, with the line of the Markdown file", () => {
    const { findings } = check(withReadme("# x\n\n```ts\nconst a = 1\nconst b: string = a\n```\n"))
    expect(findings).toEqual(["README.md:5: Type 'number' is not assignable to type 'string'."])
  })

  it("finds an import that does not exist, and a syntax error", () => {
    expect(check(withReadme('```ts\nimport { x } from "@virtkit/nothing"\n```\n')).findings).toEqual([
      expect.stringContaining("README.md:2: Cannot find module '@virtkit/nothing'"),
    ])
    expect(check(withReadme("```ts\nconst = 1\n```\n")).findings).not.toEqual([])
  })

  it("finds a published package without an example", () => {
    const path = tree({
      "package.json": root,
      "tsconfig.base.json": base,
      "packages/a/package.json": { name: "@x/a" },
      "packages/a/README.md": "# a",
      "packages/tool/package.json": { name: "tool", bin: { tool: "x.js" } },
      "packages/tool/README.md": "# tool",
    })
    expect(check(path).findings).toEqual(["packages/a/README.md: no ```ts example"])
  })
})
