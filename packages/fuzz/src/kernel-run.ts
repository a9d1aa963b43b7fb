import { type LoadOptions, loadKernel } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { GuardedMemory } from "./guarded-memory.js"
import { MIB } from "./kernel-images.js"
import { must } from "./target.js"
import { withoutNumbers } from "./words.js"

const RAM = 4 * MIB
const INITRD = new Uint8Array(100).fill(0x1d)
const CMDLINE = "console=hvc0"
/** What is in it has no meaning, so that it is never emptied. */
const memory = new GuardedMemory([[0, RAM]])

/** Loads an image as the VMM does: within guest memory, or with an error for the user. */
export async function kernelRun(
  kernel: Uint8Array,
  options: Pick<LoadOptions, "unpack" | "protocol">,
): Promise<string[]> {
  memory.noting = true
  memory.clearWritten()
  try {
    const loaded = await loadKernel({ memory, kernel, initrd: INITRD, cmdline: CMDLINE, ...options })
    const { kind, entry, image, initrd, unpacked } = loaded
    must(image.address >= MIB, "a kernel below 1 MiB")
    must(entry >= image.address && entry < image.address + image.size, "the entry is not in the kernel")
    must(initrd !== undefined, "the initrd is gone")
    must(image.address + image.size <= initrd.address, "kernel and initrd overlap")
    must(initrd.address + initrd.size <= RAM, "an initrd outside of memory")
    for (const { address, length } of memory.written) {
      const inside = [image, initrd].some(
        (one) => address >= one.address && address + length <= one.address + one.size,
      )
      must(inside || address + length <= MIB, "something was written beside the kernel")
    }
    const start = memory.bytes.subarray(initrd.address, initrd.address + INITRD.length)
    must(Buffer.compare(start, INITRD) === 0, "the initrd is another one")
    if (kind === "pvh") checkPvh(Number(loaded.setup.regs.rbx))
    const how = unpacked === undefined ? "" : "failed" in unpacked ? unpacked.failed : unpacked.from
    return [kind, withoutNumbers(how)]
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return [withoutNumbers(error.message)]
  } finally {
    memory.check()
  }
}

/** hvm_start_info with what it points to. */
function checkPvh(info: number): void {
  must(memory.readUint32(info) === 0x336e_c578, "no hvm_start_info")
  const [modules, cmdline, map, entries] = [info + 16, info + 24, info + 40, info + 48]
  must(memory.readUint32(info + 12) === 1, "no module")
  const address = Number(memory.readBigUint64(Number(memory.readBigUint64(modules))))
  must(memory.readUint8(address) === INITRD[0], "the module is not the initrd")
  const text = memory.bytes.subarray(Number(memory.readBigUint64(cmdline))).subarray(0, CMDLINE.length)
  must(Buffer.from(text).toString() === CMDLINE, "the command line is another one")
  must(memory.contains(Number(memory.readBigUint64(map)), 24 * memory.readUint32(entries)), "no memory map")
}
