import { type ExitReason, exitReasonName } from "./exits.js"
import { COUNTER_WORDS, DELIVERED, FIRST_REASON, NATIVE, RUNS, SLEEPS } from "./slot.js"

export interface ExitCounters {
  /** Returns of KVM_RUN. */
  runs: number
  /** Exits that JavaScript answered, single accesses counted. */
  delivered: number
  /** Port accesses that the vCPU thread answered itself. */
  native: number
  /** Answers that took so long that the vCPU thread slept. */
  sleeps: number
  /** KVM_RUN returns by reason; reasons that did not occur are absent. */
  byReason: Partial<Record<ExitReason, number>>
}

/** The counters of an exit slot, see exit_slot.h. */
export function readCounters(words: Float64Array): ExitCounters {
  const byReason: Partial<Record<ExitReason, number>> = {}
  for (let i = FIRST_REASON; i < COUNTER_WORDS; i++) {
    const count = words[i]!
    if (count === 0) continue
    const name = exitReasonName(i - FIRST_REASON)
    byReason[name] = (byReason[name] ?? 0) + count
  }
  return {
    runs: words[RUNS]!,
    delivered: words[DELIVERED]!,
    native: words[NATIVE]!,
    sleeps: words[SLEEPS]!,
    byReason,
  }
}
