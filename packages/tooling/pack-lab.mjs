// @ts-check
// prepack and postpack of @virtkit/lab: compiles the program that is the lab's process 1 to where the published package
// has it, and takes it away again, because in a checkout it is compiled from its source whenever that changes.
import { spawnSync } from "node:child_process"
import { mkdirSync, rmSync } from "node:fs"
import { fileURLToPath } from "node:url"

const lab = fileURLToPath(new URL("../lab/", import.meta.url))
if (process.env.npm_lifecycle_event === "postpack")
  rmSync(`${lab}prebuilds`, { recursive: true, force: true })
else {
  mkdirSync(`${lab}prebuilds/linux-x64`, { recursive: true })
  const args = [
    "-O2",
    "-Wall",
    "-static",
    "-s",
    "-o",
    `${lab}prebuilds/linux-x64/lab-agent`,
    `${lab}agent/agent.c`,
  ]
  process.exitCode = spawnSync("cc", args, { stdio: "inherit" }).status ?? 1
}
