import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { EchoDevice, until } from "@virtkit/testkit"
import { serve, type VhostUserServer, vhostUser } from "@virtkit/vhost-user"
import { Vm } from "@virtkit/vmm"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { guest, RING, virtioGuest } from "../src/index.js"
import { closeAll, keep, listen, noKvm } from "./kvm.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-vhost-user-kvm-"))
const ECHO = { deviceType: 42, queues: 2, configBytes: 7 } as const
const SAID = new TextEncoder().encode("across three processes")
const BUFFERS = 0x31_0000

let sockets = 0
const servers: VhostUserServer[] = []
afterEach(async () => {
  await closeAll()
  for (const server of servers.splice(0)) await server.close()
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function serving(socket: string, device = new EchoDevice()): VhostUserServer {
  const server = serve(device, { socket })
  servers.push(server)
  return server
}

/** A VM whose guest has the echo device of a socket carry out so many requests. */
async function vmOn(socket: string, transport: "pci" | "mmio", requests: number): Promise<Vm> {
  const vm = keep(
    await Vm.create({
      kernel: guest.guestImage(virtioGuest(transport, requests)),
      memory: "16M",
      transport,
      devices: [vhostUser({ type: ECHO, socket, queueSize: 8, name: "echo", reconnect: true })],
    }),
  )
  // One chain: what is said, and room for the answer. All entries of the ring lead to it.
  const { memory } = vm
  memory.write(BUFFERS, SAID)
  for (const [index, [address, length, flags]] of [
    [BUFFERS, SAID.length, 1],
    [BUFFERS + 0x100, SAID.length, 2],
  ].entries()) {
    memory.writeBigUint64(RING.desc + 16 * index, BigInt(address!))
    memory.writeUint32(RING.desc + 16 * index + 8, length!)
    memory.writeUint16(RING.desc + 16 * index + 12, flags!)
    memory.writeUint16(RING.desc + 16 * index + 14, 1)
  }
  return vm
}

async function finish(vm: Vm): Promise<string> {
  const said = listen(vm)
  if (vm.state === "created") await vm.start()
  expect(await vm.exited).toEqual({ reason: "poweroff" })
  return said.text
}

describe(`a guest whose device another process serves${noKvm}`, { timeout: 60_000 }, () => {
  it.skipIf(noKvm !== "").each(["pci", "mmio"] as const)(
    "has its requests carried out, over %s",
    async (transport) => {
      const socket = join(folder, `${sockets++}.sock`)
      serving(socket)
      const vm = await vmOn(socket, transport, 20)
      expect(await finish(vm)).toContain("done")
      const answer = new Uint8Array(SAID.length)
      vm.memory.read(BUFFERS + 0x100, answer)
      expect(answer).toEqual(SAID)
      expect(vm.memory.readUint16(RING.used + 2)).toBe(20)
    },
  )

  it.skipIf(noKvm !== "")(
    "does so without an exit: notifications go to that process, its interrupts to the guest",
    async () => {
      const exits = []
      for (const requests of [10, 200]) {
        const socket = join(folder, `${sockets++}.sock`)
        serving(socket)
        const vm = await vmOn(socket, "pci", requests)
        await finish(vm)
        expect(vm.memory.readUint16(RING.used + 2)).toBe(requests)
        exits.push(vm.statistics().vcpuExits.toUser)
      }
      expect(exits[0]).toBeGreaterThan(0)
      expect(exits[1]).toBe(exits[0])
    },
  )

  it.skipIf(noKvm !== "")("waits while there is none, and goes on with the next one", async () => {
    const socket = join(folder, `${sockets++}.sock`)
    const device = new EchoDevice()
    const first = serving(socket, device)
    const vm = await vmOn(socket, "pci", 300)
    await vm.start()
    await until(() => vm.memory.readUint16(RING.used + 2) > 20, "some requests")
    await first.close()
    expect(existsSync(socket)).toBe(false)
    const at = vm.memory.readUint16(RING.used + 2)
    expect(at).toBeLessThan(300)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect([vm.state, vm.memory.readUint16(RING.used + 2)]).toEqual(["running", at])
    serving(socket)
    await finish(vm)
    expect(vm.memory.readUint16(RING.used + 2)).toBe(300)
  })

  it.skipIf(noKvm !== "")("needs memory that the process can map", async () => {
    const socket = join(folder, `${sockets++}.sock`)
    serving(socket)
    const kernel = guest.guestImage(guest.powerOff)
    const far = () => vhostUser({ type: ECHO, socket, queueSize: 8 })
    const refused = Vm.create({ kernel, memory: "16M", memoryBacking: "anonymous", devices: [far()] })
    await expect(refused).rejects.toThrow(ConfigError)
    const vm = keep(await Vm.create({ kernel: guest.guestImage(guest.halt), memory: "16M", hotPlugSlots: 1 }))
    await vm.start()
    await expect(vm.plug(far())).rejects.toThrow(/another process serves it/)
    await vm.kill()
  })
})
