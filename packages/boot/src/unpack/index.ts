import { KernelFormatError } from "../errors.js"
import { isBzImage, parseSetupHeader, SETUP_BYTES, type SetupHeader } from "../setup-header.js"
import { type ByteSource, bytesSource, openSource } from "../source.js"
import { cachePath, isCached, keep } from "./cache.js"
import { formatOf, SIZE_BYTES } from "./formats.js"

/** Bytes that any format needs for its header and the size at its end. */
const SHORTEST_PAYLOAD = 16

export interface UnpackOptions {
  /** Directory that keeps unpacked kernels, made when missing. Default: none are kept. */
  readonly cacheDir?: string
}

/** The ELF image out of a bzImage, or the reason why there is none. */
export type UnpackResult =
  | {
      readonly vmlinux: ByteSource
      /** Whether it was in the cache already. */
      readonly fromCache: boolean
      /** Where the cache has it now. */
      readonly path: string | undefined
    }
  | { readonly vmlinux: undefined; readonly reason: string }

/**
 * Unpacks the kernel inside a bzImage (a path or its bytes): `bytes` is the ELF image, `path` the file that holds it in
 * the cache, if there is one.
 * Throws {@link KernelFormatError} when the kernel is not a bzImage, is damaged or cannot be unpacked on this host.
 */
export async function unpackKernel(
  kernel: string | Uint8Array,
  options: UnpackOptions = {},
): Promise<{ bytes: Uint8Array; path: string | undefined }> {
  const source = await openSource(kernel, "kernel")
  try {
    const head = new Uint8Array(Math.min(SETUP_BYTES, source.size))
    await source.read(0, head)
    if (!isBzImage(head)) throw new KernelFormatError(`${source.name} is not a bzImage`)
    const result = await unpackSource(source, parseSetupHeader(head, source.size, source.name), options)
    if (!result.vmlinux) throw new KernelFormatError(`${source.name}: ${result.reason}`)
    const bytes = new Uint8Array(result.vmlinux.size)
    await result.vmlinux.read(0, bytes)
    await result.vmlinux.close()
    return { bytes, path: result.path }
  } finally {
    await source.close()
  }
}

/** The same for a kernel that is open already; a kernel that cannot be unpacked is a result, not an error. */
export async function unpackSource(
  kernel: ByteSource,
  header: SetupHeader,
  { cacheDir }: UnpackOptions,
): Promise<UnpackResult> {
  const path = cacheDir === undefined ? undefined : await cachePath(cacheDir, kernel)
  if (path !== undefined && (await isCached(path))) {
    return { vmlinux: await openSource(path, "kernel"), fromCache: true, path }
  }
  try {
    const bytes = await unpackPayload(kernel, header)
    const kept = path !== undefined && cacheDir !== undefined && (await keep(path, cacheDir, bytes))
    const vmlinux = bytesSource(bytes, `${kernel.name} (unpacked)`)
    return { vmlinux, fromCache: false, path: kept ? path : undefined }
  } catch (error) {
    return { vmlinux: undefined, reason: error instanceof Error ? error.message : String(error) }
  }
}

async function unpackPayload(kernel: ByteSource, header: SetupHeader): Promise<Uint8Array> {
  const { offset, size: packedSize } = header.payload
  if (packedSize < SHORTEST_PAYLOAD) throw new KernelFormatError("it has no payload")
  const payload = Buffer.allocUnsafeSlow(packedSize)
  await kernel.read(offset, payload)
  const format = formatOf(payload)
  if (!format) throw new KernelFormatError("its payload has an unknown format")
  const size = payload.readUInt32LE(packedSize - SIZE_BYTES)
  // A kernel unpacks itself within that many bytes; a broken one must not make us allocate without bound.
  if (size > header.initSize) {
    throw new KernelFormatError(`its payload unpacks to ${size} bytes, but it needs only ${header.initSize}`)
  }
  const bytes = await format.unpack(payload, size)
  if (bytes.length !== size) {
    throw new KernelFormatError(`its payload unpacked to ${bytes.length} bytes, not ${size}`)
  }
  return bytes
}
