import { ConfigError } from "@virtkit/interface"

/** A file given as a kernel is not one, is damaged, or is one that this machine cannot start. */
export class KernelFormatError extends ConfigError {
  override readonly name: string = "KernelFormatError"
  override readonly code: string = "ERR_VIRTKIT_KERNEL_FORMAT"
}

/** A size for messages: `formatSize(2621440)` is "2.5 MiB". */
export function formatSize(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB"]
  let [value, unit] = [bytes, 0]
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1]
  return `${Number(value.toFixed(1))} ${units[unit]}`
}
