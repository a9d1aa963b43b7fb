import { createHash } from "node:crypto"
import {
  chmod,
  mkdir,
  mkdtemp,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises"
import { dirname, join } from "node:path"
import { lookUp, prune } from "./cache.js"

/** Changes with what this file does to QEMU. */
const LAYOUT = 2
/** Copies that are kept; the one used least recently goes first. */
const KEEP = 2

/** A store that QEMU should not make, and an instruction of the same length that does nothing. */
interface Mend {
  /** Begins with the store, as GCC for x86-64 translates it in Debian's QEMU 7.2 and 10.0; the rest is what follows it. */
  readonly place: RegExp
  readonly nop: Buffer
}

const MENDS: readonly Mend[] = [
  {
    // Where `helper_vmrun` has injected an interrupt: stores exception_index (below the processor's registers, hence the
    // negative offset), exception_is_int = 0 and exception_next_eip = -1, looks whether to log, calls
    // do_interrupt_x86_hardirq(env, vector, 1). With the first store, a processor that is interrupted by another thread at the
    // wrong moment delivers the interrupt a second time, in the first instruction of its handler.
    place:
      // biome-ignore lint/suspicious/noControlCharactersInRegex: machine code
      /\x89\xb3..\xff\xff\xc7\x83....\x00{4}\x48\xc7\x83....\xff{4}\xf6\x05....\x02\x0f\x85....\xba\x01\x00{3}\x48\x89\xdf\xe8/gs,
    nop: Buffer.from([0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00]),
  },
  {
    // `cpu_clear_ignne`: first_cpu's hflags2 &= ~HF2_IGNNE_MASK, by whichever processor restores its FPU, without a lock; then
    // it returns. It undoes what the first processor does to its own hflags2 at that moment: nested paging stays on in the host,
    // or off in the guest. Nothing in a lab asks for IGNNE# (port 0xF0), so there is nothing to clear.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: machine code
    place: /(?<!\xf0)\x81\xa0..\x00\x00\x7f\xff\xff\xff\x48\x83\xc4\x08/gs,
    nop: Buffer.from([0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00]),
  },
]

/**
 * QEMU's machine code without two stores that crash guests and the lab itself: docs/decisions/0015-the-lab-mends-qemu.md.
 * Undefined unless each is there exactly once.
 */
export function mend(program: Buffer): Buffer | undefined {
  const code = program.toString("latin1")
  const mended = Buffer.from(program)
  for (const { place, nop } of MENDS) {
    const found = [...code.matchAll(place)]
    if (found.length !== 1) return undefined
    nop.copy(mended, found[0]!.index)
  }
  return mended
}

/**
 * Path of a copy of the QEMU at `path` that is mended. It is kept in the cache. A QEMU in which the places are not found is
 * used as it is.
 */
export async function mendedQemu(path: string, directory: string): Promise<string> {
  const program = await realpath(path)
  const { size, mtimeMs, ino } = await stat(program)
  const hash = createHash("sha256").update(`${LAYOUT}:${program}:${size}:${mtimeMs}:${ino}`).digest("hex")
  const folder = join(directory, "qemu")
  const home = join(folder, hash.slice(0, 16))
  const copy = join(home, "bin", "qemu-system-x86_64")
  if (await lookUp(home)) return (await lookUp(copy)) ? copy : program
  await mkdir(folder, { recursive: true })
  const work = await mkdtemp(join(folder, ".make-"))
  try {
    await install(mend(await readFile(program)), program, work)
    // Another process may have been faster; its copy is the same.
    await rename(work, home).catch(() => {})
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  await prune(folder, KEEP)
  return (await lookUp(copy)) ? copy : program
}

/** QEMU finds its modules and firmware from where it is itself. */
async function install(mended: Buffer | undefined, program: string, home: string): Promise<void> {
  if (mended === undefined) return
  const prefix = dirname(dirname(program))
  await mkdir(join(home, "bin"))
  const copy = join(home, "bin", "qemu-system-x86_64")
  await writeFile(copy, mended)
  await chmod(copy, 0o755)
  for (const name of ["share", "lib", "libexec"]) await symlink(join(prefix, name), join(home, name))
}
