import { qemuInclude } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type GuestRun, IN_LAB, LinuxLab } from "../src/index.js"

const GiB = 2 ** 30

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  facts: `echo cpus $(nproc)
echo online $(cat /sys/devices/system/cpu/online)
echo consoles $(cut -d ' ' -f 1 /proc/consoles)
echo rng $(cat /sys/class/misc/hw_random/rng_current) $(head -c 32 /dev/hwrng | wc -c)
echo clock $(date +%s)
echo memory $(grep MemTotal /proc/meminfo)
dmesg -r | grep '^<[0-4]>' | sed 's/^/log /'
`,
  memory: "echo memory $(grep MemTotal /proc/meminfo)\n",
  reboot: "reboot -f\n",
  panic: "echo the last words\necho c >/proc/sysrq-trigger\n",
  hang: "echo hanging\nwhile :; do sleep 1000; done\n",
  shell: "echo shell ready\nsh\necho shell ended\n",
  "power-button": `echo waiting for the button
dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null
echo pressed
`,
}

/** The value of a line "name value" of what a guest said. */
function fact(run: GuestRun, name: string): string | undefined {
  return new RegExp(`^${name} (.*)$`, "m").exec(run.stdout)?.[1]
}

/** What a kernel complained about, at the levels from emergency to warning, without times, numbers and addresses. */
function complaints(run: GuestRun): Set<string> {
  const lines = run.stdout.matchAll(/^log <[0-4]>\[[ \d.]+\] (.*)$/gm)
  return new Set([...lines].map(([, text = ""]) => text.replaceAll(/\b(0x)?[0-9a-f]*\d[0-9a-f]*\b/gi, "N")))
}

/** Types a command when the shell is ready, and ends it when the answer is there. */
function conversation(): (said: string) => string | undefined {
  let step = 0
  return (said) => {
    if (step === 0 && said.includes("shell ready\n")) {
      step = 1
      return "echo answer $((6 * 7))\n"
    }
    if (step === 1 && said.includes("answer 42\n")) {
      step = 2
      return "exit\n"
    }
    return undefined
  }
}

describe("Debian's kernel", { timeout: 120_000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    linux = await LinuxLab.start(scripts, { memory: 3 * GiB, include: qemuInclude })
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  // QEMU's software processors may go on with a breakpoint of code that is being patched: docs/decisions/0021.
  it("starts and ends without a patch to the code of the lab's kernel", async () => {
    const traced = (script: string) => linux.sh(`cd /sys/kernel/tracing\n${script}`)
    await linux.sh("mount -t tracefs none /sys/kernel/tracing")
    await traced("echo text_poke_bp_batch >set_ftrace_filter; echo function >current_tracer")
    const patches = "grep -c text_poke_bp_batch trace || true"
    // That the tracer's own switch counts shows that it sees them.
    await traced("echo 1 >events/kvm/kvm_exit/enable; echo 0 >events/kvm/kvm_exit/enable")
    expect(Number(await traced(patches))).toBeGreaterThan(0)
    await traced("echo >trace")
    expect(await linux.run("memory", { args: ["--cpus=2"] })).toMatchObject({ status: 0 })
    await linux.sh("sleep 1.2") // the kernel takes its time to switch back
    expect(await traced(patches)).toBe("0\n")
    await traced("echo nop >current_tracer; echo >set_ftrace_filter")
  })

  it("has a clock that runs as the lab's does", async () => {
    // Otherwise, without TSC scaling, KVM gives guests timers that fire late or never.
    const { guestKhz, hostKhz } = (await linux.program("clock")) as Record<string, number>
    expect(Math.abs(guestKhz! / hostKhz! - 1)).toBeLessThan(250e-6)
  })

  it("boots to the initramfs's init, has all it should have, and powers off", async () => {
    const report = "/tmp/report.json"
    const run = await linux.run("facts", { args: ["--cpus=2", "--memory=512M", `--report=${report}`] })
    expect(run).toMatchObject({ status: 0, stderr: "" })
    expect(fact(run, "cpus")).toBe("2")
    expect(fact(run, "online")).toBe("0-1")
    expect(fact(run, "consoles")).toBe("ttyS0")
    expect(fact(run, "rng")).toBe("virtio_rng.0 32")
    expect(Math.abs(Number(fact(run, "clock")) - Date.now() / 1000)).toBeLessThan(120)
    const kilobytes = Number(/(\d+) kB/.exec(fact(run, "memory") ?? "")?.[1])
    expect(kilobytes).toBeGreaterThan(400 * 1024)
    expect(kilobytes).toBeLessThanOrEqual(512 * 1024)

    const written = JSON.parse((await linux.read(report)).toString())
    expect(written).toEqual({
      reason: "poweroff",
      wallMs: expect.any(Number),
      phasesMs: { create: expect.any(Number), start: expect.any(Number), exit: expect.any(Number) },
      vcpuExits: { total: expect.any(Number), toUser: expect.any(Number), byReason: expect.any(Object) },
      devices: [expect.objectContaining({ name: "rng0" })],
    })
    // A processor that waits for its start-up message makes one run that ends for no reason.
    const counts = Object.values(written.vcpuExits.byReason as Record<string, number>)
    const { total } = written.vcpuExits
    const sum = counts.reduce((before, count) => before + count, 0)
    expect([total, total - 1]).toContain(sum)
  })

  it("complains about nothing that it does not complain about under QEMU microvm", async () => {
    const disk = "/tmp/complaints.img"
    await linux.lab.exec(["truncate", "-s", "1M", disk])
    const ours = await linux.run("facts", { args: ["--cpus=2", "--memory=512M", `--disk=${disk}`] })
    const theirs = await linux.converse([
      ...[
        "timeout",
        "90",
        "qemu-system-x86_64",
        "-M",
        "microvm,acpi=on",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-smp",
        "2",
        "-m",
        "512M",
      ],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
      ...["-kernel", IN_LAB.kernel, "-initrd", IN_LAB.initrd, "-append", "console=ttyS0 quiet script=facts"],
      ...["-drive", `if=none,id=disk,format=raw,file=${disk}`, "-device", "virtio-blk-device,drive=disk"],
      ...["-device", "virtio-rng-device"],
    ])
    expect(fact(theirs, "cpus"), theirs.stdout + theirs.stderr).toBe("2")
    const known = complaints(theirs)
    expect([...complaints(ours)].filter((line) => !known.has(line))).toEqual([])
    // Some there are always: the comparison compares something.
    expect(known.size).toBeGreaterThan(0)
  })

  it("has a shell on the serial console", async () => {
    const run = await linux.run("shell", { talk: conversation() })
    expect(run).toMatchObject({ status: 0, stderr: "" })
    expect(run.stdout).toMatch(/answer 42\n(.*\n)*shell ended\n/)
  })

  it("has a shell on a virtio console", async () => {
    const run = await linux.run("shell", { args: ["--console=virtio"], talk: conversation() })
    expect(run).toMatchObject({ status: 0, stderr: "" })
    expect(run.stdout).toMatch(/answer 42\n(.*\n)*shell ended\n/)
  })

  it("reboots: status 0", async () => {
    const report = "/tmp/reboot.json"
    expect(await linux.run("reboot", { args: [`--report=${report}`] })).toMatchObject({
      status: 0,
      stderr: "",
    })
    expect(JSON.parse((await linux.read(report)).toString())).toMatchObject({ reason: "reset" })
  })

  it.each(["serial", "virtio"])("panics: status 1 and its last lines (%s console)", async (console) => {
    const run = await linux.run("panic", { args: [`--console=${console}`] })
    expect(run.status).toBe(1)
    expect(run.stderr).toMatch(/^virtkit: the guest kernel panicked\n( {2}\| .*\n)+$/)
    expect(run.stderr).toContain("Kernel panic - not syncing: sysrq triggered crash")
    expect(run.stderr.split("\n").length).toBeLessThan(30)
  })

  it("hangs: status 124 after --timeout", async () => {
    const run = await linux.run("hang", { args: ["--timeout=15"] })
    expect(run).toMatchObject({ status: 124, stderr: "virtkit: the guest was ended after 15 s\n" })
    expect(run.stdout).toContain("hanging\n")
  })

  it("hears the power button", async () => {
    expect(await linux.program("power-button")).toEqual({
      exit: { reason: "poweroff" },
      said: expect.stringMatching(/waiting for the button\r\npressed\r\n/),
    })
  })
})
