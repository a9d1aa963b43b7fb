/** What is a state of nothing (bad-input #31). */
export const NOT_STATES: readonly unknown[] = [
  undefined,
  null,
  3,
  "state",
  [],
  {},
  { version: 0 },
  { version: 2 },
  { version: "1" },
]

/** Whether the call throws a `RestoreError`; another error is none. */
export function isRestoreError(call: () => void): boolean {
  try {
    call()
    return false
  } catch (error) {
    return (error as { code?: unknown }).code === "ERR_VIRTKIT_RESTORE"
  }
}
/** The first thing in a state that is not plain data (JSON types, bigint and Uint8Array), or undefined. */
export function notPlain(value: unknown, path = "state"): string | undefined {
  if (value === null || ["string", "boolean", "bigint"].includes(typeof value)) return undefined
  if (typeof value === "number") return Number.isFinite(value) ? undefined : path
  if (value instanceof Uint8Array) return undefined
  if (typeof value !== "object") return path
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== Array.prototype) return path
  for (const [key, item] of Object.entries(value)) {
    const found = notPlain(item, `${path}.${key}`)
    if (found !== undefined) return found
  }
  return undefined
}

const STRANGE: readonly unknown[] = [undefined, null, -1, 0.5, 2 ** 53, Number.NaN, "x", 1n, {}, [], true]

/** The state with one of its values replaced, for every value and many replacements. */
export function* variants(state: unknown): Generator<unknown> {
  for (const path of paths(state)) {
    for (const strange of STRANGE) {
      const copy = structuredClone(state)
      const parent = path.slice(0, -1).reduce((at, key) => (at as Record<string, unknown>)[key], copy)
      ;(parent as Record<string, unknown>)[path.at(-1)!] = strange
      yield copy
    }
  }
}

function paths(value: unknown, path: readonly string[] = []): string[][] {
  const here = path.length > 0 ? [[...path]] : []
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return here
  return [...here, ...Object.entries(value).flatMap(([key, item]) => paths(item, [...path, key]))]
}
