// @ts-check
// Which tests may be skipped in CI, and why: only what the machine cannot run. A reason counts only while it holds, so
// a test that the machine could have run is never skipped unnoticed.
import { accessSync, constants, existsSync, readFileSync } from "node:fs"
import { networkInterfaces } from "node:os"

/**
 * @typedef {object} Reason
 * @property {RegExp} pattern of the skipped test's name and note
 * @property {string} why
 * @property {() => boolean} holds whether this machine really lacks it
 */

/** @type {Reason[]} */
export const reasons = [
  { pattern: /\/dev\/kvm/, why: "no usable /dev/kvm", holds: () => !usable("/dev/kvm") },
  { pattern: /huge ?(tlb|pages)/i, why: "no huge pages reserved", holds: () => !hugePages() },
  { pattern: /CAP_NET_ADMIN/, why: "no right to make network interfaces", holds: () => !networkAdmin() },
  { pattern: /no IPv4 address/, why: "no network", holds: () => !hasNetwork() },
  {
    pattern: /free memory|MemAvailable/i,
    why: "less than 8 GiB of memory available",
    holds: () => meminfo("MemAvailable") < 8 * 1024 * 1024,
  },
]

/**
 * Sorts skipped tests into those that the machine cannot run and the others.
 * @param {string[]} skipped
 * @param {Reason[]} [list]
 * @returns {{ allowed: string[], refused: string[] }}
 */
export function judge(skipped, list = reasons) {
  /** @type {{ allowed: string[], refused: string[] }} */
  const verdict = { allowed: [], refused: [] }
  for (const name of skipped) {
    const reason = list.find(({ pattern }) => pattern.test(name))
    if (reason?.holds()) verdict.allowed.push(`${name} (${reason.why})`)
    else verdict.refused.push(name)
  }
  return verdict
}

/** @param {string} device */
function usable(device) {
  try {
    accessSync(device, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

function hugePages() {
  const file = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
  return existsSync(file) && Number(readFileSync(file, "utf8")) > 0
}

/**
 * @param {string} field
 * @returns {number} KiB
 */
function meminfo(field) {
  const match = new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(readFileSync("/proc/meminfo", "utf8"))
  return Number(match?.[1] ?? 0)
}

function networkAdmin() {
  const CAP_NET_ADMIN = 12n
  const match = /^CapEff:\s+([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))
  const capable = ((BigInt(`0x${match?.[1] ?? 0}`) >> CAP_NET_ADMIN) & 1n) === 1n
  return capable && usable("/dev/net/tun")
}

function hasNetwork() {
  return Object.values(networkInterfaces()).some((list) =>
    list?.some((entry) => entry.family === "IPv4" && !entry.internal),
  )
}
