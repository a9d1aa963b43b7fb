import { readFile } from "node:fs/promises"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { ConfigError } from "@virtkit/interface"

/** A file or directory of the host that the lab has from its start: a copy, its changes stay in the lab. */
export interface Share {
  source: string
  /** Absolute path in the lab, outside of /usr. */
  target: string
  /** Says for each path below `source` whether it goes along. */
  filter?: (path: string) => boolean
}

/** Of a package, what runs: no sources, maps, types, tests and other packages. */
function isRuntime(path: string): boolean {
  const name = path.split("/").pop() ?? ""
  if (["node_modules", "test", "src", "CMakeFiles", "coverage", "tsconfig.json"].includes(name)) return false
  if (!/\.[a-z]+$/.test(name)) return true // a directory, mostly
  return (
    /\.(js|mjs|cjs|json|node|wasm)$/.test(name) ||
    !/\.(ts|map|tsbuildinfo|cc|h|o|md|ninja|cmake|txt|log)$/.test(name)
  )
}

interface Manifest {
  name: string
  dependencies?: Record<string, string>
}

/** Directory of an installed package, by its name. */
function locate(name: string, from: string): string {
  const require = createRequire(join(from, "package.json"))
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch {}
  for (const path of require.resolve.paths(name) ?? []) {
    try {
      return dirname(require.resolve(join(path, name, "package.json")))
    } catch {}
  }
  throw new ConfigError(`package ${name}, which ${from} needs, is not installed`)
}

/**
 * Shares that make a package and all that it depends on importable in the lab, from whatever lies below `target`:
 * it goes to `target`/node_modules/NAME.
 *
 * @param directory the package's directory on the host
 * @throws ConfigError when a dependency is not installed
 */
export async function packageShares(directory: string, target = "/virtkit"): Promise<Share[]> {
  const shares = new Map<string, Share>()
  const visit = async (source: string): Promise<void> => {
    const manifest = JSON.parse(await readFile(join(source, "package.json"), "utf8")) as Manifest
    if (shares.has(manifest.name)) return
    shares.set(manifest.name, {
      source,
      target: `${target}/node_modules/${manifest.name}`,
      filter: isRuntime,
    })
    for (const name of Object.keys(manifest.dependencies ?? {})) await visit(locate(name, source))
  }
  await visit(directory)
  return [...shares.values()]
}
