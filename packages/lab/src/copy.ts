import { createReadStream } from "node:fs"
import { type FileHandle, lstat, mkdir, open, readdir, readlink, rm, symlink } from "node:fs/promises"
import { basename, join } from "node:path"
import type { Readable, Writable } from "node:stream"
import { ConfigError, VirtkitError } from "@virtkit/interface"
import {
  type CpioEntry,
  CpioReader,
  type CpioSink,
  cpioHeader,
  cpioPadding,
  cpioTrailer,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "./cpio.js"
import { drained } from "./drained.js"

/** Yields an archive of a host path, whose first member is called `name`. */
async function* archive(path: string, name: string): AsyncGenerator<Buffer> {
  const status = await lstat(path)
  const mtime = Math.floor(status.mtimeMs / 1000)
  if (status.isDirectory()) {
    yield cpioHeader({ name, mode: S_IFDIR | (status.mode & 0o7777), size: 0, mtime })
    for (const child of (await readdir(path)).sort()) yield* archive(join(path, child), `${name}/${child}`)
  } else if (status.isSymbolicLink()) {
    const target = Buffer.from(await readlink(path))
    yield cpioHeader({ name, mode: S_IFLNK | 0o777, size: target.length, mtime })
    yield Buffer.concat([target, cpioPadding(target.length)])
  } else if (status.isFile()) {
    yield cpioHeader({ name, mode: S_IFREG | (status.mode & 0o7777), size: status.size, mtime })
    // A file that grows or shrinks meanwhile must not shift what follows it.
    let sent = 0
    if (status.size > 0) {
      for await (const chunk of createReadStream(path, { end: status.size - 1, highWaterMark: 256 * 1024 })) {
        sent += (chunk as Buffer).length
        yield chunk as Buffer
      }
    }
    if (sent !== status.size)
      throw new VirtkitError("ERR_VIRTKIT_COPY", `${path} changed while it was copied`)
    yield cpioPadding(status.size)
  } else throw new ConfigError(`${path}: only files, directories and symbolic links can be copied`)
}

/** Writes an archive of `path` to a command's stdin, and ends it. */
export async function sendArchive(path: string, name: string, target: Writable): Promise<void> {
  const write = async (chunk: Buffer): Promise<void> => {
    if (target.destroyed) throw new VirtkitError("ERR_VIRTKIT_COPY", "the lab stopped reading")
    if (!target.write(chunk)) await drained(target)
  }
  for await (const chunk of archive(path, name)) await write(chunk)
  await write(cpioTrailer())
  target.end()
}

/**
 * Writes members below a directory of the host. What comes from the lab is not trusted: no name leads outside, and
 * nothing is written through a symbolic link that the archive itself has made.
 */
class Unpacker implements CpioSink {
  readonly #target: string
  readonly #name: string
  readonly #links = new Set<string>()
  #entry: CpioEntry | undefined
  #file: FileHandle | undefined
  #text: Buffer[] = []

  /** The member called `name` becomes `target`, and "name/x" becomes "target/x". */
  constructor(target: string, name: string) {
    this.#target = target
    this.#name = name
  }

  async entry(entry: CpioEntry): Promise<void> {
    const name = entry.name.replace(/^\.\//, "")
    this.#entry = { ...entry, name }
    const type = entry.mode & S_IFMT
    const path = this.#path(name)
    if (type === S_IFDIR) await mkdir(path, { recursive: true, mode: entry.mode & 0o777 })
    else if (type === S_IFREG) {
      await rm(path, { force: true })
      this.#file = await open(path, "wx", entry.mode & 0o777)
    } else if (type !== S_IFLNK)
      throw new VirtkitError(
        "ERR_VIRTKIT_COPY",
        `${name}: only files, directories and symbolic links can be copied`,
      )
    if (type === S_IFLNK && entry.size > 4096)
      throw new VirtkitError("ERR_VIRTKIT_COPY", `${name}: symbolic link too long`)
  }

  async data(chunk: Buffer): Promise<void> {
    if (this.#file) await this.#file.writeFile(chunk)
    else this.#text.push(chunk)
  }

  async end(): Promise<void> {
    await this.close()
    const text = Buffer.concat(this.#text.splice(0)).toString()
    const entry = this.#entry
    if (!entry || (entry.mode & S_IFMT) !== S_IFLNK) return
    await rm(this.#path(entry.name), { force: true })
    await symlink(text, this.#path(entry.name))
    this.#links.add(entry.name)
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.close()
  }

  #path(name: string): string {
    const parts = name.split("/")
    const inside =
      parts[0] === this.#name && parts.every((part) => part !== "" && part !== "." && part !== "..")
    const throughLink = parts.some(
      (_part, index) => index > 0 && this.#links.has(parts.slice(0, index).join("/")),
    )
    if (!inside || throughLink)
      throw new VirtkitError("ERR_VIRTKIT_COPY", `the lab sent the forbidden name ${JSON.stringify(name)}`)
    return join(this.#target, ...parts.slice(1))
  }
}

/** Unpacks an archive that a command writes: its first member, `name`, becomes `target`. */
export async function receiveArchive(source: Readable, name: string, target: string): Promise<void> {
  const unpacker = new Unpacker(target, name)
  const reader = new CpioReader(unpacker)
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) await reader.write(chunk)
    if (!reader.finished)
      throw new VirtkitError("ERR_VIRTKIT_COPY", `the copy of ${basename(name)} from the lab is incomplete`)
  } finally {
    await unpacker.close()
  }
}
