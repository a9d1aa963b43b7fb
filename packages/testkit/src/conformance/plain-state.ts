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
