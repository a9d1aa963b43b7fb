import { execFile } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { expect, it } from "vitest"
import { guestFiles } from "../src/index.js"

const execute = promisify(execFile)
const MAC = "52:54:00:12:34:56"
const VIRTKIT = fileURLToPath(new URL("../../cli/dist/bin.js", import.meta.url))

const SCRIPT = `ip addr add 10.0.5.2/24 dev eth0
ip link set eth0 up
cat /sys/class/net/eth0/address
arping -c 2 -w 3 -I eth0 10.0.5.1 >/dev/null
`

const LEASE = `#!/bin/sh
[ "$1" = bound ] && echo "$ip/$mask by $router from $serverid" >/dev/console
`

it("virtkit run --accel lab --net passt: the guest has an address, that of the lab", async () => {
  const script = "ip link set eth0 up\nudhcpc -i eth0 -s /lease -n -q >/dev/null 2>&1\n"
  const { kernel, initrd } = await guestFiles(
    { net: script },
    { modules: ["virtio_net"], files: [{ target: "/lease", data: LEASE, mode: 0o755 }] },
  )
  const { stdout } = await execute(process.execPath, [
    ...[VIRTKIT, "run", "--accel=lab", `--kernel=${kernel.vmlinuz}`, `--initrd=${initrd}`],
    ...["--cmdline=quiet script=net", "--memory=256M", "--console=virtio", "--timeout=90", "--net=passt"],
  ])
  expect(stdout.replaceAll("\r", "")).toMatch(/^192\.0\.2\.1\/24 by 192\.0\.2\.254 from \S+\n$/)
}, 240_000)

it("virtkit run --accel lab --net: the card is the guest's, and its capture comes out of the lab", async () => {
  const directory = await mkdtemp(join(tmpdir(), "virtkit-net-"))
  try {
    const { kernel, initrd } = await guestFiles({ net: SCRIPT }, { modules: ["virtio_net"] })
    const capture = join(directory, "net.pcapng")
    const { stdout } = await execute(process.execPath, [
      ...[VIRTKIT, "run", "--accel=lab", `--kernel=${kernel.vmlinuz}`, `--initrd=${initrd}`],
      ...["--cmdline=quiet script=net", "--memory=256M", "--console=virtio", "--timeout=90"],
      `--net=tap=tap0,create,mac=${MAC},capture=${capture}`,
    ])
    expect(stdout.replaceAll("\r", "")).toBe(`${MAC}\n`)
    const { stdout: packets } = await execute("tcpdump", ["-n", "-e", "-r", capture, "arp"])
    expect(packets).toMatch(new RegExp(`${MAC} > ff:ff:ff:ff:ff:ff.* who-has 10\\.0\\.5\\.1 `))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}, 240_000)
