// Runs in the lab: two Linux guests in one process, on one switch, whose filter drops every DROPth frame. Each sends BYTES random
// bytes to the other by TCP. Tells the checksums of what was sent and of what came.
import { net } from "@virtkit/virtio-net"
import { netSwitch } from "@virtkit/virtio-net/switch"
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"
import { serialShell } from "../serial-shell.js"

const [drop, bytes] = process.argv.slice(2).map(Number) as [number, number]

const lan = netSwitch()
let frames = 0
let dropped = 0

async function start(number: number) {
  const vm = await Vm.create({
    kernel: IN_LAB.kernel,
    initrd: IN_LAB.initrd,
    cmdline: "quiet script=shell",
    memory: "192M",
    cpus: 1,
    devices: [await net({ backend: lan.port(), mac: `52:54:00:00:00:0${number}` })],
  })
  await vm.start()
  const shell = await serialShell(vm)
  await shell(`ip addr add 10.0.9.${number}/24 dev eth0; ip link set eth0 up; mkfifo /tmp/never`)
  return { vm, shell, address: `10.0.9.${number}` }
}

type Guest = Awaited<ReturnType<typeof start>>

/** The nc that receives must not see an end of its input: opened for both, a FIFO has none. */
async function send(from: Guest, to: Guest): Promise<{ sent: string; got: string }> {
  const sent = await from.shell(`head -c ${bytes} /dev/urandom >/tmp/sent; md5sum </tmp/sent`)
  const got = to.shell("nc -l -p 7000 >/tmp/got <>/tmp/never; md5sum </tmp/got")
  await from.shell(`until nc ${to.address} 7000 </tmp/sent >/dev/null 2>&1; do usleep 100000; done`)
  return { sent, got: await got }
}

const one = await start(1)
const two = await start(2)
await one.shell("ping -c 1 -q 10.0.9.2")
lan.filter = () => {
  const pass = ++frames % drop !== 0
  if (!pass) dropped++
  return pass
}
const there = await send(one, two)
const back = await send(two, one)
const retransmitted = await one.shell(`awk '/^Tcp:/ && n++ { print $13 }' /proc/net/snmp`)
for (const { vm } of [one, two]) {
  await vm.kill()
  await vm.close()
}
process.stdout.write(
  JSON.stringify({ there, back, frames, dropped, retransmitted: Number(retransmitted.trim()) }),
)
process.exit()
