/**
 * Host clusters that lost their last use, until they may get another one. Two things must happen first:
 *
 * - the tables that do not name them any more are durable: else a crash brings back tables that name clusters with
 *   somebody else's data;
 * - every request that began before is done: it may still write to the cluster that it found.
 *
 * For the second, requests enter one of two epochs. When a batch is sealed the epoch changes; it may go when the former
 * epoch is empty. There is one sealed batch at a time.
 */
export class DeferredFrees {
  /** Pairs of first cluster and number of clusters. */
  #pending: number[] = []
  #pendingClusters = 0
  #sealed: number[] | undefined
  #durable = false
  #epoch = 0
  readonly #inFlight = [0, 0]
  readonly #release: (batch: readonly number[]) => void

  /** `release` is called, at any time, with pairs of first cluster and number of clusters. */
  constructor(release: (batch: readonly number[]) => void) {
    this.#release = release
  }

  /** Clusters that wait to be sealed. */
  get pending(): number {
    return this.#pendingClusters
  }

  get empty(): boolean {
    return this.#pending.length === 0 && this.#sealed === undefined
  }

  /** A request begins; gives what `leave` is to be told. */
  enter(): number {
    this.#inFlight[this.#epoch]!++
    return this.#epoch
  }

  leave(epoch: number): void {
    this.#inFlight[epoch]!--
    this.#try()
  }

  add(first: number, count: number): void {
    const pending = this.#pending
    this.#pendingClusters += count
    const at = pending.length - 2
    if (at >= 0 && pending[at]! + pending[at + 1]! === first) pending[at + 1]! += count
    else pending.push(first, count)
  }

  /** The tables as they are now are going to be written. */
  seal(): void {
    if (this.#sealed !== undefined || this.#pending.length === 0) return
    this.#sealed = this.#pending
    this.#pending = []
    this.#pendingClusters = 0
    this.#durable = false
    this.#epoch ^= 1
  }

  /** The tables as they were at the last `seal`, or later, are durable. */
  durable(): void {
    this.#durable = true
    this.#try()
  }

  #try(): void {
    const batch = this.#sealed
    if (batch === undefined || !this.#durable || this.#inFlight[this.#epoch ^ 1]! > 0) return
    this.#sealed = undefined
    this.#release(batch)
  }
}
