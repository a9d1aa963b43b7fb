import { createHash, randomBytes } from "node:crypto"
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable } from "node:stream"
import { setTimeout as delay } from "node:timers/promises"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { findAgent, hostTscKhz } from "../src/agent.js"
import { type ExecOptions, Lab } from "../src/index.js"

const MiB = 2 ** 20

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex")
}

/* One lab for all of them: a start costs seconds. */
describe("a lab", { timeout: 120_000 }, () => {
  let lab: Lab
  let directory = ""
  const disk = Buffer.alloc(MiB, "disk0")

  const sh = async (script: string, options: ExecOptions = {}) => {
    const { status, signal, stdout, stderr } = await lab.exec(["sh", "-c", script], options)
    return { status, signal, stdout: stdout.toString(), stderr: stderr.toString() }
  }

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
    await writeFile(join(directory, "disk0"), disk)
    await writeFile(join(directory, "disk1"), Buffer.alloc(MiB))
    await writeFile(join(directory, "plug"), Buffer.alloc(MiB, "plugged"))
    await mkdir(join(directory, "share"))
    await writeFile(join(directory, "share/hello.js"), "console.log('hello from ' + process.version)\n")
    lab = await Lab.start({
      memory: 1024 * MiB,
      disks: [{ path: join(directory, "disk0"), readonly: true }, { path: join(directory, "disk1") }],
      shares: [{ source: join(directory, "share"), target: "/share" }],
      timeout: 120_000,
    })
  }, 180_000)

  afterAll(async () => {
    await lab?.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  it("has KVM, both CPUs, the host's time and a loopback", async () => {
    expect(
      await sh("test -w /dev/kvm && dmesg | grep -c 'Nested Virtualization enabled'; nproc"),
    ).toMatchObject({ stdout: "1\n2\n" })
    const { stdout } = await sh(
      "date +%s; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo up; echo x >/tmp/x && cat /tmp/x",
    )
    const [time, ...rest] = stdout.trim().split("\n")
    expect(Math.abs(Number(time) - Date.now() / 1000)).toBeLessThan(120)
    expect(rest).toEqual(["up", "x"])
  })

  it("has a clock that goes as fast as the host's", async () => {
    const uptime = async (): Promise<number> => Number((await sh("cat /proc/uptime")).stdout.split(" ")[0])
    const times = [performance.now()]
    const first = await uptime()
    times.push(performance.now())
    await delay(2000)
    times.push(performance.now())
    const passed = 1000 * ((await uptime()) - first)
    times.push(performance.now())
    // The lab was asked some time between each two: bounds that hold however busy the host is, but for the digits of uptime.
    expect(passed).toBeGreaterThan(0.98 * (times[2]! - times[1]!) - 20)
    expect(passed).toBeLessThan(1.02 * (times[3]! - times[0]!) + 20)
    // Its kernel was told.
    const khz = await hostTscKhz(await findAgent())
    const { stdout } = await sh("cat /proc/cmdline")
    expect(Number(/ tsc_early_khz=(\d+)$/m.exec(stdout)?.[1]) / khz).toBeCloseTo(1, 3)
  })

  it("tells stdout, stderr and the status apart", async () => {
    expect(await sh("echo out; echo err >&2; exit 3")).toEqual({
      status: 3,
      signal: null,
      stdout: "out\n",
      stderr: "err\n",
    })
    expect(await sh("kill -9 $$")).toMatchObject({ status: null, signal: "SIGKILL" })
    await expect(lab.exec(["no-such-command"])).rejects.toMatchObject({ code: "ENOENT" })
    await expect(lab.exec(["true"], { cwd: "/no/such/place" })).rejects.toMatchObject({ code: "ENOENT" })
  })

  it("runs the host's Node.js on files that it was started with", async () => {
    expect((await lab.exec(["node", "/share/hello.js"])).stdout.toString()).toBe(
      `hello from ${process.version}\n`,
    )
  })

  it("gives a command its environment, directory and input", async () => {
    expect(
      await sh('echo "$A $PWD"; cat', { env: { A: "a b" }, cwd: "/share", stdin: "input" }),
    ).toMatchObject({ stdout: "a b /share\ninput" })
    expect(await sh("wc -c", { stdin: Readable.from([Buffer.alloc(10), Buffer.alloc(20)]) })).toMatchObject({
      stdout: "30\n",
    })
    expect(await sh("cat")).toMatchObject({ status: 0, stdout: "" })
  })

  it("carries a megabyte each way without a change", async () => {
    const bytes = randomBytes(MiB + 7)
    const { stdout } = await lab.exec(["cat"], { stdin: bytes })
    expect(sha256(stdout)).toBe(sha256(bytes))
  })

  it("runs commands at the same time, a stuck one too", async () => {
    const stuck = lab.spawn(["cat", "/dev/zero"]) // nobody reads it
    const results = await Promise.all(
      [1, 2, 3, 4, 5, 6].map((number) => sh(`cat; exit ${number}`, { stdin: `${number}` })),
    )
    expect(results.map(({ status, stdout }) => [status, stdout])).toEqual(
      [1, 2, 3, 4, 5, 6].map((number) => [number, `${number}`]),
    )
    stuck.kill("SIGTERM")
    stuck.stdout.resume()
    expect((await stuck.exited).signal).toBe("SIGTERM")
  })

  it("kills a command whose caller has given up, with all that it started", async () => {
    const command = lab.exec(["sh", "-c", "setsid sleep 4321 & sleep 4322"], { timeout: 1000 })
    await expect(command).rejects.toMatchObject({ code: "ETIMEDOUT" })
    const gone = "for i in $(seq 100); do ps | grep -q 'sleep 432[12]' || exit 0; usleep 50000; done; exit 1"
    expect(await sh(gone)).toMatchObject({ status: 0 })
  })

  it("leaves alone what a command that ended has put into the background", async () => {
    expect(await sh("sleep 5432 >/dev/null 2>&1 & echo started")).toMatchObject({
      status: 0,
      stdout: "started\n",
    })
    expect(await sh("ps | grep -q '[s]leep 5432' && killall sleep")).toMatchObject({ status: 0 })
  })

  it("gives a terminal of the wanted size, which can change", async () => {
    const child = lab.spawn(["sh", "-c", "tty; stty size; read line; stty size; test -t 1"], {
      tty: { rows: 30, columns: 100 },
    })
    let text = ""
    let asked = false
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString()
      if (asked || !text.includes("30 100")) return
      asked = true
      child.resize(40, 120)
      child.stdin.write("go\n")
    })
    expect(await child.exited).toEqual({ status: 0, signal: null })
    expect(text.replaceAll("\r", "").split("\n")).toEqual(["/dev/pts/0", "30 100", "go", "40 120", ""])
  })

  it("has the disks in their order; a read-only one stays as it is", async () => {
    expect(lab.disks).toEqual(["/dev/lab/disk0", "/dev/lab/disk1"])
    expect(await sh("head -c 10 /dev/lab/disk0; echo x 2>&1 >/dev/lab/disk0")).toMatchObject({
      stdout: expect.stringContaining("disk0disk0"),
    })
    expect(await sh("printf changed >/dev/lab/disk1 && sync")).toMatchObject({ status: 0 })
    expect((await readFile(join(directory, "disk1"))).subarray(0, 7).toString()).toBe("changed")
    expect((await readFile(join(directory, "disk0"))).equals(disk)).toBe(true)
  })

  it("takes a disk while it runs", async () => {
    const device = await lab.attachDisk(join(directory, "plug"))
    expect(await sh(`head -c 7 ${device}; printf written >${device}; sync`)).toMatchObject({
      status: 0,
      stdout: "plugged",
    })
    expect((await readFile(join(directory, "plug"))).subarray(0, 7).toString()).toBe("written")
    await expect(lab.attachDisk("/nonexistent/disk")).rejects.toThrow("does not exist")
  })

  it("copies files and directories both ways", async () => {
    const bytes = randomBytes(300_000)
    await mkdir(join(directory, "tree/deep"), { recursive: true })
    await writeFile(join(directory, "tree/deep/data"), bytes)
    await writeFile(join(directory, "tree/empty"), "")
    await lab.copyIn(join(directory, "tree"), "/a/b/copy")
    expect(await sh("cd /a/b/copy; sha256sum <deep/data; ls")).toMatchObject({
      stdout: `${sha256(bytes)}  -\ndeep\nempty\n`,
    })
    await lab.copyOut("/a/b/copy", join(directory, "back"))
    expect((await readdir(join(directory, "back"))).sort()).toEqual(["deep", "empty"])
    expect((await readFile(join(directory, "back/deep/data"))).equals(bytes)).toBe(true)
    await lab.copyOut("/a/b/copy/deep/data", join(directory, "file"))
    expect((await readFile(join(directory, "file"))).equals(bytes)).toBe(true)
    await expect(lab.copyOut("/no/such/file", join(directory, "x"))).rejects.toThrow(
      /cannot copy \/no\/such\/file from the lab/,
    )
    await expect(lab.copyIn(join(directory, "none"), "/x")).rejects.toThrow(/cannot copy/)
  })

  it("loads modules on demand", async () => {
    expect(await sh("modprobe tun && modprobe vhost-net && ls /dev/net/tun /dev/vhost-net")).toMatchObject({
      stdout: "/dev/net/tun\n/dev/vhost-net\n",
    })
  })

  it("ends its commands when it is closed, and refuses others", async () => {
    const running = lab.exec(["sleep", "1000"])
    await Promise.all([expect(running).rejects.toMatchObject({ code: "ERR_VIRTKIT_LAB_GONE" }), lab.close()])
    await expect(lab.exec(["true"])).rejects.toThrow("the lab is closed")
    await lab.close()
  })
})
