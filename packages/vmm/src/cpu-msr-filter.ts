import { ConfigError } from "@virtkit/interface"
import type { MsrFilterRange } from "@virtkit/kvm"
import { list, number32, onlyKeys, record } from "./cpu-model.js"

/**
 * A rule for a model specific register, or for those from `from` to `to`. For each access the first rule that fits counts;
 * where none does, the access is allowed. Numbers may be text in hexadecimal.
 */
export interface MsrRule {
  readonly index?: number | string
  readonly from?: number | string
  /** Included. */
  readonly to?: number | string
  readonly access: "read" | "write" | "readwrite"
  readonly action: "allow" | "deny"
}

/** What KVM_X86_SET_MSR_FILTER takes. */
export interface MsrFilter {
  readonly defaultAccess: "allow" | "deny"
  readonly ranges: readonly MsrFilterRange[]
}

interface CheckedRule {
  readonly from: number
  readonly to: number
  readonly read: boolean
  readonly write: boolean
  readonly allow: boolean
}

const LAST_MSR = 0xffff_ffff
/** KVM_MSR_FILTER_MAX_RANGES. */
const MAX_RANGES = 16
/** KVM_MSR_FILTER_MAX_BITMAP_SIZE, in MSRs. */
const MAX_SPAN = 0x600 * 8
/** KVM never filters the registers of the x2APIC. */
const X2APIC = { from: 0x800, to: 0x8ff }

/** Undefined when nothing is filtered. Throws {@link ConfigError} that names the rule which is wrong. */
export function checkMsrFilter(rules: unknown): MsrFilter | undefined {
  const checked = list(rules, "msrFilter").map(checkRule)
  if (checked.every(({ allow }) => allow)) return undefined
  const last = checked.at(-1)!
  const deniesRest = !last.allow && last.read && last.write && last.from === 0 && last.to === LAST_MSR
  const ranges = toRanges(checked, !deniesRest)
  // KVM takes no filter that denies everything by default and has no range.
  if (deniesRest && ranges.length === 0) ranges.push(rangeOf(0, "both", [false]))
  if (ranges.length > MAX_RANGES) {
    throw new ConfigError(
      `msrFilter: it needs ${ranges.length} ranges and KVM takes ${MAX_RANGES}; name fewer registers that are far apart, or only those that are allowed and deny the rest`,
    )
  }
  return { defaultAccess: deniesRest ? "deny" : "allow", ranges }
}

/** Throws {@link ConfigError} unless `rules` are what {@link VmOptions} takes: for data that was read from somewhere. */
export function checkMsrRules(rules: unknown): readonly MsrRule[] {
  checkMsrFilter(rules)
  return rules as readonly MsrRule[]
}

function checkRule(value: unknown, at: number): CheckedRule {
  const where = `msrFilter[${at}]`
  const rule = record(value, where)
  onlyKeys(rule, ["index", "from", "to", "access", "action"], where)
  const single = rule.index !== undefined
  if (single === (rule.from !== undefined) || single === (rule.to !== undefined))
    throw new ConfigError(`${where}: give index, or from and to`)
  const from = number32(single ? rule.index : rule.from, `${where}.${single ? "index" : "from"}`)
  const to = single ? from : number32(rule.to, `${where}.to`)
  if (to < from) throw new ConfigError(`${where}: to is below from`)
  const access = oneOf(rule.access, ["read", "write", "readwrite"], `${where}.access`)
  const allow = oneOf(rule.action, ["allow", "deny"], `${where}.action`) === "allow"
  const all = from === 0 && to === LAST_MSR
  if (!allow && !all && from <= X2APIC.to && to >= X2APIC.from)
    throw new ConfigError(
      `${where}: the registers 0x800 to 0x8ff are the local APIC's, which KVM does not filter`,
    )
  return { from, to, read: access !== "write", write: access !== "read", allow }
}

function oneOf<T extends string>(value: unknown, choices: readonly T[], where: string): T {
  const found = choices.find((choice) => choice === value)
  if (found === undefined) throw new ConfigError(`${where}: it must be ${choices.join(" or ")}`)
  return found
}

/** A stretch of registers about which all rules say the same. */
interface Stretch {
  readonly from: number
  readonly to: number
  readonly read: boolean
  readonly write: boolean
}

/** Stretches that differ from the default, those that are near each other in one bitmap. */
function toRanges(rules: readonly CheckedRule[], fallback: boolean): MsrFilterRange[] {
  const different = stretches(rules, fallback).filter(
    ({ read, write }) => read !== fallback || write !== fallback,
  )
  const ranges: MsrFilterRange[] = []
  for (let at = 0; at < different.length; ) {
    const base = different[at]!.from
    let end = at
    while (end < different.length && different[end]!.to < base + MAX_SPAN) end++
    if (end === at) {
      const { from, to } = different[at]!
      throw new ConfigError(
        `msrFilter: the ${to - from + 1} registers from 0x${from.toString(16)} on are more than KVM takes at once, ${MAX_SPAN}; deny all from 0 to 0xffffffff with a last rule, and allow some before it`,
      )
    }
    ranges.push(...bitmaps(base, different.slice(at, end), fallback))
    at = end
  }
  return ranges
}

function stretches(rules: readonly CheckedRule[], fallback: boolean): Stretch[] {
  const starts = new Set([0, ...rules.flatMap(({ from, to }) => [from, to + 1])])
  const sorted = [...starts].filter((start) => start <= LAST_MSR).sort((a, b) => a - b)
  return sorted.map((from, at) => {
    const decide = (access: "read" | "write") =>
      rules.find((rule) => rule[access] && rule.from <= from && from <= rule.to)?.allow ?? fallback
    const to = (sorted[at + 1] ?? LAST_MSR + 1) - 1
    return { from, to, read: decide("read"), write: decide("write") }
  })
}

/** One range where reads and writes are treated alike, else one for each of them that differs from the default. */
function bitmaps(base: number, near: readonly Stretch[], fallback: boolean): MsrFilterRange[] {
  const last = near.at(-1)!.to
  const map = (access: "read" | "write") => {
    const allow = new Array<boolean>(last - base + 1).fill(fallback)
    for (const stretch of near) allow.fill(stretch[access], stretch.from - base, stretch.to - base + 1)
    return allow
  }
  if (near.every(({ read, write }) => read === write)) return [rangeOf(base, "both", map("read"))]
  return (["read", "write"] as const)
    .filter((access) => near.some((stretch) => stretch[access] !== fallback))
    .map((access) => rangeOf(base, access, map(access)))
}

function rangeOf(base: number, access: "read" | "write" | "both", allow: boolean[]): MsrFilterRange {
  return { base, read: access !== "write", write: access !== "read", allow }
}
