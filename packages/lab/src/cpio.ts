import { VirtkitError } from "@virtkit/interface"

/*
 * The "newc" format of cpio, which Linux unpacks as its initramfs (Documentation/driver-api/early-userspace/
 * buffer-format.rst): a header of hexadecimal text, the name, the data, each padded to 4 bytes.
 */
const HEADER = 110
const TRAILER = "TRAILER!!!"

export const S_IFMT = 0o170000
export const S_IFREG = 0o100000
export const S_IFDIR = 0o040000
export const S_IFLNK = 0o120000
export const S_IFCHR = 0o020000

/** One member of an archive. `mode` holds the type bits too (S_IFREG and so on). */
export interface CpioEntry {
  /** Relative, without a leading "./". */
  name: string
  mode: number
  /** Bytes that follow the header: a file's contents, a symbolic link's target. At most 4 GiB - 1. */
  size: number
  /** Seconds since 1970. */
  mtime?: number
  /** Major and minor number, for device nodes. */
  device?: readonly [number, number]
}

function padding(length: number): number {
  return -length & 3
}

let inode = 0

/** Header and name of a member, padded; its data and `cpioPadding` follow. Owner and group are root. */
export function cpioHeader(entry: CpioEntry): Buffer {
  if (entry.size > 0xffffffff)
    throw new VirtkitError("EFBIG", `${entry.name}: larger than a cpio archive can hold (4 GiB)`)
  const name = Buffer.from(`${entry.name}\0`)
  const directory = (entry.mode & S_IFMT) === S_IFDIR
  inode = (inode + 1) >>> 0
  const fields = [
    inode,
    entry.mode,
    0, // uid
    0, // gid
    directory ? 2 : 1, // links
    entry.mtime ?? 0,
    entry.size,
    0, // device of the file system
    0,
    entry.device?.[0] ?? 0,
    entry.device?.[1] ?? 0,
    name.length,
    0, // checksum, unused in this variant
  ]
  const text = `070701${fields.map((field) => (field >>> 0).toString(16).padStart(8, "0")).join("")}`
  return Buffer.concat([Buffer.from(text, "latin1"), name, Buffer.alloc(padding(HEADER + name.length))])
}

/** Zero bytes that pad `size` bytes of data. */
export function cpioPadding(size: number): Buffer {
  return Buffer.alloc(padding(size))
}

/** What ends an archive. */
export function cpioTrailer(): Buffer {
  return cpioHeader({ name: TRAILER, mode: 0, size: 0 })
}

/** An archive in memory. Directories must come before what is in them. */
export class CpioWriter {
  readonly #parts: Buffer[] = []
  readonly #names = new Set<string>()

  /** Adds a member; missing parent directories are added first. A second one of the same name is ignored. */
  add(
    name: string,
    mode: number,
    data: Uint8Array = Buffer.alloc(0),
    device?: readonly [number, number],
  ): void {
    const clean = name.replace(/^\/+/, "").replace(/\/+$/, "")
    if (clean === "" || this.#names.has(clean)) return
    const slash = clean.lastIndexOf("/")
    if (slash > 0) this.directory(clean.slice(0, slash))
    this.#names.add(clean)
    this.#parts.push(cpioHeader({ name: clean, mode, size: data.length, ...(device ? { device } : {}) }))
    this.#parts.push(Buffer.from(data.buffer, data.byteOffset, data.length), cpioPadding(data.length))
  }

  has(name: string): boolean {
    return this.#names.has(name.replace(/^\/+/, ""))
  }

  directory(name: string, permissions = 0o755): void {
    this.add(name, S_IFDIR | permissions)
  }

  file(name: string, data: Uint8Array | string, permissions = 0o644): void {
    this.add(name, S_IFREG | permissions, typeof data === "string" ? Buffer.from(data) : data)
  }

  symlink(name: string, target: string): void {
    this.add(name, S_IFLNK | 0o777, Buffer.from(target))
  }

  characterDevice(name: string, major: number, minor: number, permissions = 0o600): void {
    this.add(name, S_IFCHR | permissions, undefined, [major, minor])
  }

  /** The archive, with its trailer and padded to 4 bytes, so that archives can follow one another. */
  finish(): Buffer {
    return Buffer.concat([...this.#parts, cpioTrailer()])
  }
}

/** A member that `CpioReader` met: its header, then its data in pieces, then its end. */
export interface CpioSink {
  /** Called with each member; the promise holds the reader back. */
  entry(entry: CpioEntry): Promise<void> | void
  data(chunk: Buffer): Promise<void> | void
  end(): Promise<void> | void
}

/** Parses an archive that arrives in pieces of any size. Memory is bounded by a header, however long the archive is. */
export class CpioReader {
  readonly #sink: CpioSink
  #pending: Buffer = Buffer.alloc(0)
  #data = 0
  #skip = 0
  #finished = false

  constructor(sink: CpioSink) {
    this.#sink = sink
  }

  /** True after the trailer. */
  get finished(): boolean {
    return this.#finished
  }

  /** @throws VirtkitError when it is not a newc archive */
  async write(chunk: Buffer): Promise<void> {
    let rest = this.#pending.length ? Buffer.concat([this.#pending, chunk]) : chunk
    while (!this.#finished) {
      if (this.#data > 0) {
        if (rest.length === 0) break
        const piece = rest.subarray(0, this.#data)
        rest = rest.subarray(piece.length)
        this.#data -= piece.length
        await this.#sink.data(piece)
        if (this.#data === 0) await this.#sink.end()
      } else if (this.#skip > 0) {
        if (rest.length < this.#skip) break
        rest = rest.subarray(this.#skip)
        this.#skip = 0
      } else {
        const used = await this.#header(rest)
        if (used === 0) break
        rest = rest.subarray(used)
      }
    }
    this.#pending = this.#finished ? Buffer.alloc(0) : Buffer.from(rest)
  }

  /** Bytes that the header at the start of `bytes` takes, 0 when it is not whole yet. */
  async #header(bytes: Buffer): Promise<number> {
    if (bytes.length < HEADER) return 0
    if (bytes.toString("latin1", 0, 6) !== "070701")
      throw new VirtkitError("ERR_VIRTKIT_CPIO", "not a newc cpio archive")
    const field = (index: number): number =>
      Number.parseInt(bytes.toString("latin1", 6 + 8 * index, 14 + 8 * index), 16)
    const nameSize = field(11)
    if (!(nameSize >= 1 && nameSize <= 4097))
      throw new VirtkitError("ERR_VIRTKIT_CPIO", "bad name length in a cpio archive")
    const total = HEADER + nameSize + padding(HEADER + nameSize)
    if (bytes.length < total) return 0
    const name = bytes.toString("utf8", HEADER, HEADER + nameSize - 1)
    if (name === TRAILER) {
      this.#finished = true
      return total
    }
    const size = field(6)
    await this.#sink.entry({ name, mode: field(1), size, mtime: field(5), device: [field(9), field(10)] })
    this.#data = size
    this.#skip = padding(size)
    if (size === 0) await this.#sink.end()
    return total
  }
}
