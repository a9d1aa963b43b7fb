/** An edge-triggered or message-signalled interrupt of the guest. */
export interface Interrupt {
  /** Raises it once. Never throws and never blocks; signals while one is pending may merge. */
  signal(): void
  /**
   * Has the kernel raise it whenever the eventfd `fd` is signalled, as `ExternalQueue.connect` says of `changed`. Returns what
   * ends that, without a call of `changed`. Absent where it never can.
   */
  connect?(fd: number, changed: (direct: boolean) => void): () => void
}
