/** An edge-triggered or message-signalled interrupt of the guest. */
export interface Interrupt {
  /** Raises it once. Never throws and never blocks; signals while one is pending may merge. */
  signal(): void
}
