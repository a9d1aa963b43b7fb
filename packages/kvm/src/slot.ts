// The exit slot that a vCPU thread and JavaScript share. The layout and the protocol are those of exit_slot.h in the
// addon's sources (a test compares them); docs/threading.md explains them.

export const SLOT_BYTES = 1024

/** Bits of the state word. */
export const PUBLISHED = 1
export const TAKEN = 2
export const SLEEPING = 4

/** Values of the kind word; 3 is every other exit. */
export const KIND_IO = 1
export const KIND_MMIO = 2
export const KIND_PAUSED = 4
export const KIND_STOPPED = 5

/** Offsets in bytes. */
export const STATE = 0
export const KIND = 4
export const ADDRESS = 8
export const SIZE = 16
export const WRITE = 20
export const DATA = 24
export const REASON = 32
export const ERROR = 36
export const COALESCED = 40
export const PAYLOAD = 64
export const PAYLOAD_BYTES = 256
export const COUNTERS = 512

/** Doubles from COUNTERS on: four totals, then from index 8 on one an exit reason. */
export const COUNTER_WORDS = 64
export const RUNS = 0
export const DELIVERED = 1
export const NATIVE = 2
export const SLEEPS = 3
export const FIRST_REASON = 8
