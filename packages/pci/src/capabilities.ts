import { ConfigError, type PciCapability, type PciMsixLayout } from "@virtkit/interface"
import { type ConfigField, type ConfigSpace, le } from "./config-space.js"
import * as reg from "./constants.js"

/** A capability as the list holds it: fields with offsets from its start; the ID and the pointer come from the list. */
export interface CapabilityLayout {
  readonly id: number
  /** Bytes, the two of the list's header included. */
  readonly size: number
  fields(start: number): ConfigField[]
}

/**
 * Chains capabilities up from 0x40 (PCI 3.0, 6.7), each at a multiple of 4. Returns the offset of each. Throws
 * {@link ConfigError} when they do not fit.
 */
export function declareCapabilities(
  space: ConfigSpace,
  name: string,
  list: readonly CapabilityLayout[],
): number[] {
  const starts: number[] = []
  let next = reg.PCI_STD_HEADER_SIZEOF
  for (const { size } of list) {
    starts.push(next)
    next += Math.ceil(size / 4) * 4
  }
  if (next > reg.PCI_CFG_SPACE_SIZE) {
    throw new ConfigError(`${name}: its capabilities need ${next - reg.PCI_CFG_SPACE_SIZE} bytes too many`)
  }
  space.declare({ offset: reg.PCI_CAPABILITY_LIST, value: le(1, starts[0] ?? 0) })
  for (const [index, capability] of list.entries()) {
    const start = starts[index]!
    space.declare({ offset: start, value: Uint8Array.of(capability.id, starts[index + 1] ?? 0) })
    for (const field of capability.fields(start)) space.declare(field)
  }
  return starts
}

/** Message control, table and pending bits (PCI 3.0, 6.8.2). */
export function msixCapability(layout: PciMsixLayout, controlWritten: () => void): CapabilityLayout {
  return {
    id: reg.PCI_CAP_ID_MSIX,
    size: reg.PCI_CAP_MSIX_SIZEOF,
    fields: (start) => [
      {
        offset: start + reg.PCI_MSIX_FLAGS,
        value: le(2, layout.vectors - 1),
        writable: le(2, reg.PCI_MSIX_FLAGS_ENABLE | reg.PCI_MSIX_FLAGS_MASKALL),
        written: controlWritten,
      },
      { offset: start + reg.PCI_MSIX_TABLE, value: le(4, layout.tableOffset | layout.bar) },
      { offset: start + reg.PCI_MSIX_PBA, value: le(4, layout.pbaOffset | layout.bar) },
    ],
  }
}

/**
 * A function's own capability: its `body` and the bytes of configuration space are kept equal. `bodies` gets a function
 * that puts the body of after construction back.
 */
export function ownCapability(
  space: ConfigSpace,
  capability: PciCapability,
  bodies: { reset(): void; restored(): void }[],
): CapabilityLayout {
  const { body, writable } = capability
  const initial = body.slice()
  return {
    id: capability.id,
    size: 2 + body.length,
    fields: (start) => {
      const offset = start + 2
      const show = () => space.set(offset, body)
      bodies.push({
        reset: () => body.set(initial),
        restored: () => body.set(space.slice(offset, body.length)),
      })
      const field = {
        offset,
        value: initial,
        ...(writable === undefined ? {} : { writable }),
        // What the function itself may change at a write or before a read.
        ...(capability.written || capability.beforeRead
          ? { volatile: new Uint8Array(body.length).fill(0xff) }
          : {}),
        written: (at: number, size: number) => {
          body.set(space.slice(at, size), at - offset)
          const result = capability.written?.(at - offset, size)
          show()
          return result?.then(show)
        },
        beforeRead: (at: number, size: number) => {
          capability.beforeRead?.(at - offset, size)
          show()
        },
      }
      return [field]
    },
  }
}
