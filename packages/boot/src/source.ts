import { type FileHandle, open } from "node:fs/promises"
import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { formatSize, KernelFormatError } from "./errors.js"

/** Bytes to load from: a file or memory. Reads outside of it are the caller's to prevent; a short file is an error. */
export interface ByteSource {
  /** For messages. */
  readonly name: string
  /** Bytes. */
  readonly size: number
  /** Of a file: when it was last changed, in ms. */
  readonly modified: number | undefined
  /** Fills `target` with the bytes from `offset` on. */
  read(offset: number, target: Uint8Array): Promise<void>
  close(): Promise<void>
}

/** Opens a path, or wraps bytes; `role` ("kernel", "initrd") is for messages. Throws {@link ConfigError}. */
export async function openSource(input: string | Uint8Array, role: string): Promise<ByteSource> {
  return typeof input === "string" ? openFile(input, role) : bytesSource(input, `the ${role}`)
}

/** The bytes of `bytes`, which are not copied. */
export function bytesSource(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.length,
    modified: undefined,
    async read(offset, target) {
      checkRange(this, offset, target.length)
      target.set(bytes.subarray(offset, offset + target.length))
    },
    async close() {},
  }
}

async function openFile(path: string, role: string): Promise<ByteSource> {
  let file: FileHandle
  try {
    file = await open(path, "r")
  } catch (error) {
    throw new ConfigError(`cannot open the ${role} ${path}: ${explain(error)}`, { cause: error })
  }
  try {
    const stat = await file.stat()
    if (stat.isDirectory()) throw new ConfigError(`the ${role} ${path} is a directory`)
    // Pipes and files of /proc have no size: only reading tells.
    if (!stat.isFile() || stat.size === 0) {
      const bytes = await file.readFile()
      await file.close()
      return bytesSource(bytes, path)
    }
    return fileSource(file, path, stat.size, stat.mtimeMs)
  } catch (error) {
    await file.close().catch(() => {})
    throw error
  }
}

function fileSource(file: FileHandle, name: string, size: number, modified: number): ByteSource {
  return {
    name,
    size,
    modified,
    async read(offset, target) {
      checkRange(this, offset, target.length)
      for (let done = 0; done < target.length; ) {
        const { bytesRead } = await file.read(target, done, target.length - done, offset + done)
        if (bytesRead === 0) throw new ConfigError(`${name} became shorter while it was read`)
        done += bytesRead
      }
    },
    close: () => file.close(),
  }
}

function checkRange(source: ByteSource, offset: number, length: number): void {
  if (!(offset >= 0) || offset + length > source.size) {
    throw new KernelFormatError(
      `${source.name} is cut short: it has ${source.size} bytes, ${offset + length} are needed`,
    )
  }
}

function explain(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined
  if (code === "ENOENT") return "no such file"
  if (code === "EACCES")
    return "permission denied (distributions keep kernels readable by root only: copy it)"
  return error instanceof Error ? error.message : String(error)
}

/** Bytes that one read may take: its count is an int, and each read holds a thread of the pool. */
const CHUNK = 64 * 1024 * 1024

/** Copies `length` bytes of a source straight into guest memory. The range must lie within one region. */
export async function copyToGuest(
  source: ByteSource,
  offset: number,
  length: number,
  memory: GuestMemory,
  address: number,
): Promise<void> {
  const region = memory.regionOf(address, length)
  if (!region) throw new ConfigError(`${formatSize(length)} of ${source.name} do not fit into guest memory`)
  for (let done = 0; done < length; done += CHUNK) {
    const count = Math.min(CHUNK, length - done)
    const start = region.byteOffset + (address - region.guestAddress) + done
    await source.read(offset + done, new Uint8Array(region.buffer, start, count))
    memory.markDirty(address + done, count)
  }
}
