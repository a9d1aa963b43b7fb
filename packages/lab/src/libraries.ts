import { open, realpath } from "node:fs/promises"
import { dirname } from "node:path"
import { run } from "./tools.js"

/** Directories in which the loader looks by itself, on Debian. */
const STANDARD = /^\/(usr\/)?lib(64|\/x86_64-linux-gnu)?$/

async function isElf(path: string): Promise<boolean> {
  const file = await open(path)
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0)
    return bytesRead === 4 && buffer.readUInt32BE(0) === 0x7f454c46
  } finally {
    await file.close()
  }
}

/** A file, and where it goes. */
export interface Placement {
  source: string
  /** Absolute, in the image. */
  target: string
}

/**
 * The shared libraries and the loader that a program needs. A library from an unusual directory goes to /usr/lib, where
 * the loader finds it. Nothing for static programs and scripts.
 *
 * It asks `ldd`, which starts the loader: only for programs that one would run.
 */
export async function sharedLibraries(program: string): Promise<Placement[]> {
  if (!(await isElf(program))) return []
  const output = await run("ldd", [program]).catch(() => Buffer.from("")) // "not a dynamic executable" is a failure to ldd
  const found: Placement[] = []
  for (const line of output.toString().split("\n")) {
    const match = /^\s*(?:(\S+) => )?(\/\S+) \(0x/.exec(line)
    if (!match?.[2]) continue
    const name = match[1]?.startsWith("/") || !match[1] ? match[2] : match[1]
    const path = name.startsWith("/") ? name : `${dirname(match[2])}/${name}`
    const target = STANDARD.test(dirname(path)) ? path : `/usr/lib/${path.split("/").pop()}`
    found.push({ source: await realpath(match[2]), target })
  }
  return found
}

/** The same path when /bin, /lib, /lib64 and /sbin are links into /usr, as on today's distributions. */
export function mergedUsr(path: string): string {
  return /^\/(bin|sbin|lib|lib64)\//.test(path) ? `/usr${path}` : path
}
