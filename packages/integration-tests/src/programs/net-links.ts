// Runs in the lab: takes the other ends of three network devices of a running Linux guest away and brings them back: a TAP
// interface is removed and made anew, passt is killed, the peer of a socket leaves and calls again. Tells what events came,
// what the guest saw, and what passed afterwards.
import { execFileSync } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readFileSync } from "node:fs"
import { createServer, type Socket } from "node:net"
import { type NetDevice, net } from "@virtkit/virtio-net"
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"
import { serialShell } from "../serial-shell.js"

const WIRE = "/tmp/wire.sock"

const ip = (...words: string[]): Buffer => execFileSync("/usr/bin/ip", words)

function makeTap(): void {
  ip("tuntap", "add", "dev", "tap0", "mode", "tap")
  ip("addr", "add", "10.0.5.1/24", "dev", "tap0")
  ip("link", "set", "tap0", "up")
}

/** The other end of the socket: it only listens. */
class Peer {
  bytes = 0
  socket: Socket | undefined
  #server = createServer((socket) => {
    this.socket = socket
    socket.on("data", (bytes) => {
      this.bytes += bytes.length
    })
    socket.on("error", () => {})
  })

  async come(): Promise<void> {
    this.#server.listen(WIRE)
    await once(this.#server, "listening")
  }

  leave(): void {
    this.#server.close()
    this.socket?.destroy()
  }
}

function killPasst(): void {
  const children = readdirSync("/proc/self/task")
    .flatMap((task) => readFileSync(`/proc/self/task/${task}/children`, "utf8").trim().split(" "))
    .filter((pid) => pid !== "")
  for (const pid of children) {
    if (readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("passt")) process.kill(Number(pid), "SIGKILL")
  }
}

// A guard against a link that never comes back, not a statement about time.
setTimeout(() => {
  throw new Error(JSON.stringify(Object.values(cards).map(({ name, linkUp }) => ({ name, linkUp }))))
}, 150_000).unref()

makeTap()
const peer = new Peer()
await peer.come()
const cards = {
  tap: await net({ name: "tap", tap: "tap0", mac: "52:54:00:00:00:01" }),
  passt: await net({ name: "passt", passt: true, mac: "52:54:00:00:00:02" }),
  socket: await net({ name: "socket", socket: { connect: { path: WIRE } }, mac: "52:54:00:00:00:03" }),
}
const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=shell",
  memory: "256M",
  cpus: 1,
  devices: Object.values(cards),
})
await vm.start()
const shell = await serialShell(vm)
await shell("for n in 0 1 2; do ip addr add 10.0.$((5 + n)).2/24 dev eth$n; ip link set eth$n up; done")

const carrier = (card: number, value: 0 | 1): Promise<string> =>
  shell(`until [ "$(cat /sys/class/net/eth${card}/carrier)" = ${value} ]; do usleep 20000; done`)

async function flap(index: number, card: NetDevice, go: () => void, comeBack: () => void | Promise<void>) {
  await carrier(index, 1)
  const events: { up: boolean; reason: string }[] = []
  card.on("link", (up, reason) => events.push({ up, reason }))
  const changed = async (up: boolean): Promise<void> => {
    while (card.linkUp !== up) await once(card, "link")
  }
  go()
  await changed(false)
  // Passt comes back by itself, and soon: a guest may not have looked in time.
  if (card !== cards.passt) await carrier(index, 0)
  await comeBack()
  await changed(true)
  await carrier(index, 1)
  return { events, downs: card.counters.linkDowns }
}

const tap = await flap(0, cards.tap, () => ip("link", "del", "tap0"), makeTap)
const pinged = await shell("ping -c 3 -A -q 10.0.5.1")
const passt = await flap(1, cards.passt, killPasst, () => {})
const leased = await shell("udhcpc -i eth1 -n -q -s /bin/true 2>&1")
const socket = await flap(
  2,
  cards.socket,
  () => peer.leave(),
  () => peer.come(),
)
const before = peer.bytes
await shell("ping -c 1 -W 1 -q 10.0.7.1 || true")
const heard = peer.bytes - before
await vm.kill()
await vm.close()
process.stdout.write(JSON.stringify({ tap, passt, socket, pinged, leased, heard }))
process.exit()
