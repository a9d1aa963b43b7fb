import { describe, expect, it } from "vitest"
import { check } from "../check-links.mjs"
import { tree } from "./fixture.js"

describe("the links check", () => {
  it("passes when links resolve, and ignores code and the web", () => {
    const root = tree({
      "README.md":
        "[a](docs/a.md#what-it-is-for) [b](docs/) [c](https://example.org/x) `[d](nowhere)` [e](#top)\n# Top",
      "docs/a.md": "## What it is: for\n```\n[x](nowhere.md)\n```\n![i](i.svg)\n",
      "docs/i.svg": "",
    })
    expect(check(root).findings).toEqual([])
  })

  it.each([
    ["a file that is not there", "\n[x](docs/missing.md)", "README.md:2: docs/missing.md does not exist"],
    [
      "a heading that is not there",
      "[x](docs/a.md#missing)",
      "README.md:1: no heading for docs/a.md#missing",
    ],
    ["a reference that leads nowhere", "[x]: missing.md", "README.md:1: missing.md does not exist"],
    ["a path from the file system's root", "[x](/etc/passwd)", "README.md:1: /etc/passwd is not relative"],
  ])("finds %s", (_, text, finding) => {
    const root = tree({ "README.md": `${text}\n[a](docs/a.md)`, "docs/a.md": "# A\n```\n# missing\n```\n" })
    expect(check(root).findings).toEqual([finding])
  })

  it("finds pages that nothing links to, and decisions with one number", () => {
    const root = tree({
      "README.md": "[a](docs/decisions/0001-a.md) [b](docs/decisions/0001-b.md)",
      "docs/decisions/0001-a.md": "# a",
      "docs/decisions/0001-b.md": "# b",
      "docs/alone.md": "[x](#x)\n# x",
    })
    expect(check(root).findings).toEqual([
      "docs/alone.md: no page links to it",
      "docs/decisions/0001-b.md: another decision has that number",
    ])
  })

  it("looks into the packages", () => {
    const root = tree({
      "packages/a/package.json": { name: "@x/a" },
      "packages/a/README.md": "[x](../b/README.md)",
    })
    expect(check(root).findings).toEqual(["packages/a/README.md:1: ../b/README.md does not exist"])
  })
})
