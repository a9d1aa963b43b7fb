import { RestoreError } from "@virtkit/interface"

/** Nothing of an entropy device outlives a request: the state is its version. */
export interface RngState {
  version: 1
}

/** Throws RestoreError for anything that is not an {@link RngState}. */
export function checkRngState(state: unknown): void {
  if (typeof state !== "object" || state === null || (state as Record<string, unknown>).version !== 1) {
    throw new RestoreError("the entropy device state is not of version 1")
  }
}
