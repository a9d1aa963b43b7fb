import { randomBytes } from "node:crypto"
import { ConfigError } from "@virtkit/interface"
import { MAC_BYTES } from "./constants.js"

/** Parses "52:54:00:12:34:56". Throws ConfigError, for multicast and zero addresses too. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}$/i.test(text)) {
    throw new ConfigError(`MAC address "${text}" must look like 52:54:00:12:34:56`)
  }
  const mac = Uint8Array.from(text.split(/[:-]/), (byte) => Number.parseInt(byte, 16))
  if ((mac[0]! & 1) !== 0) throw new ConfigError(`MAC address ${text} is a multicast address`)
  if (mac.every((byte) => byte === 0)) throw new ConfigError(`MAC address ${text} is no address`)
  return mac
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac.subarray(0, MAC_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join(":")
}

/** A random, locally administered address. */
export function randomMac(): Uint8Array {
  const mac = new Uint8Array(randomBytes(MAC_BYTES))
  mac[0] = (mac[0]! & 0xfc) | 0x02
  return mac
}
