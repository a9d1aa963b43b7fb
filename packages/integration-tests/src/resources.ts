import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

/** What a process holds of the system's resources. */
export interface Resources {
  /** What each open descriptor refers to, such as "anon_inode:kvm-vm", sorted. */
  readonly files: readonly string[]
  readonly threads: number
  /** Mappings of /dev/kvm, memory files, huge pages and other VMs' objects: everything but the heap and the libraries. */
  readonly mappings: readonly string[]
}

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void

/** Lets go what nobody refers to: guest memory is unmapped at once, its address range when it is collected. */
export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 4; round++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** The calling process's. */
export function resources(): Resources {
  return { files: openFiles(), threads: readdirSync("/proc/self/task").length, mappings: mappings() }
}

function openFiles(): string[] {
  const targets = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return "" // the descriptor that the directory was read with
    }
  })
  // Sockets and pipes are numbered: a count of each kind is what can be compared.
  return targets
    .filter((target) => target !== "" && !/^\/proc\/(self|\d+)\/fd$/.test(target))
    .map((target) => target.replace(/:\[\d+\]$/, ""))
    .sort()
}

/** `Rss` and anonymous heap mappings come and go with V8's heap and malloc; a VM's own have a name. */
function mappings(): string[] {
  return readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .map((line) => line.split(/\s+/).slice(5).join(" "))
    .filter((name) => /kvm|memfd|hugepage|io_uring|eventfd|\(deleted\)/.test(name))
    .sort()
}

/** All mappings, anonymous ones included. */
export function mappingCount(): number {
  return readFileSync("/proc/self/maps", "utf8").trim().split("\n").length
}

/** Bytes of the process in memory. */
export function residentBytes(): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024
}
