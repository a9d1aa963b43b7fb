import type { VirtioDevice } from "@virtkit/interface"
import { FEATURE, STATUS } from "../spec.js"
import { type DeviceBench, type DeviceBenchOptions, deviceBench } from "./device-bench.js"
import { STARTED, type TestRunner, turn } from "./fixture.js"
import { isRestoreError, NOT_STATES, notPlain, variants } from "./plain-state.js"

/** Runs a test with a fresh device, closes it, and sees that it never threw. */
export type WithDevice = (body: (bench: DeviceBench) => void | Promise<void>) => Promise<void>

/** Bits that transports and queues offer, not devices (6). */
const NOT_THE_DEVICES =
  FEATURE.RING_PACKED | FEATURE.IN_ORDER | FEATURE.NOTIFICATION_DATA | FEATURE.RING_RESET | (1n << 39n)

/** What it says of itself, and its configuration space. */
export function identityTests({ it, expect }: TestRunner, withDevice: WithDevice): void {
  it("5: it has a name, a device type, and queues of possible sizes (2.7)", () => {
    return withDevice(({ device }) => {
      expect([device.name.length > 0, Number.isInteger(device.deviceType)]).toEqual([true, true])
      expect(device.deviceType > 0).toBe(true)
      expect(device.queueMaxSizes.length > 0).toBe(true)
      const possible = device.queueMaxSizes.map((size) => size >= 1 && size <= 32768 && isPowerOfTwo(size))
      expect(possible).toEqual(possible.map(() => true))
      expect(device.features & NOT_THE_DEVICES).toBe(0n)
    })
  })

  it("2.5: its configuration space is read in any width at any offset, and is 0 beyond its end", () => {
    return withDevice(async ({ device, driver }) => {
      await driver.begin()
      const { length } = device.config
      const byte = (offset: number): number => device.config[offset] ?? 0
      const wrong: number[] = []
      for (let offset = 0; offset < length + 8; offset++) {
        for (const size of [1, 2, 4] as const) {
          let expected = 0
          for (let at = 0; at < size; at++) expected += byte(offset + at) * 256 ** at
          if (driver.readConfigAt(offset, size) !== expected) wrong.push(offset)
        }
      }
      expect(wrong).toEqual([])
    })
  })

  for (const when of ["before", "after"] as const) {
    it(`bad-input #5 (2.5): writes of any width at any offset ${when} its start do no harm`, () => {
      return withDevice(async ({ device, driver }) => {
        if (when === "after") await driver.start()
        else await driver.begin()
        const { length } = device.config
        for (let offset = 0; offset < length + 8; offset++) {
          for (const size of [1, 2, 4] as const) {
            for (const value of [0xffff_ffff, 1, 0]) driver.writeConfig(offset, value, size)
          }
        }
        await turn()
        expect(device.config.length).toBe(length)
        await driver.start()
        expect(driver.status).toBe(STARTED)
      })
    })
  }
}

/** 2.2 and 2.4. */
export function lifeTests(runner: TestRunner, withDevice: WithDevice): void {
  const { it, expect } = runner

  it("2.2: it starts whichever of its features are accepted", () => {
    return withDevice(async ({ driver }) => {
      await driver.begin()
      const offered = driver.offeredFeatures()
      const choices = [0n, offered & ~FEATURE.RING_RESET]
      for (let bit = 0n; bit < 64n; bit++) {
        if ((offered & (1n << bit)) !== 0n) choices.push(1n << bit, offered & ~(1n << bit))
      }
      for (const features of choices) {
        await driver.start({ features: features | FEATURE.VERSION_1 })
        expect([features, driver.status]).toEqual([features, STARTED])
      }
    })
  })

  it("2.4: it can be reset and started again, in every step of its start", () => {
    return withDevice(async ({ driver }) => {
      for (let round = 0; round < 3; round++) {
        await driver.begin()
        await driver.begin()
        driver.negotiate()
        await driver.begin()
        await driver.start({ queues: round })
        expect(driver.status).toBe(STARTED)
        await driver.start({ queueSize: 2 })
        expect(driver.status).toBe(STARTED)
      }
    })
  })

  it("bad-input #4 (2.9): notifications of empty queues, and of queues that are not enabled, do nothing", () => {
    return withDevice(async ({ device, driver, interrupt }) => {
      const queues = device.queueMaxSizes.length
      for (const enabled of [queues, 0]) {
        await driver.start({ queues: enabled })
        const before = interrupt.count
        for (let round = 0; round < 50; round++) driver.notify(round % (queues + 2))
        await turn()
        expect([driver.status, interrupt.count - before]).toEqual([STARTED, 0])
      }
    })
  })

  it("bad-input #15 (2.1.2): a broken ring needs a reset, which heals", () => {
    return withDevice(async ({ device, driver }) => {
      for (const index of device.queueMaxSizes.keys()) {
        await driver.start()
        driver.rings[index]?.setAvailIndex(0x7fff)
        const ring = driver.packedRings[index]
        ring?.offer(new Array(ring.size).fill({ address: 0x1000, length: 1, flags: 1 }))
        ring?.publish()
        driver.notify(index)
        await turn()
        // A queue that the device looks at only when it has something is not found broken before that.
        const status = driver.status & ~STATUS.DEVICE_NEEDS_RESET
        expect(status).toBe(STARTED)
        await driver.start()
        expect(driver.status).toBe(STARTED)
      }
    })
  })

  it("2.4: it can be closed at any time, and twice", () => {
    return withDevice(async ({ device, driver, transport }) => {
      await driver.start()
      for (const index of device.queueMaxSizes.keys()) {
        driver.ring(index).add({ writable: [16] })
        driver.kick(index)
      }
      await transport.close()
      await transport.close()
      await device.close()
    })
  })
}

/** `Stateful` of @virtkit/interface; 2.1 to 2.5 are what a driver may rely on over it. */
export function deviceStateTests(
  { it, expect }: TestRunner,
  withDevice: WithDevice,
  options: DeviceBenchOptions & { setup(): VirtioDevice | Promise<VirtioDevice> },
): void {
  const another = async (body: (device: VirtioDevice) => void): Promise<void> => {
    const device = await options.setup()
    try {
      body(device)
    } finally {
      await device.close()
    }
  }

  it("2.4: its state is plain data with a version, and another one goes on with it", () => {
    return withDevice(async ({ device, driver, transport, memory }) => {
      await driver.start()
      const state = device.state()
      expect([notPlain(state), Object.hasOwn(state as object, "version")]).toEqual([undefined, true])
      const saved = transport.state()
      const other = deviceBench(options, await options.setup(), "split", memory)
      try {
        other.transport.restore(structuredClone(saved))
        // What it tells the driver then, as a network device does, is the transport's state.
        expect(other.device.state()).toEqual(state)
        expect([other.driver.status, other.errors]).toEqual([STARTED, []])
      } finally {
        await other.transport.close()
      }
    })
  })

  it("bad-input #31 (2.4): what is no state of it is refused", () => {
    return withDevice(async () => {
      for (const [index, state] of NOT_STATES.entries()) {
        await another((device) => {
          const before = device.state()
          expect([index, isRestoreError(() => device.restore(state))]).toEqual([index, true])
          expect(device.state()).toEqual(before)
        })
      }
    })
  })

  it("bad-input #31 (2.4): a state with any value replaced is refused or fits, and a refused one changes nothing", () => {
    return withDevice(async ({ device, driver }) => {
      await driver.start()
      const state = device.state()
      await another((fresh) => {
        const before = fresh.state()
        for (const variant of variants(state)) {
          let code: unknown
          try {
            fresh.restore(variant)
          } catch (error) {
            code = (error as { code?: unknown }).code
            expect([shown(variant), code]).toEqual([shown(variant), "ERR_VIRTKIT_RESTORE"])
          }
          if (code === undefined) fresh.restore(before)
          expect([shown(variant), fresh.state()]).toEqual([shown(variant), before])
        }
      })
    })
  })
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && (value & (value - 1)) === 0
}

function shown(value: unknown): string | undefined {
  return JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${item}n` : item))
}
