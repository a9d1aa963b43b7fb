import type { BusDevice, PciBar } from "@virtkit/interface"
import type { ConfigSpace } from "./config-space.js"
import { PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MEMORY } from "./constants.js"
import type { SlotParent } from "./context.js"
import { barAddress } from "./header.js"
import { Placement, type Segment } from "./placement.js"

interface PlacedBar {
  readonly bar: PciBar
  readonly placement: Placement
}

/** The BARs of a function: where the guest put them they answer, if decoding is on and the bus forwards that range. */
export class Bars {
  readonly #parent: SlotParent
  readonly #space: ConfigSpace
  readonly #bars: readonly PlacedBar[]

  /** `extra` are the parts of a BAR that the bus itself answers for. */
  constructor(
    parent: SlotParent,
    space: ConfigSpace,
    bars: readonly PciBar[],
    extra: (bar: PciBar) => readonly Segment[],
  ) {
    this.#parent = parent
    this.#space = space
    this.#bars = bars.map((bar) => {
      const segments = withoutGaps(bar, [...bar.windows, ...extra(bar)])
      const addressSpace = bar.kind === "io" ? "io" : "memory"
      return { bar, placement: new Placement(parent.context.host, addressSpace, () => segments) }
    })
  }

  /** First step of a change, see {@link Placement}. */
  leave(): void {
    for (const { bar, placement } of this.#bars) placement.leaveUnless(this.#wanted(bar))
  }

  settle(): void {
    for (const { bar, placement } of this.#bars) placement.settle(this.#wanted(bar))
  }

  /** Off the bus. */
  remove(): void {
    for (const { placement } of this.#bars) placement.leaveUnless(undefined)
  }

  #wanted(bar: PciBar): number | undefined {
    const enable = bar.kind === "io" ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY
    if ((this.#space.get16(PCI_COMMAND) & enable) === 0) return undefined
    const address = barAddress(this.#space, bar)
    // 0 is what an unassigned BAR has.
    return address !== 0 && this.#parent.forwardsDown(bar.kind, address, bar.size) ? address : undefined
  }
}

/** Sorts the parts of a BAR and fills what lies between them: it reads as 0 and loses writes. */
function withoutGaps(bar: PciBar, parts: readonly Segment[]): Segment[] {
  const device: BusDevice = { name: `gap in BAR ${bar.index}`, read: () => 0, write: () => undefined }
  const segments: Segment[] = []
  let offset = 0
  for (const part of [...parts].sort((a, b) => a.offset - b.offset)) {
    if (part.offset > offset) segments.push({ offset, size: part.offset - offset, device })
    segments.push(part)
    offset = part.offset + part.size
  }
  if (offset < bar.size) segments.push({ offset, size: bar.size - offset, device })
  return segments
}
