// Makes a fresh clone ready: node packages/tooling/bootstrap.mjs <demo|test|build|bench|fuzz|fuzz-native>
//
// Finds what is missing, says on stderr what it installs and why, installs it; is silent when nothing is missing. Needs
// Node.js alone. Exit status 2: only the user can go on, and the message says how; 1: something failed.
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { javascript, nativeAddon } from "./bootstrap-build.mjs"
import { debianPackages } from "./bootstrap-debian.mjs"
import { environment, say, UserMustAct } from "./bootstrap-lib.mjs"
import { nodeModules } from "./bootstrap-npm.mjs"

const TARGETS = ["demo", "test", "build", "bench", "fuzz", "fuzz-native"]
/** Those that start a guest. */
const GUESTS = ["demo", "test", "bench"]
const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new UserMustAct(`Node.js 20.19 or newer is needed, this is ${process.versions.node}`)
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new UserMustAct(`virtkit needs Linux on x86-64, this is ${process.platform} on ${process.arch}`)
  }
}

/** The kernel that guests and the lab boot; the lab package knows where from. */
async function guestKernel() {
  process.env.HOME = environment().HOME
  const { findKernel } = await import(pathToFileURL(join(root, "packages/lab/dist/index.js")).href)
  await findKernel({ log: say }).catch((/** @type {Error & { code?: string }} */ error) => {
    throw error.code === "ERR_VIRTKIT_CONFIG" ? new UserMustAct(error.message) : error
  })
}

/** @param {string | undefined} target */
async function bootstrap(target) {
  if (!target || !TARGETS.includes(target))
    throw new UserMustAct(`usage: bootstrap.mjs <${TARGETS.join("|")}>`)
  checkNode()
  await debianPackages(target, root)
  await nodeModules(root)
  await nativeAddon(root)
  await javascript(root)
  if (GUESTS.includes(target)) await guestKernel()
}

await bootstrap(process.argv[2]).catch((error) => {
  say(error.message)
  process.exitCode = error instanceof UserMustAct ? 2 : 1
})
