import type { AccessSize } from "@virtkit/interface"
import { STATUS, type TestMemory } from "@virtkit/testkit"
import type { Input } from "./input.js"
import { must } from "./target.js"

/** The registers of a transport, as a guest reaches them. */
export interface RegisterAccess {
  /** Where to, by a number from 0 to 255. */
  offset(pick: number): number
  read(offset: number, size: AccessSize): number
  write(offset: number, size: AccessSize, value: number): void | Promise<void>
  status(): number
  /** Whatever else can happen. */
  other?(value: number): void | Promise<void>
}

/** Kinds of steps, for seeds. Each has a place, a width, and a value: a byte, 255 for the four that follow. */
export const STEP = { write: 0, read: 1, memory: 2, turn: 3, other: 4 } as const
const STEPS = 5
const SIZES = [1, 2, 4] as const
const MOST_STEPS = 120
/** What a status may be (2.1), DEVICE_NEEDS_RESET, FAILED, and ACKNOWLEDGE aside, which some firmware leaves out. */
const STATUSES = new Set([0, 2, 10, 14])
const NOT_STEPS = STATUS.DEVICE_NEEDS_RESET | STATUS.FAILED | STATUS.ACKNOWLEDGE

/** Carries out what the input says. Throws a finding when a register or the status is what it must not be. */
export async function registerSteps(
  input: Input,
  access: RegisterAccess,
  memory: TestMemory,
  events: Set<string>,
): Promise<void> {
  let before = access.status()
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    const kind = input.u8() % STEPS
    const offset = access.offset(input.u8())
    const size = input.pick(SIZES)
    const short = input.u8()
    const value = short === 0xff ? input.u32() : short
    if (kind === STEP.write) {
      // Awaited as a vCPU would: while a reset is under way the guest does nothing else on it.
      const pending = access.write(offset, size, size === 4 ? value : value & (2 ** (8 * size) - 1))
      if (pending !== undefined) await pending
    } else if (kind === STEP.memory) {
      memory.writeUint32((offset * 16 + short * 4) & 0xfffc, value)
    } else if (kind === STEP.turn) {
      await new Promise((resolve) => setImmediate(resolve))
    } else if (kind === STEP.other) {
      const pending = access.other?.(value)
      if (pending !== undefined) await pending
    }
    const read = access.read(offset, size)
    must(Number.isInteger(read) && read >= 0 && read < 2 ** (8 * size), `${size} bytes read as ${read}`)
    const status = access.status()
    must(STATUSES.has(status & ~NOT_STEPS), `status ${status}`)
    if (status !== before) events.add(`status ${before} to ${status}`)
    before = status
  }
}

/** What a transport promises a device (`VirtioDevice`), by the calls that one got. */
export function wellBehaved(calls: readonly string[], events: Set<string>): void {
  let active = false
  for (const call of calls) {
    if (call === "activate") {
      must(!active, "activated twice")
      active = true
    } else if (call === "reset") {
      active = false
    } else if (call.startsWith("notify") || call.startsWith("resetQueue")) {
      must(active, `${call} of a device that is not active`)
    }
    events.add(call)
  }
}
