import { spawnSync } from "node:child_process"
import { accessSync, chmodSync, constants, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { tinyKernel } from "./tiny-kernel.js"

const bin = fileURLToPath(new URL("../dist/bin.js", import.meta.url))
const MiB = 2 ** 20

let directory = ""
const path = (name: string) => join(directory, name)

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "virtkit-wrong-"))
  chmodSync(directory, 0o755)
  writeFileSync(path("kernel"), tinyKernel())
  writeFileSync(path("text"), "this is no kernel\n".repeat(100))
  writeFileSync(path("empty"), "")
  writeFileSync(path("text.json"), "no JSON\n")
  writeFileSync(path("null.json"), "null")
  const bit31 = { function: 7, index: 1, eax: { set: "0x80000000" } }
  writeFileSync(path("future.json"), JSON.stringify({ name: "future", leaves: [bit31] }))
  writeFileSync(path("model.json"), JSON.stringify({ name: "m", leaves: [{ function: 1, eaxx: {} }] }))
  writeFileSync(path("initrd"), Buffer.alloc(4 * MiB))
  writeFileSync(path("disk"), Buffer.alloc(MiB), { mode: 0o644 })
  writeFileSync(path("odd"), Buffer.alloc(1000))
  writeFileSync(path("disk.qcow2"), Buffer.concat([Buffer.from("QFI\xfb", "latin1"), Buffer.alloc(MiB - 4)]))
  writeFileSync(path("locked"), Buffer.alloc(MiB), { mode: 0o444 })
  writeFileSync(path("secret"), "x", { mode: 0 })
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** Runs the command as it is installed; `command` goes before it. */
function virtkit(args: readonly string[], command: readonly string[] = []) {
  const [program = "", ...rest] = [...command, process.execPath, bin, ...args]
  const { status, stdout, stderr } = spawnSync(program, rest, {
    encoding: "utf8",
    timeout: 60_000,
    env: { ...process.env, HOME: directory, XDG_CACHE_HOME: path("cache") },
  })
  return { status, stdout, stderr }
}

/** One line that says what is wrong, status 2, no stack trace, nothing on stdout. */
function expectRefusal({ status, stdout, stderr }: ReturnType<typeof virtkit>, message: RegExp): void {
  expect(stderr).toMatch(/^virtkit: [^\n]+\n$/)
  expect(stderr).toMatch(message)
  expect(stderr).not.toContain("    at ")
  expect(stdout).toBe("")
  expect(status).toBe(2)
}

const noBuild = existsSync(bin) ? "" : " (skipped: the command was not built, run npm run build)"
const kvm = usable("/dev/kvm")
const noKvm = kvm ? "" : " (skipped: there is no usable /dev/kvm)"
const isRoot = process.getuid?.() === 0
/** Root without the right to ignore permissions. */
const plainRoot = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
/** Another user, who may read everything, this checkout too, but write nothing. */
const nobody = [
  ...["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
  ...["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"],
]
const cannotDropRights =
  !isRoot || (works([...plainRoot, "true"]) && works([...nobody, "true"]))
    ? ""
    : " (skipped: root cannot give up rights here, setpriv fails)"

function works(command: readonly string[]): boolean {
  return spawnSync(command[0]!, command.slice(1)).status === 0
}

function usable(device: string): boolean {
  try {
    accessSync(device, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

describe.skipIf(noBuild !== "")(`wrong use of the command${noBuild}`, () => {
  const usage: [what: string, args: string[], message: RegExp][] = [
    ["an unknown command", ["walk"], /unknown command "walk".*help/],
    ["an unknown option", ["run", "--kernel=x", "--colour"], /--colour.*help/],
    ["an unknown option of lab", ["lab", "--colour", "--", "true"], /--colour/],
    ["an argument that belongs nowhere", ["run", "--kernel=x", "y"], /y/],
    ["an option without its value", ["run", "--kernel"], /--kernel/],
    ["no kernel", ["run"], /--kernel is missing.*virtkit kernel/],
    ["a lab without a command", ["lab"], /command/],
    ["an unknown accel", ["run", "--kernel=x", "--accel=tcg"], /--accel "tcg".*auto or kvm or lab/],
    ["rings that are none", ["run", "--kernel=x", "--rings=round"], /--rings "round".*split or packed/],
    [
      "rings with what they do not have",
      ["run", "--kernel=x", "--rings=split,fast"],
      /unknown "fast".*inorder/,
    ],
    ["a transport that is none", ["run", "--kernel=x", "--transport=isa"], /--transport "isa"/],
    [
      "an unknown network",
      ["run", "--kernel=x", "--net=bridge"],
      /--net "bridge".*tap=IF, passt, socket or none/,
    ],
    ["a TAP without a name", ["run", "--kernel=x", "--net=tap"], /tap needs the name of an interface/],
    ["a network key of another kind", ["run", "--kernel=x", "--net=passt,queues=2"], /unknown "queues"/],
    ["an unknown disk key", ["run", "--kernel=x", "--disk=d,colour=red"], /unknown "colour".*readonly/],
    ["an unknown disk format", ["run", "--kernel=x", "--disk=d,format=vmdk"], /format must be raw/],
    ["an unknown cache mode", ["run", "--kernel=x", "--disk=d,cache=none"], /cache must be writeback/],
    ["a number of CPUs that is none", ["run", "--kernel=x", "--cpus=two"], /--cpus "two"/],
    [
      "an arrangement of CPUs that is none",
      ["run", "--kernel=x", "--cpus=4,dies=2"],
      /unknown "dies".*sockets/,
    ],
    ["a timeout that is none", ["run", "--kernel=x", "--timeout=soon"], /--timeout "soon"/],
    ["a timeout of nothing", ["run", "--kernel=x", "--timeout=0"], /--timeout "0"/],
  ]
  it.each(usage)("%s", (_what, args, message) => expectRefusal(virtkit(args), message))

  it("nothing at all: the usage, status 2", () => {
    const { status, stdout, stderr } = virtkit([])
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" })
    expect(stderr).toMatch(/virtkit run --kernel FILE/)
  })

  it.each(["kvm", "lab"])("files that are not there or cannot be used (--accel %s)", (accel) => {
    const run = (...args: string[]) => virtkit(["run", `--accel=${accel}`, ...args])
    expectRefusal(run("--kernel=/no/kernel"), /--kernel \/no\/kernel: there is no such file/)
    expectRefusal(run(`--kernel=${directory}`), /it is a directory/)
    const kernel = `--kernel=${path("kernel")}`
    expectRefusal(run(kernel, "--initrd=/no/initrd"), /--initrd \/no\/initrd: there is no such file/)
    expectRefusal(run(kernel, "--disk=/no/disk,readonly"), /--disk \/no\/disk: there is no such file/)
  })

  it.each(["kvm", "lab"])("memory that is too little or too much (--accel %s)", (accel) => {
    const run = (memory: string) =>
      virtkit(["run", `--accel=${accel}`, `--kernel=${path("kernel")}`, `--memory=${memory}`])
    expectRefusal(run("0"), /memory: 0 bytes is too little, give 1M or more/)
    expectRefusal(run("1P"), /memory: 1 PiB is more than this host has.*give less/)
    expectRefusal(run("many"), /memory: "many" is not a size/)
  })

  describe.skipIf(cannotDropRights !== "")(`without rights${cannotDropRights}`, () => {
    it("a disk that cannot be written, files that cannot be read", () => {
      const run = (...args: string[]) => virtkit(["run", "--accel=kvm", ...args], isRoot ? plainRoot : [])
      const kernel = `--kernel=${path("kernel")}`
      expectRefusal(
        run(kernel, `--disk=${path("locked")}`),
        /locked: it cannot be written; add ",readonly" or change its permissions/,
      )
      expectRefusal(run(kernel, `--disk=${path("secret")}`), /secret: it cannot be read/)
      expectRefusal(run(`--kernel=${path("secret")}`), /secret: it cannot be read/)
    })

    it.skipIf(!kvm)(`a TAP that others may open${noKvm}`, () => {
      const caps = ["setpriv", "--bounding-set=-net_admin,-dac_override,-dac_read_search"]
      const args = ["run", "--accel=kvm", `--kernel=${path("kernel")}`, "--net=tap=virtkit-no,create"]
      expectRefusal(virtkit(args, isRoot ? caps : []), /as root/)
    })

    const open = !isRoot || !kvm || works([...nobody, "test", "-w", "/dev/kvm"])
    const why = open ? " (skipped: /dev/kvm is not there, or nobody is kept from it)" : ""
    it.skipIf(open)(`no permission on /dev/kvm${why}`, () => {
      const args = ["run", "--accel=kvm", `--kernel=${path("kernel")}`]
      expectRefusal(virtkit(args, nobody), /may not open \/dev\/kvm.*group/)
    })
  })

  it.each(["kvm", "lab"])("CPUs that cannot be (--accel %s)", (accel) => {
    const run = (...args: string[]) =>
      virtkit(["run", `--accel=${accel}`, `--kernel=${path("kernel")}`, ...args])
    expectRefusal(run("--cpus=4,sockets=3"), /cpus: 4 cannot be arranged as sockets 3/)
    expectRefusal(run("--cpus=300"), /cpus: 300 .*APIC ids up to 299.*not supported/)
    expectRefusal(run("--cpu=pentium"), /cpu: there is no model "pentium", only host, baseline, x86-64-v1/)
    expectRefusal(run("--cpu=/no/model.json"), /--cpu \/no\/model.json: there is no such file/)
    expectRefusal(run(`--cpu=${path("text.json")}`), /text.json: it is not JSON/)
    expectRefusal(run(`--cpu=${path("null.json")}`), /null.json: it must be an object/)
    expectRefusal(
      run(`--cpu=${path("model.json")}`),
      /model.json: cpu model "m": leaves\[0\]: unknown "eaxx"/,
    )
    expectRefusal(run("--msr-filter=/no/filter"), /--msr-filter \/no\/filter: there is no such file/)
    expectRefusal(run(`--msr-filter=${path("model.json")}`), /--msr-filter .*: msrFilter: it must be a list/)
  })

  it("a qcow2 image", () => {
    const args = ["run", `--kernel=${path("kernel")}`, `--disk=${path("disk.qcow2")},format=qcow2`]
    expectRefusal(virtkit([...args, "--accel=lab"]), /disk\.qcow2: qcow2 version 0 is not supported/)
  })

  it("a report that could not be written at the end", () => {
    const run = (report: string) => virtkit(["run", `--kernel=${path("kernel")}`, `--report=${report}`])
    expectRefusal(run("/no/where/report.json"), /--report \/no\/where\/report.json: there is no directory/)
    expectRefusal(run(directory), /it is a directory/)
  })

  it.each(["kvm", "lab"])("a capture that could not be written (--accel %s)", (accel) => {
    const args = ["run", `--accel=${accel}`, `--kernel=${path("kernel")}`]
    const run = (capture: string) => virtkit([...args, `--net=passt,capture=${capture}`])
    expectRefusal(run("/no/where/c.pcapng"), /--net capture \/no\/where\/c.pcapng: there is no directory/)
    expectRefusal(run(directory), /it is a directory/)
  })

  it("what a lab would refuse, before one is started for it", () => {
    const run = (...args: string[]) => virtkit(["run", "--accel=lab", `--kernel=${path("kernel")}`, ...args])
    expectRefusal(
      run(`--initrd=${path("initrd")}`, "--memory=4M"),
      /initrd: it has 4 MiB.*only 4 MiB.*--memory/,
    )
    expectRefusal(run("--cpus=0"), /cpus: 0 is not possible/)
    expectRefusal(run("--cpus=256"), /APIC ids up to 255/)
  })

  describe.skipIf(!kvm)(`on /dev/kvm${noKvm}`, () => {
    const run = (...args: string[]) => virtkit(["run", "--accel=kvm", "--timeout=20", ...args])

    it("a kernel that is none", () => {
      expectRefusal(run(`--kernel=${path("text")}`), /text.*bzImage/)
      expectRefusal(run(`--kernel=${path("empty")}`), /empty/)
    })

    it("an initrd larger than memory", () => {
      expectRefusal(
        run(`--kernel=${path("kernel")}`, `--initrd=${path("initrd")}`, "--memory=4M"),
        /initrd.*memory/i,
      )
    })

    it("a CPU with features that this host lacks", () => {
      const args = [`--kernel=${path("kernel")}`, `--cpu=${path("future.json")}`]
      expectRefusal(
        run(...args),
        /model "future" has features that this host lacks: bit 31 of CPUID 0x7.1 EAX/,
      )
    })

    it("numbers of CPUs that are not possible", () => {
      expectRefusal(run(`--kernel=${path("kernel")}`, "--cpus=0"), /cpus: 0 is not possible/)
      expectRefusal(run(`--kernel=${path("kernel")}`, "--cpus=256"), /APIC ids up to 255/)
    })

    it("networks that cannot be", () => {
      const net = (option: string, ...more: string[]) =>
        run(`--kernel=${path("kernel")}`, `--net=${option}`, ...more)
      expectRefusal(
        net("tap=virtkit-no"),
        /(no interface virtkit-no; as root, make it with: ip tuntap add|net\/tun)/,
      )
      expectRefusal(net("tap=this-name-is-too-long"), /this-name-is-too-long|net\/tun/)
      expectRefusal(net("passt,mac=1:2"), /MAC address "1:2" must look like/)
      expectRefusal(net("passt,tcp=http"), /"http" is no port to forward/)
      expectRefusal(net("passt,mtu=9"), /mtu of network device net0 must be from 68 to 65535, not 9/)
      expectRefusal(net("socket,listen=/no/where/wire"), /\/no\/where\/wire/)
    })

    it("passt where it is not installed", () => {
      const empty = ["env", `PATH=${path("empty-path")}`]
      const args = ["run", "--accel=kvm", `--kernel=${path("kernel")}`, "--net=passt"]
      expectRefusal(
        virtkit(args, empty),
        /cannot start passt: it is not installed; as root: apt install passt/,
      )
    })

    it("disks that are none", () => {
      const kernel = `--kernel=${path("kernel")}`
      expectRefusal(run(kernel, `--disk=${path("odd")}`), /odd.*512/)
      expectRefusal(run(kernel, `--disk=${path("disk")},serial=${"x".repeat(21)}`), /20 bytes/)
      expectRefusal(run(kernel, `--disk=${path("disk")},queues=100`), /queues/)
      expectRefusal(run(kernel, `--disk=${path("disk")}`, `--disk=${path("disk")}`), /disk.*(in use|lock)/)
    })
  })
})
