import type { FieldReader, FieldWriter } from "./record-fields.js"
import { RECORD_TYPES, TraceError, type TraceEvent, type TraceRecord, WINDOW_KINDS } from "./record-format.js"

const TWO_32 = 2 ** 32

/** One record: its type, microseconds since the record before, its fields in the order of `TraceEvent`. */
export function encodeRecord(to: FieldWriter, event: TraceEvent, elapsed: number): void {
  to.number(RECORD_TYPES.indexOf(event.kind))
  to.number(elapsed)
  switch (event.kind) {
    case "activate":
      to.number(Number(event.features & 0xffff_ffffn))
      to.number(Number(event.features >> 32n))
      to.number(event.queueSizes.length)
      for (const size of event.queueSizes) to.number(size)
      break
    case "notify":
    case "queue-reset":
    case "queue-reset-done":
    case "flush":
      to.number(event.queue)
      break
    case "queue-start":
      to.number(event.queue)
      to.number(event.size)
      break
    case "write-config":
      to.number(event.offset)
      to.bytes(event.data)
      break
    case "chain":
      encodeChain(to, event)
      break
    case "used":
      to.number(event.queue)
      to.number(event.id)
      to.number(event.written)
      to.bytes(event.data)
      to.bytes(event.tail)
      break
    case "config":
      to.bytes(event.config)
      break
    case "needs-reset":
      to.text(event.reason)
      break
    case "window":
      encodeWindow(to, event)
      break
    case "read":
    case "write":
      to.number(event.window)
      to.number(event.offset)
      to.number(event.size)
      to.number(event.value)
      break
    case "doorbell":
      to.number(event.window)
      to.number(event.doorbell)
      break
    case "interrupt":
      to.number(event.vector)
      break
    case "slot":
      to.number((event.busMaster ? 1 : 0) | (event.msix ? 2 : 0))
      break
    case "intx":
      to.number(event.asserted ? 1 : 0)
      break
    case "reset":
    case "reset-done":
    case "function-reset":
      break
    default:
      event satisfies never
  }
}

/** A buffer is two numbers: its address, and twice its length, plus 1 if it is writable. */
function encodeChain(to: FieldWriter, event: TraceEvent & { kind: "chain" }): void {
  to.number(event.queue)
  to.number(event.id)
  to.number(event.head)
  to.number(event.buffers.length)
  for (const { address, length, writable } of event.buffers) {
    to.number(address)
    to.number(length * 2 + (writable ? 1 : 0))
  }
  to.bytes(event.data)
}

/** A doorbell is three numbers: offset, length, and 0 or the value that it matches plus 1. */
function encodeWindow(to: FieldWriter, event: TraceEvent & { kind: "window" }): void {
  to.number(event.window)
  to.number(WINDOW_KINDS.indexOf(event.layout))
  to.text(event.name)
  to.number(event.doorbells.length)
  for (const { offset, length, datamatch } of event.doorbells) {
    to.number(offset)
    to.number(length)
    to.number(datamatch === undefined ? 0 : datamatch + 1)
  }
}

/** The next record. `number`: its own; `time`: of the record before, in microseconds. Throws {@link TraceError}. */
export function decodeRecord(from: FieldReader, number: number, time: number): TraceRecord {
  const kind = RECORD_TYPES[from.number()]
  if (kind === undefined) throw new TraceError(`corrupt trace: record ${number} is of no known type`)
  const elapsed = from.number()
  return { ...decodeEvent(from, kind), number, time: time + elapsed }
}

function decodeEvent(from: FieldReader, kind: TraceEvent["kind"]): TraceEvent {
  switch (kind) {
    case "activate": {
      const low = from.number()
      const features = BigInt(low) + BigInt(from.number()) * BigInt(TWO_32)
      return { kind, features, queueSizes: Array.from({ length: from.count() }, () => from.number()) }
    }
    case "notify":
    case "queue-reset":
    case "queue-reset-done":
    case "flush":
      return { kind, queue: from.number() }
    case "queue-start":
      return { kind, queue: from.number(), size: from.number() }
    case "write-config":
      return { kind, offset: from.number(), data: from.bytes() }
    case "chain":
      return decodeChain(from)
    case "used":
      return {
        kind,
        queue: from.number(),
        id: from.number(),
        written: from.number(),
        data: from.bytes(),
        tail: from.bytes(),
      }
    case "config":
      return { kind, config: from.bytes() }
    case "needs-reset":
      return { kind, reason: from.text() }
    case "window":
      return decodeWindow(from)
    case "read":
    case "write":
      return {
        kind,
        window: from.number(),
        offset: from.number(),
        size: from.number(),
        value: from.number(),
      }
    case "doorbell":
      return { kind, window: from.number(), doorbell: from.number() }
    case "interrupt":
      return { kind, vector: from.number() }
    case "slot": {
      const bits = from.number()
      return { kind, busMaster: (bits & 1) !== 0, msix: (bits & 2) !== 0 }
    }
    case "intx":
      return { kind, asserted: from.number() !== 0 }
    case "reset":
    case "reset-done":
    case "function-reset":
      return { kind }
  }
}

function decodeChain(from: FieldReader): TraceEvent {
  const [queue, id, head] = [from.number(), from.number(), from.number()]
  const buffers = Array.from({ length: from.count() }, () => {
    const address = from.number()
    const length = from.number()
    return { address, length: Math.floor(length / 2), writable: length % 2 === 1 }
  })
  return { kind: "chain", queue, id, head, buffers, data: from.bytes() }
}

function decodeWindow(from: FieldReader): TraceEvent {
  const window = from.number()
  const layout = WINDOW_KINDS[from.number()]
  if (layout === undefined) throw new TraceError("corrupt trace: a window of no known kind")
  const name = from.text()
  const doorbells = Array.from({ length: from.count() }, () => {
    const [offset, length, match] = [from.number(), from.number(), from.number()]
    return { offset, length, datamatch: match === 0 ? undefined : match - 1 }
  })
  return { kind: "window", window, layout, name, doorbells }
}
