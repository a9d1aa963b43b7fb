// @ts-check
// Node.js cannot run a source file as a worker thread. In tests `new URL("./x-worker.js", import.meta.url)` in a source is
// therefore a bundle of x-worker.ts beside it and of all sources that it imports: tests run on sources, also in other threads.
import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { rolldown } from "rolldown"

const PACKAGES = fileURLToPath(new URL("..", import.meta.url))
const OUTPUT = join(PACKAGES, "../node_modules/.cache/vitest-workers")
const REFERENCE = /new URL\("\.\/([\w-]+-worker)\.js", import\.meta\.url\)/g

/**
 * Makes one file of a source and all sources that it imports.
 * @param {string} source
 */
async function bundle(source) {
  const file = join(OUTPUT, `${source.slice(PACKAGES.length).replaceAll("/", "-")}.mjs`)
  const build = await rolldown({
    input: source,
    platform: "node",
    logLevel: "warn",
    plugins: [
      {
        name: "sources",
        resolveId(id) {
          if (!id.startsWith("@virtkit/")) return null
          const [, name, path = "index"] = id.split("/")
          return name === "native" ? { id, external: true } : join(PACKAGES, `${name}/src/${path}.ts`)
        },
      },
    ],
  })
  await build.write({ file, format: "esm", codeSplitting: false })
  await build.close()
  return pathToFileURL(file)
}

/** A plugin for vitest. */
export function workersFromSources() {
  return {
    name: "workers-from-sources",
    enforce: /** @type {const} */ ("pre"),
    /**
     * @param {string} code
     * @param {string} id
     */
    async transform(code, id) {
      if (!id.startsWith(PACKAGES)) return null
      let changed = code
      for (const [text, name] of code.matchAll(REFERENCE)) {
        const source = join(dirname(id), `${name}.ts`)
        if (!existsSync(source)) continue
        changed = changed.replace(text, `new URL(${JSON.stringify((await bundle(source)).href)})`)
      }
      return changed === code ? null : { code: changed, map: null }
    },
  }
}
