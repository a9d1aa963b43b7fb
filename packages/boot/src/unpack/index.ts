import { KernelFormatError } from "../errors.js"
import { isBzImage, parseSetupHeader, SETUP_BYTES, type SetupHeader } from "../setup-header.js"
import { type ByteSource, bytesSource, openSource } from "../source.js"
import { cachePath, isCached, keep } from "./cache.js"
import { formatOf, SIZE_BYTES } from "./formats.js"

/** Nobody's kernel is larger; keeps a broken header from asking for memory without bound. */
const LARGEST_KERNEL = 1024 * 1024 * 1024

export interface UnpackOptions {
  /** Directory that keeps unpacked kernels, made when missing. Default: none are kept. */
  readonly cacheDir?: string
}

/** The ELF image out of a bzImage, or the reason why there is none. */
export type UnpackResult =
  | { readonly vmlinux: ByteSource; readonly cached: boolean; readonly format: string | undefined }
  | { readonly vmlinux: undefined; readonly reason: string }

/**
 * Unpacks the kernel inside a bzImage (a path or its bytes) and returns the ELF image, or a path to it when it is in the
 * cache.
 * Throws {@link KernelFormatError} when the kernel is not a bzImage, is damaged or its format has no unpacker here.
 */
export async function unpackKernel(
  kernel: string | Uint8Array,
  options: UnpackOptions = {},
): Promise<{ name: string; size: number; bytes: Uint8Array }> {
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
    return { name: result.vmlinux.name, size: bytes.length, bytes }
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
    return { vmlinux: await openSource(path, "kernel"), cached: true, format: undefined }
  }
  try {
    const { bytes, format } = await unpackPayload(kernel, header)
    const cached = path !== undefined && cacheDir !== undefined && (await keep(path, cacheDir, bytes))
    return { vmlinux: bytesSource(bytes, `${kernel.name} (unpacked)`), cached, format }
  } catch (error) {
    return { vmlinux: undefined, reason: error instanceof Error ? error.message : String(error) }
  }
}

async function unpackPayload(
  kernel: ByteSource,
  header: SetupHeader,
): Promise<{ bytes: Uint8Array; format: string }> {
  const { offset, size: packedSize } = header.payload
  if (packedSize < 16) throw new KernelFormatError("it has no payload")
  const payload = Buffer.allocUnsafeSlow(packedSize)
  await kernel.read(offset, payload)
  const format = formatOf(payload)
  if (!format) throw new KernelFormatError("its payload has an unknown format")
  const size = payload.readUInt32LE(packedSize - SIZE_BYTES)
  if (size > LARGEST_KERNEL) throw new KernelFormatError(`its payload claims to unpack to ${size} bytes`)
  const bytes = await format.unpack(payload, size)
  if (bytes.length !== size)
    throw new KernelFormatError(`its payload unpacked to ${bytes.length} bytes, not ${size}`)
  return { bytes, format: format.name }
}
