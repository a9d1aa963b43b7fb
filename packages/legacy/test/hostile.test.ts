import type { AccessSize, BusDevice, Stateful } from "@virtkit/interface"
import {
  AcpiPm,
  CmosRtc,
  DebugConsole,
  DebugExit,
  FW_CFG_PORTS,
  FwCfg,
  I8042,
  PvPanic,
  ResetControl,
  Serial16550,
} from "@virtkit/legacy"
import { TestMemory } from "@virtkit/testkit"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const interrupt = { signal: () => {} }
const ignore = () => {}
const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 4096 }] })
const shared: BusDevice = { name: "shared", read: () => 0, write: ignore }
const files = { a: Uint8Array.of(1, 2, 3) }

const devices: Record<
  string,
  { ports: number; make: () => BusDevice & Partial<Stateful & { close(): void }> }
> = {
  ResetControl: { ports: 8, make: () => new ResetControl({ onReset: ignore, shared }) },
  Serial16550: { ports: 8, make: () => new Serial16550({ interrupt, outputBuffer: 16 }) },
  I8042: { ports: 5, make: () => new I8042({ onReset: ignore, interrupt }) },
  CmosRtc: { ports: 2, make: () => new CmosRtc({ interrupt }) },
  AcpiPm: { ports: 16, make: () => new AcpiPm({ interrupt, onPowerOff: ignore, onReset: ignore }) },
  DebugExit: { ports: 4, make: () => new DebugExit({ onExit: ignore }) },
  DebugConsole: { ports: 1, make: () => new DebugConsole({ onByte: ignore }) },
  FwCfg: { ports: FW_CFG_PORTS, make: () => new FwCfg({ files, memory }) },
  PvPanic: { ports: 1, make: () => new PvPanic({ onPanic: ignore }) },
}

describe.each(Object.entries(devices))("bad-input #35: %s", (_name, { ports, make }) => {
  const access = fc
    .record({
      write: fc.boolean(),
      size: fc.constantFrom<AccessSize>(1, 2, 4),
      offset: fc.nat(ports - 1),
      value: fc.oneof(fc.nat(0xff), fc.integer({ min: 0, max: 0xffffffff })),
    })
    // The bus never hands out an access that crosses the end.
    .filter(({ offset, size }) => offset + size <= ports)

  it("never throws, gives unsigned values of the right width, and a state that can be restored", () => {
    fc.assert(
      fc.property(fc.array(access, { maxLength: 200 }), (accesses) => {
        const device = make()
        for (const { write, size, offset, value } of accesses) {
          if (write)
            expect(device.write(offset, size, size === 4 ? value : value % 2 ** (8 * size))).toBe(undefined)
          const read = device.read(offset, size)
          if (!(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size))) {
            expect.fail(`read ${read} of ${size} bytes at ${offset}`)
          }
        }
        const other = make()
        const state = device.state?.()
        if (state !== undefined) {
          other.restore?.(structuredClone(state))
          expect(other.state?.()).toEqual(state)
        }
        device.close?.()
        other.close?.()
      }),
      { numRuns: 100 },
    )
  })
})
