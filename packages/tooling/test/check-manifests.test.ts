import { describe, expect, it } from "vitest"
import { check } from "../check-manifests.mjs"
import { manifest, tree } from "./fixture.js"

/** Two packages with nothing wrong, `b` importing `a`; with some files replaced, or left out where undefined. */
function monorepo(changes: Record<string, unknown> = {}): string {
  const files: Record<string, unknown> = {
    LICENSE: "the licence",
    "tsconfig.json": { files: [], references: [{ path: "packages/a" }, { path: "./packages/b" }] },
    "packages/a/package.json": manifest("@x/a"),
    "packages/a/README.md": "# a",
    "packages/a/LICENSE": "the licence",
    "packages/a/tsconfig.json": { include: ["src"] },
    "packages/a/src/index.ts": "export {}",
    "packages/b/package.json": manifest("@x/b", { dependencies: { "@x/a": "1.0.0" } }),
    "packages/b/README.md": "# b",
    "packages/b/LICENSE": "the licence",
    "packages/b/tsconfig.json": { references: [{ path: "../a" }] },
    "packages/b/src/index.ts": 'export * from "@x/a"',
    ...changes,
  }
  return tree(Object.fromEntries(Object.entries(files).filter(([, content]) => content !== undefined)))
}

const b = (extra: object) => manifest("@x/b", { dependencies: { "@x/a": "1.0.0" }, ...extra })

describe("the manifests check", () => {
  it("passes when all agree", () => expect(check(monorepo()).findings).toEqual([]))

  it.each<[string, Record<string, unknown>, string]>([
    ["a missing README", { "packages/b/README.md": undefined }, "packages/b: README.md is missing"],
    ["a missing licence", { "packages/b/LICENSE": undefined }, "packages/b: LICENSE is missing"],
    ["another licence", { "packages/b/LICENSE": "other" }, "packages/b/LICENSE: differs from the root's"],
    ["CommonJS", { "packages/b/package.json": b({ type: "commonjs" }) }, '"type" must be "module"'],
    [
      "an install script",
      { "packages/b/package.json": b({ scripts: { postinstall: "x" } }) },
      '"postinstall"',
    ],
    [
      "exports without types",
      { "packages/b/package.json": b({ exports: { ".": "./x.js" } }) },
      '"types" first',
    ],
    ["no engines", { "packages/b/package.json": b({ engines: undefined }) }, '"engines.node"'],
    [
      "a range",
      { "packages/b/package.json": b({ devDependencies: { lib: "^1.0.0" } }) },
      'pin lib: "^1.0.0"',
    ],
    [
      "another version of a",
      { "packages/a/package.json": manifest("@x/a", { version: "2.0.0" }) },
      '@x/a must be "2.0.0"',
    ],
    [
      "an undeclared import",
      { "packages/b/package.json": manifest("@x/b") },
      "src/ imports @x/a, which is not in dependencies",
    ],
    [
      "a dependency declared for tests only",
      { "packages/b/package.json": manifest("@x/b", { devDependencies: { "@x/a": "1.0.0" } }) },
      "src/ imports @x/a, which is not in dependencies",
    ],
    ["an unused dependency", { "packages/b/src/index.ts": "export {}" }, "@x/a is never imported"],
    [
      "a dependency of tests only",
      { "packages/b/src/index.ts": "export {}", "packages/b/test/b.test.ts": 'import "@x/a"' },
      "it belongs in devDependencies",
    ],
    [
      "a missing reference",
      { "packages/b/tsconfig.json": {} },
      "packages/b/tsconfig.json: no reference to ../a",
    ],
    [
      "a needless reference",
      { "packages/a/tsconfig.json": { references: [{ path: "../b" }] } },
      "packages/a/tsconfig.json: needless reference to ../b",
    ],
    [
      "a package not built",
      { "tsconfig.json": { references: [{ path: "packages/a" }] } },
      "tsconfig.json: no reference to packages/b",
    ],
    [
      "an old lock file",
      { "package-lock.json": { packages: { "packages/a": {}, "packages/b": {} } } },
      "package-lock.json: out of date for packages/b",
    ],
  ])("finds %s", (_, changes, finding) => {
    expect(check(monorepo(changes)).findings).toContainEqual(expect.stringContaining(finding))
  })

  it("asks less of private packages", () => {
    const root = tree({
      LICENSE: "x",
      "tsconfig.json": {},
      "packages/p/package.json": {
        name: "@x/p",
        private: true,
        type: "module",
        license: "Apache-2.0",
        description: "P",
      },
      "packages/p/README.md": "# p",
    })
    expect(check(root).findings).toEqual([])
  })
})
