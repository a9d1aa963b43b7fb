import { StateError } from "@virtkit/interface"
import { until } from "@virtkit/testkit"
import type { Vm, VmState } from "@virtkit/vmm"
import { afterEach, describe, expect, it } from "vitest"
import { guest } from "../src/index.js"
import { closeAll, counted, noKvm, vmOf } from "./kvm.js"

const operations = ["start", "pause", "resume", "kill", "close"] as const
type Operation = (typeof operations)[number]

/** The diagram of docs/lifecycle.md: where an operation leads from each state; what is missing is refused. */
const diagram: Readonly<Record<VmState, Partial<Record<Operation, VmState>>>> = {
  created: { start: "running", kill: "exited", close: "closed" },
  running: { pause: "paused", kill: "exited", close: "closed" },
  paused: { resume: "running", kill: "exited", close: "closed" },
  exited: { kill: "exited", close: "closed" },
  closed: { kill: "closed", close: "closed" },
}

/** All sequences of `length` operations. */
function sequences(length: number): Operation[][] {
  if (length === 0) return [[]]
  return sequences(length - 1).flatMap((rest) => operations.map((operation) => [...rest, operation]))
}

/** Applies the operations, and compares each outcome with the diagram. */
async function follow(vm: Vm, steps: readonly Operation[]): Promise<void> {
  for (const [index, operation] of steps.entries()) {
    const label = `${steps.slice(0, index + 1).join(", ")} (from ${vm.state})`
    const next = diagram[vm.state][operation]
    const before = vm.state
    const failure = await vm[operation]().then(
      () => undefined,
      (error: unknown) => error,
    )
    if (next === undefined) {
      expect(failure, label).toBeInstanceOf(StateError)
      expect((failure as Error).message, label).toContain(`${operation}: the VM is ${before}`)
    } else expect(failure, label).toBeUndefined()
    expect(vm.state, label).toBe(next ?? before)
  }
}

describe.skipIf(noKvm !== "")(`the life of a VM${noKvm}`, () => {
  afterEach(closeAll)

  it("takes operations in every order as the diagram says, and refuses the others by name", async () => {
    for (const steps of sequences(3)) {
      const vm = await vmOf(guest.spin)
      await follow(vm, steps)
      await vm.close()
      expect(vm.state).toBe("closed")
      expect(await vm.exited).toEqual({ reason: "killed" })
    }
  }, 60_000)

  it("may be paused and resumed again and again, and ended in either state", async () => {
    const vm = await vmOf(guest.countForever)
    await follow(vm, ["start", "pause", "resume", "pause", "resume", "start", "pause", "pause", "kill"])
  })

  it("announces each state", async () => {
    const vm = await vmOf(guest.spin)
    const states: VmState[] = []
    vm.on("state", (state) => states.push(state))
    await follow(vm, ["start", "pause", "resume", "kill", "close"])
    expect(states).toEqual(["running", "paused", "running", "exited", "closed"])
  })

  it("executes nothing while it is paused", async () => {
    const vm = await vmOf(guest.countForever, { cpus: 2 })
    await vm.start()
    await until(() => counted(vm) > 1000, "the guest to count")
    await vm.pause()
    const stood = counted(vm)
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(counted(vm)).toBe(stood)
    await vm.resume()
    await until(() => counted(vm) !== stood, "the guest to go on")
  })

  it("handles no exit while it is paused", async () => {
    const vm = await vmOf([...guest.out(0x3f8, 0x2e), 0xeb, -9 & 0xff])
    await vm.start()
    const exits = () => vm.statistics().vcpuExits.toUser
    await until(() => exits() > 100, "the guest to write")
    await vm.pause()
    const stood = exits()
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(exits()).toBe(stood)
    await vm.resume()
    await until(() => exits() > stood + 100, "the guest to go on")
  })

  it("exits although it is being paused, and pauses although it is being paused", async () => {
    const vm = await vmOf(guest.spin)
    await vm.start()
    await Promise.all([vm.pause(), vm.pause()])
    expect(vm.state).toBe("paused")
    await vm.resume()
    await Promise.all([vm.pause(), vm.kill()])
    expect(vm.state).toBe("exited")
    expect(await vm.exited).toEqual({ reason: "killed" })
  })

  it("comes to its end however many ask for it at once", async () => {
    const vm = await vmOf(guest.halt, { cpus: 3 })
    await vm.start()
    await Promise.all([vm.kill(), vm.close(), vm.kill(), vm.close(), vm.exited])
    expect(vm.state).toBe("closed")
  })

  it("may be closed by the one who hears that it exited", async () => {
    const vm = await vmOf(guest.powerOff)
    const closed = new Promise<void>((resolve) => {
      vm.once("exited", () => resolve(vm.close()))
    })
    await vm.start()
    await closed
    expect(vm.state).toBe("closed")
    expect(await vm.exited).toEqual({ reason: "poweroff" })
  })

  it("has a power button only while it runs", async () => {
    const vm = await vmOf(guest.spin)
    expect(() => vm.pressPowerButton()).toThrow(StateError)
    await vm.start()
    vm.pressPowerButton()
    await vm.kill()
    expect(() => vm.pressPowerButton()).toThrow(StateError)
  })

  it("shows its memory after its end, and not after it was closed", async () => {
    const vm = await vmOf(guest.countForever)
    await vm.start()
    await until(() => counted(vm) > 0, "the guest to count")
    await vm.kill()
    expect(counted(vm)).toBeGreaterThan(0)
    await vm.close()
    expect(() => counted(vm)).toThrow()
  })
})
