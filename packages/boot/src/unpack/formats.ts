import { spawn } from "node:child_process"
import { promisify } from "node:util"
import * as zlib from "node:zlib"
import { KernelFormatError } from "../errors.js"
import { LZ4_LEGACY_MAGIC, unpackLz4 } from "./lz4.js"

/** Unpacks `payload` to exactly `size` bytes. Rejects when it cannot; the message says why. */
export type Unpack = (payload: Uint8Array, size: number) => Promise<Uint8Array>

interface Format {
  readonly name: string
  readonly magic: readonly number[]
  readonly unpack: Unpack
}

/** The formats in which Linux packs itself (scripts/Makefile.lib), by the bytes they start with. */
const FORMATS: readonly Format[] = [
  { name: "gzip", magic: [0x1f, 0x8b], unpack: gunzip },
  { name: "lz4", magic: little32(LZ4_LEGACY_MAGIC), unpack: lz4 },
  { name: "zstd", magic: [0x28, 0xb5, 0x2f, 0xfd], unpack: zstd },
  { name: "xz", magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unpack: withTool("xz", "-dc") },
  { name: "lzma", magic: [0x5d, 0x00, 0x00], unpack: withTool("xz", "-dc", "--format=lzma") },
  { name: "bzip2", magic: [0x42, 0x5a, 0x68], unpack: withTool("bzip2", "-dc") },
  { name: "lzo", magic: [0x89, 0x4c, 0x5a, 0x4f], unpack: withTool("lzop", "-dc") },
]

/** The format of a payload by its first bytes, or undefined. */
export function formatOf(payload: Uint8Array): Format | undefined {
  return FORMATS.find(({ magic }) => magic.every((byte, index) => payload[index] === byte))
}

/** The kernel's build appends the unpacked size to every format that does not end with it anyway, as gzip does. */
export const SIZE_BYTES = 4

async function gunzip(payload: Uint8Array, size: number): Promise<Uint8Array> {
  return promisify<Uint8Array, zlib.ZlibOptions, Uint8Array>(zlib.gunzip)(payload, { maxOutputLength: size })
}

async function lz4(payload: Uint8Array, size: number): Promise<Uint8Array> {
  const target = Buffer.allocUnsafeSlow(size)
  unpackLz4(payload.subarray(0, payload.length - SIZE_BYTES), target)
  return target
}

type Zstd = (
  data: Uint8Array,
  options: { maxOutputLength: number },
  callback: (error: Error | null, result: Uint8Array) => void,
) => void

/** Node.js has it from 22.15 on; before that the host's tool must do. */
async function zstd(payload: Uint8Array, size: number): Promise<Uint8Array> {
  const { zstdDecompress } = zlib as { zstdDecompress?: Zstd }
  if (!zstdDecompress) return withTool("zstd", "-dc")(payload, size)
  const packed = payload.subarray(0, payload.length - SIZE_BYTES)
  return promisify<Uint8Array, { maxOutputLength: number }, Uint8Array>(zstdDecompress)(packed, {
    maxOutputLength: size,
  })
}

/** Pipes the payload through a program of the host. */
function withTool(command: string, ...args: string[]): Unpack {
  return (payload, size) =>
    new Promise((resolve, reject) => {
      const target = Buffer.allocUnsafeSlow(size)
      let written = 0
      const child = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"] })
      const fail = (why: string): void => {
        child.kill()
        reject(new KernelFormatError(`${command} could not unpack the kernel: ${why}`))
      }
      child.on("error", (error) => fail(error.message))
      // It may well end before it has read everything; its exit status tells whether that is an error.
      child.stdin.on("error", () => {})
      child.stdout.on("data", (chunk: Buffer) => {
        if (written + chunk.length > size) return fail("there is more of it than its header says")
        written += chunk.copy(target, written)
      })
      child.on("close", (status) => {
        if (status === 0 && written === size) resolve(target)
        else fail(`exit status ${status} after ${written} of ${size} bytes`)
      })
      child.stdin.end(payload.subarray(0, payload.length - SIZE_BYTES))
    })
}

function little32(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff)
}
