import type { GuestMemoryMap } from "@virtkit/memory"
import { mmapMemory } from "@virtkit/memory/mmap"
import { FakeInterrupt, MmioDriver } from "@virtkit/testkit"
import { type VhostUserDevice, type VhostUserOptions, vhostUser } from "@virtkit/vhost-user"
import { VirtioMmio } from "@virtkit/virtio"
import { keep } from "./fixture.js"

/** How the driver side is told of the echo device of the testkit. */
export const ECHO = { deviceType: 42, queues: 2, configBytes: 7 } as const

export interface Driven {
  readonly device: VhostUserDevice
  readonly transport: VirtioMmio
  readonly driver: MmioDriver
  readonly interrupt: FakeInterrupt
  readonly memory: GuestMemoryMap
  /** Why the device needs a reset. */
  readonly reasons: string[]
  /** "connected", "disconnected" with the reason. */
  readonly events: string[]
}

export interface DrivenOptions extends Partial<VhostUserOptions> {
  readonly socket: string
  readonly backing?: "memfd" | "anonymous"
}

/** A device of another process behind a transport, and the driver for that. */
export async function driven(options: DrivenOptions): Promise<Driven> {
  const { backing = "memfd", ...others } = options
  const device = keep(await vhostUser({ type: ECHO, queueSize: 8, name: "far", ...others }))
  const memory = keep(mmapMemory([{ guestAddress: 0x10000, size: 1 << 20 }], { backing }))
  const interrupt = new FakeInterrupt()
  const reasons: string[] = []
  const events: string[] = []
  device.on("connected", () => events.push("connected"))
  device.on("disconnected", (reason) => events.push(`disconnected ${reason}`))
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt,
    packed: true,
    inOrder: true,
    onNeedsReset: (reason) => reasons.push(reason),
    onError: (error) => reasons.push(`bug: ${error.message}`),
  })
  keep(transport)
  return {
    device,
    transport,
    driver: new MmioDriver({ device: transport, memory }),
    interrupt,
    memory,
    reasons,
    events,
  }
}
