import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { cpuModels } from "@virtkit/vmm"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab } from "../src/index.js"

const GiB = 2 ** 30

/** Shell functions; a guest that prints much takes long. */
const facts = `facts() {
  cd /sys/devices/system/cpu
  awk '{ split(FILENAME, path, "/"); values[path[1]] = values[path[1]] " " $0 }
    END { for (cpu in values) print cpu values[cpu] }' \\
    cpu*/topology/physical_package_id cpu*/topology/core_id cpu*/topology/thread_siblings_list \\
    cpu*/topology/core_siblings_list cpu*/cache/index*/shared_cpu_list
  awk -F '[ \\t]*: ' '$1 == "apicid" { ids = ids " " $2 } $1 == "vendor_id", $1 == "bugs" { value[$1] = $2 }
    END {
      print "apicid" ids
      for (name in value) if (name ~ /^(siblings|cpu cores|vendor_id|model name|flags)$/) print name " " value[name]
    }' /proc/cpuinfo
  echo clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
  dmesg | grep -E 'TSC deadline timer|MSR access error|topology|Unable to detect cache' | sed 's/^/dmesg /'
}
`

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  facts: `${facts}facts\n`,
  clock: `${facts}stty -echo
echo ready
while read -r line && test "$line" != end; do
  read -r up rest </proc/uptime
  echo time $line $up
done
facts
`,
}

/** The value of a line "name value" of what a guest said. */
function fact(said: string, name: string): string {
  const match = new RegExp(`^${name} +(.*)$`, "m").exec(said)
  if (match === null) throw new Error(`no ${name}: ${said}`)
  return match[1]!
}

/**
 * Of each CPU: its socket and core, the lists of who shares its core and its socket, and who its caches: both of level 1,
 * level 2, and level 3 where there is one.
 */
function topology(said: string, cpus: number): string[] {
  return Array.from({ length: cpus }, (_, cpu) => fact(said, `cpu${cpu}`))
}

describe("processors of a Linux guest", { timeout: 120_000 }, () => {
  let linux: LinuxLab
  let directory: string

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-cpu-"))
    linux = await LinuxLab.start(scripts, { memory: 3 * GiB })
  }, 240_000)
  afterAll(async () => {
    await linux?.lab.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  /** Puts a file of JSON into the lab. */
  async function put(name: string, value: unknown): Promise<string> {
    await writeFile(join(directory, name), JSON.stringify(value))
    await linux.lab.copyIn(join(directory, name), `/tmp/${name}`)
    return `/tmp/${name}`
  }

  it("12 in 2 sockets of 3 cores of 2 threads are found as they were asked for", async () => {
    const run = await linux.run("facts", { args: ["--cpus=sockets=2,cores=3,threads=2"] })
    expect(run).toMatchObject({ status: 0, stderr: "" })
    const cores = topology(run.stdout, 12).map((line) => line.split(" ").slice(0, 4).join(" "))
    expect(cores).toEqual([
      ...["0 0 0-1 0-5", "0 0 0-1 0-5", "0 1 2-3 0-5", "0 1 2-3 0-5", "0 2 4-5 0-5", "0 2 4-5 0-5"],
      ...["1 0 6-7 6-11", "1 0 6-7 6-11", "1 1 8-9 6-11", "1 1 8-9 6-11", "1 2 10-11 6-11", "1 2 10-11 6-11"],
    ])
    expect(fact(run.stdout, "apicid")).toBe("0 1 2 3 4 5 8 9 10 11 12 13")
    expect(fact(run.stdout, "siblings")).toBe("6")
    expect(fact(run.stdout, "cpu cores")).toBe("3")
    expect(fact(run.stdout, "clocksource")).toBe("kvm-clock")
    expect(run.stdout).toContain("TSC deadline timer available")
    expect(run.stdout).not.toMatch(/topology: |Unable to detect cache/)
  })

  it("a model and a filter from files: baseline under Intel's name, page attributes that cannot be set", async () => {
    const baseline = cpuModels.find(({ name }) => name === "baseline")!
    const word = (text: string) => ({ clear: "0xffffffff", set: Buffer.from(text, "latin1").readUInt32LE() })
    const vendor = { function: 0, ebx: word("Genu"), edx: word("ineI"), ecx: word("ntel") }
    const model = { ...baseline, name: "mine", leaves: [...baseline.leaves, vendor] }
    const filter = [{ index: "0x277", access: "write", action: "deny" }]
    const { status, stdout, stderr } = await linux.run("facts", {
      args: [
        `--cpu=${await put("model.json", model)}`,
        `--msr-filter=${await put("filter.json", filter)}`,
        "--cpus=4,sockets=2,threads=2",
      ],
    })
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" })
    expect(fact(stdout, "vendor_id")).toBe("GenuineIntel")
    expect(topology(stdout, 4)).toEqual([
      ...["0 0 0-1 0-1 0-1 0-1 0-1 0-1", "0 0 0-1 0-1 0-1 0-1 0-1 0-1"],
      ...["1 0 2-3 2-3 2-3 2-3 2-3 2-3", "1 0 2-3 2-3 2-3 2-3 2-3 2-3"],
    ])
    expect(stdout).toContain("unchecked MSR access error: WRMSR to 0x277")
  })

  it("a model that the host cannot be is refused: it names what is missing", async () => {
    const run = await linux.run("facts", { args: ["--cpu=x86-64-v3"] })
    expect(run).toMatchObject({ status: 2, stdout: "" })
    expect(run.stderr).toMatch(/^virtkit: cpu: model "x86-64-v3" has features that this host lacks: xsave\n$/)
  })

  it("a clock that keeps up with the host's, through a pause too (baseline)", async () => {
    const { exit, said, times } = (await linux.program("paused-clock")) as {
      exit: unknown
      said: string
      times: { sent: number; answered: number; guest: number }[]
    }
    expect(exit).toEqual({ reason: "poweroff" })
    const [first, ...later] = times
    // The guest looked at its clock (of 10 ms) between question and answer: no statement about how long that took.
    for (const time of later) {
      const guest = time.guest - first!.guest
      expect(guest).toBeGreaterThan(time.sent - first!.answered - 0.05)
      expect(guest).toBeLessThan(time.answered - first!.sent + 0.05)
    }
    expect(fact(said, "model name")).toBe("virtkit baseline")
    expect(topology(said, 2)).toEqual(["0 0 0-1 0-1 0-1 0-1 0-1 0-1", "0 0 0-1 0-1 0-1 0-1 0-1 0-1"])
    expect(fact(said, "flags")).toMatch(/\bsse4_2\b/)
    expect(fact(said, "flags")).not.toMatch(/\b(aes|avx|smep|rdtscp)\b/)
  })
})
