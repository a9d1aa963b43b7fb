import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer, Socket } from "node:net"
import { networkInterfaces, tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { until } from "@virtkit/testkit"
import { net } from "@virtkit/virtio-net"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { frame, GUEST_MAC, header, macBytes, Nic, RX, received } from "./helpers.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-passt-"))
afterAll(() => rmSync(folder, { recursive: true }))

const opened: Nic[] = []
afterEach(async () => {
  for (const n of opened.splice(0)) await n.device.close()
})

async function started(
  passt: Parameters<typeof net>[0] extends infer O ? Extract<O, { passt: unknown }>["passt"] : never,
) {
  const device = await net({ passt, mac: GUEST_MAC })
  const n = new Nic(device, { queueSize: 64 })
  opened.push(n)
  n.harness.start()
  return n
}

/** A program with the command line of passt, written for Node.js; it notes its arguments in `log`. */
function program(name: string, body: string): { command: string; log: () => string[] } {
  const command = join(folder, name)
  const log = `${command}.log`
  writeFileSync(
    command,
    `#!${process.execPath}
const { appendFileSync } = require("node:fs")
appendFileSync(${JSON.stringify(log)}, process.argv.slice(2).join(" ") + "\\n")
const wire = new (require("node:net").Socket)({ fd: 3 })
wire.on("close", () => process.exit(0))
${body}
`,
  )
  chmodSync(command, 0o755)
  return {
    command,
    log: () => (existsSync(log) ? readFileSync(log, "utf8").trimEnd().split("\n") : []),
  }
}

describe("the passt backend", () => {
  it("starts it, speaks its framing, forwards ports, ends it", async () => {
    const echo = program("echo", `wire.on("data", (data) => wire.write(data))`)
    const n = await started({ command: echo.command, tcp: ["8080:80", "22"], udp: ["53"], args: ["--debug"] })
    expect(n.device.linkUp).toBe(true)
    const chains = n.post([[2000], [2000]])
    await n.send([
      [header(), frame(60, 1)],
      [header(), frame(1514, 2)],
    ])
    await until(() => {
      n.harness.ring(RX).reap()
      return chains[1]!.written !== undefined
    }, "the echo")
    expect(chains.map((chain) => received(chain).bytes)).toEqual([frame(60, 1), frame(1514, 2)])
    await n.device.close()
    expect(echo.log()).toEqual([
      "--foreground --quiet --fd 3 --tcp-ports 8080:80 --tcp-ports 22 --udp-ports 53 --debug",
    ])
  })

  let kills = 0

  /** Kills a child, and waits until another one runs. */
  async function killOne() {
    const pidFile = join(folder, `pid${kills}`)
    const child = program(
      `killed${kills++}`,
      `require("node:fs").writeFileSync(${JSON.stringify(pidFile)}, String(process.pid))`,
    )
    const n = await started({ command: child.command })
    const events: [boolean, string][] = []
    n.device.on("link", (up, reason) => events.push([up, reason]))
    await until(() => existsSync(pidFile) && readFileSync(pidFile, "utf8") !== "", "the child")
    process.kill(Number(readFileSync(pidFile, "utf8")), "SIGKILL")
    await until(() => events.length === 2, "the link to go and come")
    return events
  }

  it("is started again when it is killed, and the link comes back", async () => {
    expect(await killOne()).toEqual([
      [false, "passt ended by SIGKILL"],
      [true, "passt runs"],
    ])
  })

  it("says why it ended, and does not try again what cannot work", async () => {
    const wrong = program("wrong", `process.stderr.write("first\\nNo such port\\n", () => process.exit(1))`)
    const n = await started({ command: wrong.command })
    const reasons: string[] = []
    n.device.on("link", (_up, reason) => reasons.push(reason))
    await until(() => reasons.length > 0, "the end")
    expect(reasons).toEqual(["passt ended with status 1: No such port"])
    await n.send([[header(), frame()]])
    expect(n.device.counters.txDropped).toBe(1)
    // As long as it takes to start one again.
    await killOne()
    expect(wrong.log()).toHaveLength(1)
  })

  it("refuses what it cannot start", async () => {
    await expect(net({ passt: { command: "no-such-passt" } })).rejects.toThrow(
      /not installed.*apt install passt/,
    )
    await expect(net({ passt: { command: folder } })).rejects.toThrow(ConfigError)
    for (const tcp of ["http", "80:", "1-2-3", "80,81", "--help"]) {
      await expect(net({ passt: { tcp: [tcp] } })).rejects.toThrow(/port to forward/)
    }
  })
})

const passt = (process.env.PATH ?? "").split(":").some((path) => existsSync(join(path, "passt")))
const address = Object.values(networkInterfaces())
  .flat()
  .find((entry) => entry?.family === "IPv4" && !entry.internal)?.address
const why = passt
  ? address === undefined
    ? " (skipped: no IPv4 address)"
    : ""
  : " (skipped: passt is not installed)"

describe.skipIf(why !== "")(`passt itself${why}`, () => {
  it("answers DHCP, and forwards a port of the host to the guest", async () => {
    const server = createServer()
    const port = await new Promise<number>((resolve) => {
      server.listen(0, () => resolve((server.address() as { port: number }).port))
    })
    await new Promise((resolve) => server.close(resolve))
    const n = await started({ tcp: [`${port}:80`], args: ["--ipv4-only"] })
    const chains = n.post(Array.from({ length: 32 }, () => [2000]))
    const find = async (what: string, match: (bytes: DataView) => boolean) => {
      let found: Uint8Array | undefined
      await until(() => {
        n.harness.ring(RX).reap()
        found = chains
          .filter((chain) => chain.written !== undefined)
          .map((chain) => received(chain).bytes)
          .find(
            (bytes) => bytes.length > 41 && match(new DataView(bytes.buffer, bytes.byteOffset, bytes.length)),
          )
        return found !== undefined
      }, what)
      return new DataView(found!.buffer, found!.byteOffset, found!.length)
    }
    await n.send([[header(), dhcpDiscover()]])
    // From port 67 to 68: an offer of the host's own address.
    const offer = await find("an offer", (bytes) => bytes.getUint32(34) === 0x0043_0044)
    const offered = [0, 1, 2, 3].map((i) => offer.getUint8(58 + i)).join(".")
    expect(offered).toBe(address)
    // A connection to the port: passt asks who has the guest's address, or sends the SYN at once.
    const client = new Socket().on("error", () => {})
    client.connect(port, address!)
    await find(
      "a SYN for port 80",
      (bytes) => bytes.getUint8(23) === 6 && bytes.getUint16(36) === 80 && (bytes.getUint8(47) & 2) === 2,
    )
    client.destroy()
  })
})

/** DHCPDISCOVER in UDP, IPv4 and Ethernet (RFC 2131). */
function dhcpDiscover(): Uint8Array {
  const bytes = new Uint8Array(14 + 20 + 8 + 244)
  const view = new DataView(bytes.buffer)
  bytes.fill(0xff, 0, 6)
  bytes.set(macBytes(GUEST_MAC), 6)
  view.setUint16(12, 0x0800)
  view.setUint16(14, 0x4500)
  view.setUint16(16, bytes.length - 14)
  view.setUint16(22, 0x4011)
  bytes.fill(0xff, 30, 34)
  let sum = 0
  for (let i = 14; i < 34; i += 2) sum += view.getUint16(i)
  view.setUint16(24, ~((sum & 0xffff) + (sum >>> 16)) & 0xffff)
  view.setUint16(34, 68)
  view.setUint16(36, 67)
  view.setUint16(38, bytes.length - 34)
  bytes.set([1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef], 42)
  bytes.set(macBytes(GUEST_MAC), 70)
  bytes.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 278)
  return bytes
}
