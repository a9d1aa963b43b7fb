// npm run demo: boots Debian's cloud kernel under `virtkit run`, has the guest check itself, then checks the disk from
// outside. Exit status 0 only if all of that is in order.
import { spawn } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { findKernel } from "@virtkit/lab"
import { checkDisk, makeDisk } from "./disk.js"
import { CHECKSUM, guestInitrd, PASSED } from "./guest.js"
import { describeReport } from "./report.js"

const say = (line: string) => process.stdout.write(`demo: ${line}\n`)

async function main(): Promise<boolean> {
  const directory = await mkdtemp(join(tmpdir(), "virtkit-demo-"))
  try {
    const kernel = await findKernel({ log: say })
    const initrd = await guestInitrd(kernel)
    const disk = await makeDisk(directory)
    const interactive = Boolean(process.stdin.isTTY && process.stdout.isTTY)
    const report = join(directory, "report.json")
    const words = ["run", `--kernel=${kernel.vmlinuz}`, `--initrd=${initrd}`, `--disk=${disk}`]
    words.push(
      "--memory=512M",
      "--cpus=2",
      "--net=passt",
      `--report=${report}`,
      `--cmdline=quiet${interactive ? " demo=shell" : ""}`,
    )
    if (!interactive) words.push("--timeout=300")
    say(`virtkit ${words.join(" ")}`)
    const { status, output } = await runVirtkit(words, interactive)
    if (status !== 0) {
      say(`FAILED: virtkit ended with status ${status}`)
      return false
    }
    process.stdout.write(`${await describeReport(report)}\n`)
    const checksum = new RegExp(`${CHECKSUM}([0-9a-f]{64})`).exec(output)?.[1]
    const wrong = output.includes(PASSED)
      ? await checkDisk(disk, checksum)
      : "the guest's checks did not pass"
    say(
      wrong === undefined
        ? "the disk holds what the guest wrote, and e2fsck finds it clean"
        : `FAILED: ${wrong}`,
    )
    return wrong === undefined
  } finally {
    await rm(directory, { recursive: true })
  }
}

/** Its output goes to ours as it comes, and is kept for the checks. */
function runVirtkit(
  words: readonly string[],
  interactive: boolean,
): Promise<{ status: number | null; output: string }> {
  const manifest = fileURLToPath(import.meta.resolve("virtkit/package.json"))
  const program = join(dirname(manifest), "dist/bundle/bin.js")
  const stdin = interactive ? "inherit" : "ignore"
  const child = spawn(process.execPath, [program, ...words], { stdio: [stdin, "pipe", "inherit"] })
  let output = ""
  // It ends the guest, then it ends itself, and what we made is removed.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal))
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString()
    process.stdout.write(chunk)
  })
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (status) => resolve({ status, output }))
  })
}

process.exitCode = (await main()) ? 0 : 1
