import { execFileSync } from "node:child_process"
import { describe, expect, it } from "vitest"
import { check } from "../check-hygiene.mjs"
import { tree } from "./fixture.js"

function repository(files: Record<string, unknown>): string {
  const root = tree(files)
  execFileSync("git", ["init", "-q", root])
  return root
}

describe("the hygiene check", () => {
  it("passes for a clean tree, and does not look at ignored files", async () => {
    const root = repository({
      ".gitignore": "out/\n",
      "a.ts": 'const x = join(home, "work/x") // ~/work/x, https://example.org/home/x',
      "out/b.txt": "/home/someone/x",
    })
    expect((await check(root)).findings).toEqual([])
  })

  it.each([
    ["a home directory", "a.ts", '\nconst x = "/home/someone/virtkit"', "a.ts:2: a path of one machine"],
    [
      "a registry",
      ".npmrc",
      "registry=https://registry.npmjs.org/",
      ".npmrc:1: the host of a package registry",
    ],
    [
      "a resolved address",
      "package-lock.json",
      '"resolved": "https://mirror.example/x.tgz"',
      "a resolved address",
    ],
    ["a conflict", "a.ts", "<<<<<<< HEAD\n", "a.ts:1: a merge conflict marker"],
    ["a large file", "a.bin", "x".repeat(1024 * 1024 + 1), "a.bin: 1048577 bytes"],
  ])("finds %s", async (_, name, content, finding) => {
    expect((await check(repository({ [name]: content }))).findings).toEqual([
      expect.stringContaining(finding),
    ])
  })

  it("says so when it is not in a repository", async () => {
    expect((await check(tree({}))).findings).toEqual([expect.stringContaining("git ls-files")])
  })
})
