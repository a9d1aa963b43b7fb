import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterEach } from "vitest"
import { repository } from "../check-lib.mjs"

const made: string[] = []

afterEach(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true })
})

/** A small monorepo on disk, gone after the test. Values that are not strings are written as JSON. */
export function tree(files: Record<string, unknown>): string {
  const root = mkdtempSync(join(tmpdir(), "virtkit-check-"))
  made.push(root)
  const all: Record<string, unknown> = {
    "package.json": { name: "root", private: true, workspaces: ["packages/*"] },
    ...files,
  }
  for (const [name, content] of Object.entries(all)) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    writeFileSync(join(root, name), typeof content === "string" ? content : JSON.stringify(content, null, 2))
  }
  return root
}

/** Makes the project's own node_modules visible to tools that run in `root`. */
export function linkModules(root: string): void {
  symlinkSync(join(repository, "node_modules"), join(root, "node_modules"))
}

/** A published package's manifest with nothing wrong. */
export function manifest(name: string, extra: object = {}): object {
  return {
    name,
    version: "1.0.0",
    description: "A package",
    license: "Apache-2.0",
    type: "module",
    sideEffects: false,
    engines: { node: ">=20.19" },
    exports: {
      ".": { types: "./dist/index.d.ts", default: "./dist/index.js" },
      "./package.json": "./package.json",
    },
    files: ["dist"],
    publishConfig: { access: "public" },
    ...extra,
  }
}
