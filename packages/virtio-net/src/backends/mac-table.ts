/** Entries of all VLANs; more addresses than these are flooded (bad-input #12: a guest may use any address). */
const MOST_ENTRIES = 4096
/** Milliseconds after which an address that was not seen is forgotten. */
const AGE = 300_000

interface Entry<Port> {
  port: Port
  seen: number
}

/** Which port an address was last seen on, VLAN by VLAN. */
export class MacTable<Port> {
  /** By VLAN, then by address: together they have more bits than a Number. */
  readonly #entries = new Map<number, Map<number, Entry<Port>>>()
  #count = 0
  #lastCleaning = Number.NEGATIVE_INFINITY

  get size(): number {
    return this.#count
  }

  learn(vlan: number, mac: number, port: Port, now: number): void {
    let table = this.#entries.get(vlan)
    if (table === undefined) {
      table = new Map()
      this.#entries.set(vlan, table)
    }
    const entry = table.get(mac)
    if (entry !== undefined) {
      entry.port = port
      entry.seen = now
      return
    }
    if (this.#count >= MOST_ENTRIES && !this.#forgetOld(now)) return
    table.set(mac, { port, seen: now })
    this.#count++
  }

  find(vlan: number, mac: number, now: number): Port | undefined {
    const entry = this.#entries.get(vlan)?.get(mac)
    return entry === undefined || now - entry.seen > AGE ? undefined : entry.port
  }

  /** The port is gone. */
  forget(port: Port): void {
    this.#drop((entry) => entry.port === port)
  }

  /** Whether there is room now. Looks through all at most once a second, whatever a guest does. */
  #forgetOld(now: number): boolean {
    if (now - this.#lastCleaning < 1000) return false
    this.#lastCleaning = now
    this.#drop((entry) => now - entry.seen > AGE)
    return this.#count < MOST_ENTRIES
  }

  #drop(which: (entry: Entry<Port>) => boolean): void {
    for (const table of this.#entries.values()) {
      for (const [mac, entry] of table) {
        if (!which(entry)) continue
        table.delete(mac)
        this.#count--
      }
    }
  }
}

/** A MAC address as a number of 48 bits. */
export function macNumber(bytes: Uint8Array, at: number): number {
  const high = (bytes[at]! << 8) | bytes[at + 1]!
  const low = ((bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!) >>> 0
  return high * 0x1_0000_0000 + low
}
