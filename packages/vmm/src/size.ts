import { ConfigError } from "@virtkit/interface"

const units: Readonly<Record<string, number>> = {
  "": 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
  P: 2 ** 50,
}

/**
 * Bytes from a Number, or from text such as "512M", "2G", "1.5GiB" (K, M, G, T and P are powers of 1024).
 * `what` names the option in the {@link ConfigError}.
 */
export function parseSize(value: string | number, what: string): number {
  if (typeof value === "number") {
    if (Number.isSafeInteger(value) && value >= 0) return value
    throw new ConfigError(`${what}: ${value} is not a number of bytes`)
  }
  const match = /^(\d+(?:\.\d+)?)([KMGTP]?)(?:iB|B)?$/i.exec(value.trim())
  const bytes = match ? Number(match[1]) * (units[(match[2] ?? "").toUpperCase()] ?? Number.NaN) : Number.NaN
  if (Number.isSafeInteger(bytes)) return bytes
  throw new ConfigError(`${what}: "${value}" is not a size; write for example 512M or 2G`)
}

/** "512 MiB", "1.5 GiB": for messages. */
export function formatSize(bytes: number): string {
  const names = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
  const power = bytes === 0 ? 0 : Math.min(names.length - 1, Math.floor(Math.log2(bytes) / 10))
  const scaled = bytes / 2 ** (10 * power)
  return `${Number.isInteger(scaled) ? scaled : scaled.toFixed(1)} ${names[power]}`
}
