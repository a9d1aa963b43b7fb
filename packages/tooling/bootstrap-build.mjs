// The native addon and the packages' JavaScript, built when their sources have changed.
import { existsSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { hashFiles, readStamp, run, say, writeStamp } from "./bootstrap-lib.mjs"

/**
 * Builds native/build when its sources are not those of the last build here. By contents: a checkout's times say nothing.
 *
 * @param {string} root
 */
export async function nativeAddon(root) {
  const native = join(root, "native")
  const stampFile = join(native, "build/.bootstrap")
  const stamp = `${root} ${process.version} ${hashFiles(root, ["native/src", "native/CMakeLists.txt", "native/package.json"])}`
  const addon = join(native, "build/Release/virtkit_native.node")
  if (existsSync(addon) && readStamp(stampFile) === stamp) return
  say("building the native addon (native/build)")
  const cmake = join(root, "node_modules/cmake-js/bin/cmake-js")
  const build = () =>
    run(process.execPath, [cmake, "build", "--out", "build", "-d", native, "--loglevel", "error"], native)
  // A build directory that was moved or made by another generator cannot be reused: only a second failure counts.
  const reuse = existsSync(join(native, "build/CMakeCache.txt"))
  await build().catch(async (error) => {
    if (!reuse) throw error
    rmSync(join(native, "build"), { recursive: true, force: true })
    await build()
  })
  writeStamp(stampFile, stamp)
}

/**
 * The packages that TypeScript builds.
 *
 * @param {string} root
 */
function typescriptPackages(root) {
  return readdirSync(join(root, "packages")).filter((name) =>
    existsSync(join(root, "packages", name, "tsconfig.json")),
  )
}

/** @param {string} root */
export async function javascript(root) {
  const packages = typescriptPackages(root)
  const stampFile = join(root, "node_modules/.cache/virtkit-bootstrap")
  const sources = packages.flatMap((name) =>
    ["src", "tsconfig.json"].map((path) => join("packages", name, path)),
  )
  const stamp = hashFiles(root, [
    "tsconfig.json",
    "tsconfig.base.json",
    "node_modules/typescript/package.json",
    "native/index.d.ts",
    "native/types",
    "packages/tooling/bundle-cli.mjs",
    ...sources,
  ])
  const built = packages.every((name) => existsSync(join(root, "packages", name, "dist/index.js")))
  const bundled = existsSync(join(root, "packages/cli/dist/bundle/bin.js"))
  if (built && bundled && readStamp(stampFile) === stamp) return
  say("building the packages (tsc, rolldown)")
  await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-b"], root)
  await run(process.execPath, [join(root, "packages/tooling/bundle-cli.mjs")], root)
  writeStamp(stampFile, stamp)
}
