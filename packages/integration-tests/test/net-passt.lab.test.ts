import type { LabProcess } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { GUEST_SHELL, GuestShell, IN_LAB, LinuxLab } from "../src/index.js"

const GiB = 2 ** 30
const NEAR = "192.0.2.1"
const FAR = "192.0.2.2"
/** Which is nobody: what a guest sends there, passt takes to the host itself. */
const ROUTER = "192.0.2.254"
const MIB = 100

/** What udhcpc runs. The lease's MTU is worth having: passt's wire has no offloads. */
const LEASE = `[ "$1" = bound ] || exit 0
ip link set "$interface" mtu "\${mtu:-1500}"
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router" dev "$interface"
for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
`

interface Flap {
  readonly events: readonly { up: boolean; reason: string }[]
  readonly downs: number
}

interface Links {
  readonly tap: Flap
  readonly passt: Flap
  readonly socket: Flap
  readonly pinged: string
  readonly leased: string
  /** Bytes that the peer of the socket got from the guest after it came back. */
  readonly heard: number
}

describe("a guest of a user without privilege", { timeout: 300_000 }, () => {
  let linux: LinuxLab
  let far: LabProcess | undefined
  let sum = ""

  beforeAll(async () => {
    linux = await LinuxLab.start(
      { shell: GUEST_SHELL, lease: LEASE },
      { memory: 2 * GiB, include: ["ip", "passt"], modules: ["virtio_net"] },
    )
    // The lab is the guest's host, and has a network with one other host on it.
    await linux.sh(`ip() { /usr/bin/ip "$@"; } # busybox has one, too
modprobe veth
ip netns add far
ip link add near type veth peer name far netns far
ip addr add ${NEAR}/24 dev near
ip link set near up
ip -n far addr add ${FAR}/24 dev far
ip -n far link set far up
ip route add default via ${ROUTER}
echo 'nameserver ${FAR}' >/etc/resolv.conf
chmod 666 /dev/kvm
mkdir /tmp/alice
chown 1000 /tmp/alice
echo 'alice:x:1000:1000::/tmp/alice:/bin/sh' >>/etc/passwd`)
    far = linux.lab.spawn([
      ...["nsenter", "--net=/run/netns/far", "node", `${IN_LAB.programs}/far-host.js`],
      ...[FAR, String(MIB << 20)],
    ])
    for await (const line of far.stdout) {
      sum = String(line).trim()
      break
    }
  }, 240_000)
  afterAll(async () => {
    far?.kill("SIGTERM")
    await far?.exited
    await linux?.lab.close()
  }, 60_000)

  /** A guest that `virtkit run` was started for by Alice, with a lease. */
  async function start(...args: string[]): Promise<GuestShell> {
    const command = [
      ...["node", IN_LAB.virtkit, "run", "--accel=kvm", "--timeout=120", `--kernel=${IN_LAB.kernel}`],
      ...[`--initrd=${IN_LAB.initrd}`, "--cmdline='quiet script=shell'", "--console=virtio", ...args],
    ]
    const su = ["su", "-s", "/bin/sh", "-c", `exec ${command.join(" ")}`, "alice"]
    const shell = await GuestShell.start(linux.lab.spawn(su))
    await shell.run("{ echo '#!/bin/sh'; cat /scripts/lease; } >/tmp/lease; chmod +x /tmp/lease")
    await shell.run("ip link set eth0 up; udhcpc -i eth0 -O mtu -s /tmp/lease -n -q 2>&1")
    return shell
  }

  it(`has a lease, names, and ${MIB} MiB by HTTP, without having asked for a network`, async () => {
    const shell = await start()
    expect(await shell.run("ip -4 -o addr show dev eth0")).toContain(` ${NEAR}/24 `)
    expect(await shell.run("nslookup files.example")).toContain(FAR)
    expect(sum).toMatch(/^[0-9a-f]{32}$/)
    expect(await shell.run(`wget -q -O - http://files.example/${MIB << 20} | md5sum`)).toBe(`${sum}  -\n`)
    expect(await shell.end()).toEqual({ status: 0, stderr: "" })
  })

  it("serves on a port of the host that leads to it", async () => {
    const shell = await start("--net=passt,tcp=8080:80")
    await shell.run("mkdir /www; echo from the guest >/www/index.html; httpd -p 80 -h /www")
    expect(await linux.sh("wget -q -O - http://127.0.0.1:8080/")).toBe("from the guest\n")
    expect(await shell.end()).toEqual({ status: 0, stderr: "" })
  })

  it("has no network when none is asked for", async () => {
    const su = ["su", "-s", "/bin/sh", "-c"]
    const run = `node ${IN_LAB.virtkit} run --accel=kvm --kernel=${IN_LAB.kernel} --initrd=${IN_LAB.initrd} --cmdline='quiet script=shell' --console=virtio --net=none`
    const shell = await GuestShell.start(linux.lab.spawn([...su, `exec ${run}`, "alice"]))
    expect(await shell.run("ls /sys/class/net")).toBe("lo\n")
    await shell.end()
  })

  it("loses a link with its TAP, its passt, its peer, lives, and has it back with them", async () => {
    await linux.sh("modprobe tun")
    const { tap, passt, socket, pinged, leased, heard } = (await linux.program("net-links")) as Links
    expect(tap).toEqual({
      events: [
        { up: false, reason: "tap tap0 went away (EBADFD)" },
        { up: true, reason: "tap tap0 is back" },
      ],
      downs: 1,
    })
    expect(passt).toEqual({
      events: [
        { up: false, reason: expect.stringMatching(/^passt ended by SIGKILL/) },
        { up: true, reason: "passt runs" },
      ],
      downs: 1,
    })
    expect(socket).toEqual({
      events: [
        { up: false, reason: "the other end closed the connection" },
        { up: true, reason: "stream client /tmp/wire.sock: connected" },
      ],
      downs: 1,
    })
    expect(pinged).toContain("3 packets transmitted, 3 packets received")
    expect(leased).toContain(`lease of ${NEAR} obtained`)
    expect(heard).toBeGreaterThan(0)
  })
})
