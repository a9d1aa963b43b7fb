import { spawn } from "node:child_process"
import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { ConfigError, VirtkitError } from "@virtkit/interface"

/** The Debian package of each program that the lab calls. */
const PACKAGES: Readonly<Record<string, string>> = {
  "qemu-system-x86_64": "qemu-system-x86",
  busybox: "busybox-static",
  mke2fs: "e2fsprogs",
  "apt-get": "apt",
  "apt-cache": "apt",
  dpkg: "dpkg",
  cc: "gcc libc6-dev",
  ldd: "libc-bin",
  xz: "xz-utils",
  zstd: "zstd",
  gzip: "gzip",
}

/** Path of a program, given by name or path, or undefined. Looks in the sbin directories too: an ordinary user's PATH lacks them. */
export function findTool(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"]
  for (const directory of name.startsWith("/") ? ["/"] : directories) {
    if (!directory.startsWith("/")) continue
    const path = join(directory, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {}
  }
  return undefined
}

/** Path of a program. @throws ConfigError that says which Debian package has it */
export function needTool(name: string): string {
  const path = findTool(name)
  if (path) return path
  throw new ConfigError(`${name} not found; install it with: apt-get install ${PACKAGES[name] ?? name}`)
}

/** How to run a program with `run`. */
export interface RunOptions {
  cwd?: string
  input?: Uint8Array
  env?: NodeJS.ProcessEnv
}

/** Runs a program and gives its stdout. @throws VirtkitError with the end of its stderr when it fails */
export async function run(name: string, args: readonly string[], options: RunOptions = {}): Promise<Buffer> {
  const child = spawn(needTool(name), args, {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: "C", ...options.env },
    stdio: ["pipe", "pipe", "pipe"],
  })
  const output: Buffer[] = []
  let errors = ""
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk))
  child.stderr.on("data", (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-2000)
  })
  child.stdin.on("error", () => {}) // EPIPE: the exit status says it better
  child.stdin.end(options.input)
  const status = await new Promise<number | string>((resolve, reject) => {
    child.once("error", reject)
    child.once("close", (code, signal) => resolve(code ?? signal ?? "unknown"))
  })
  if (status === 0) return Buffer.concat(output)
  throw new VirtkitError(
    "ERR_VIRTKIT_TOOL",
    `${name} ${args.join(" ")} failed (${status}): ${errors.trim().split("\n").slice(-3).join("; ")}`,
  )
}
