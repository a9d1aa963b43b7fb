import type { AcceleratedBusDevice, BusDevice } from "@virtkit/interface"
import type { TraceEvent, TraceWindowKind } from "./record-format.js"

export interface TraceLog {
  add(event: TraceEvent): void
}

/** A range of registers, with doorbells and a register page if it has them. */
export type RecordedBusDevice = BusDevice | AcceleratedBusDevice

/**
 * A range of registers as its bus is to get it. An access is recorded before it is carried out, so that what the device
 * does in it follows. Reads of a register page reach nobody, and so are not recorded: leave register pages off for them.
 */
export function recordWindow(
  device: RecordedBusDevice,
  layout: TraceWindowKind,
  window: number,
  log: TraceLog,
  beforeAccess: () => void = () => {},
): RecordedBusDevice {
  const doorbells = "doorbells" in device ? device.doorbells : []
  log.add({
    kind: "window",
    window,
    layout,
    name: device.name,
    doorbells: doorbells.map(({ offset, length, datamatch }) => ({ offset, length, datamatch })),
  })
  const recorded: BusDevice = {
    name: device.name,
    read: (offset, size) => {
      beforeAccess()
      const value = device.read(offset, size)
      log.add({ kind: "read", window, offset, size, value })
      return value
    },
    write: (offset, size, value) => {
      beforeAccess()
      log.add({ kind: "write", window, offset, size, value })
      return device.write(offset, size, value)
    },
  }
  if (!("doorbells" in device)) return recorded
  const setRegisterPage = device.setRegisterPage?.bind(device)
  return {
    ...recorded,
    doorbells: doorbells.map((doorbell, index) => ({
      ...doorbell,
      ring: () => {
        beforeAccess()
        log.add({ kind: "doorbell", window, doorbell: index })
        doorbell.ring()
      },
    })),
    ...(setRegisterPage ? { setRegisterPage } : {}),
  }
}
