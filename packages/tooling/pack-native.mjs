// @ts-check
// prepack of @virtkit/native: puts the addon that `npm run build` made where the published package has it, since users
// do not compile it. In a release each architecture's binary is put there before packing; only the own one is replaced.
import { copyFileSync, existsSync, mkdirSync } from "node:fs"
import { fileURLToPath } from "node:url"

const native = fileURLToPath(new URL("../../native/", import.meta.url))
const built = `${native}build/Release/virtkit_native.node`
if (!existsSync(built)) {
  console.error('native/build/Release/virtkit_native.node is missing: run "npm run build" first')
  process.exit(1)
}
const folder = `${native}prebuilds/linux-${process.arch}`
mkdirSync(folder, { recursive: true })
copyFileSync(built, `${folder}/virtkit_native.node`)
