import { gzipSync } from "node:zlib"
import { unpackKernel } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { bzImage, elfImage, lz4Payload } from "../kernel-images.js"
import { kernelRun } from "../kernel-run.js"
import { lz4Reference } from "../lz4-reference.js"
import { type FuzzTarget, must } from "../target.js"

const MOST = 4096
/** The slow decoder is not asked for more. */
const MOST_UNPACKED = 0x1_0000

export const elf: FuzzTarget = {
  about: "ELF kernels, started by the Linux boot protocol",
  maxBytes: MOST,
  seeds: () => [elfImage()],
  run: (input) => kernelRun(input, { protocol: "linux" }),
}

export const pvh: FuzzTarget = {
  about: "ELF kernels with their notes, started by PVH",
  maxBytes: MOST,
  seeds: () => [elfImage()],
  run: (input) => kernelRun(input, { protocol: "pvh" }),
}

export const bzimage: FuzzTarget = {
  about: "headers of bzImages that unpack themselves",
  maxBytes: MOST,
  seeds: () => [bzImage(new Uint8Array(64))],
  run: (input) => kernelRun(input, { unpack: false }),
}

export const packedKernel: FuzzTarget = {
  about: "bzImages that are unpacked here: LZ4 and gzip, and the ELF image in them",
  maxBytes: MOST,
  seeds: () => [bzImage(lz4Payload(elfImage())), bzImage(gzipSync(elfImage()))],
  run: runPacked,
}

const LZ4 = [0x02, 0x21, 0x4c, 0x18]
const GZIP = [0x1f, 0x8b]

/** Formats other than these two need programs of the host, and are left packed. */
async function runPacked(image: Uint8Array): Promise<Iterable<string>> {
  const payload = payloadOf(image)
  const isLz4 = startsWith(payload, LZ4)
  if (isLz4) await checkLz4(image, payload)
  return kernelRun(image, { unpack: isLz4 || startsWith(payload, GZIP) })
}

/** What is unpacked is what a decoder written from the format's description makes of it. */
async function checkLz4(image: Uint8Array, payload: Uint8Array): Promise<void> {
  const size = new DataView(payload.buffer, payload.byteOffset).getUint32(payload.length - 4, true)
  const expected =
    size > MOST_UNPACKED ? undefined : lz4Reference(payload.subarray(0, payload.length - 4), size)
  const unpacked = await unpackKernel(image).catch((error: unknown) => {
    if (!(error instanceof ConfigError)) throw error
    must(expected === undefined || !/damaged/.test(error.message), "what is not damaged is refused")
    return undefined
  })
  if (unpacked === undefined || size > MOST_UNPACKED) return
  must(expected !== undefined, "what is damaged was unpacked")
  must(Buffer.compare(expected, unpacked.bytes) === 0, "it was unpacked to something else")
}

/** Where the header says that it is; empty if that is nowhere. */
function payloadOf(image: Uint8Array): Uint8Array {
  if (image.length < 0x250) return new Uint8Array(0)
  const view = new DataView(image.buffer, image.byteOffset)
  const start = ((view.getUint8(0x1f1) || 4) + 1) * 512 + view.getUint32(0x248, true)
  const payload = image.subarray(start, start + view.getUint32(0x24c, true))
  return payload.length < 16 ? new Uint8Array(0) : payload
}

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, at) => bytes[at] === byte)
}
