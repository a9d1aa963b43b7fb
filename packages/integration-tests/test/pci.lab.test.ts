import type { VirtioDevice } from "@virtkit/interface"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { consolePort } from "@virtkit/virtio-console"
import { VirtioPci } from "@virtkit/virtio-pci"
import { rng } from "@virtkit/virtio-rng"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type GuestRun, LinuxLab } from "../src/index.js"
import { declared, parseInterrupts, parseLspci, uncleanLines } from "../src/lspci.js"

const GiB = 2 ** 30
const DISK = "/tmp/pci.img"
const PCI_IDS = "/usr/share/misc/pci.ids"

/** The guest's side: lists the bus, uses the disk from each CPU and the entropy device, shows what came of it. */
const scripts = {
  pci: `echo "== lspci"
lspci -nn -vvv 2>/run/lspci
grep -v libkmod /run/lspci
echo "== used"
for mask in 1 2; do taskset $mask dd if=/dev/vda of=/dev/null bs=4k count=64 iflag=direct 2>&1 | grep records.in; done
echo random $(head -c 32 /dev/hwrng | wc -c)
echo "== interrupts"
cat /proc/interrupts
echo "== affinity"
for irq in /proc/irq/*; do for name in $irq/virtio*; do [ -e $name ] && echo \${name##*/} $(cat $irq/effective_affinity_list); done; done
echo "== complaints"
dmesg | grep -iE "$(cat /scripts/complaints)"
echo "== end"
[ -e /sys/firmware/acpi ] || reboot -f
`,
  /**
   * What kernels say when they do not like what firmware set up. Not "not using MMCONFIG": they say so of every machine
   * that has no configuration ports, and use it when they have read the ACPI tables.
   */
  complaints: [
    ...["can't claim", "no space", "can't assign", "failed to assign", "address conflict", "conflicts with"],
    ...[
      "no compatible bridge window",
      "BAR [0-9]+.*error",
      "not claimed",
      "invalid bridge",
      "can't find IRQ",
    ],
    ...["ACPI (BIOS )?(Error|Warning)", "ACPI: \\(.*(error|invalid)", "AE_[A-Z_]+", "firmware bug", "FW bug"],
    ...["nobody cared", "MSI.*fail", "virtio.*(fail|error)", "call trace"],
  ].join("|"),
}

/** The part of what a guest said that comes after the line "== name". */
function section(run: GuestRun, name: string): string {
  const text = run.stdout.split(/^== /m).find((part) => part.startsWith(`${name}\n`))
  if (text === undefined) throw new Error(`no section ${name} in: ${run.stdout}${run.stderr}`)
  return text.slice(name.length + 1)
}

/** The devices that the guests get, made once more to ask them what they are. */
async function expectedFunctions(): Promise<ReturnType<typeof declared>[]> {
  const devices: VirtioDevice[] = [
    await block({ backend: memoryDisk(2 ** 20), queues: 2 }),
    consolePort(),
    rng(),
  ]
  return devices.map((device) => declared(new VirtioPci({ device })))
}

const boot = (linux: LinuxLab, cmdline: string, ...args: readonly string[]): Promise<GuestRun> =>
  linux.run("pci", {
    cmdline: `quiet ${cmdline}`,
    args: ["--cpus=2", "--console=virtio", `--disk=${DISK},queues=2`, ...args],
  })

async function startLab(series?: string): Promise<LinuxLab> {
  const options = { memory: 2 * GiB, programs: ["lspci"], files: [PCI_IDS], include: ["zstd"] }
  const linux = await LinuxLab.start(scripts, series === undefined ? options : { ...options, series })
  await linux.lab.exec(["truncate", "-s", "1M", DISK])
  return linux
}

function expectUsed(run: GuestRun): void {
  expect(run, run.stdout).toMatchObject({ status: 0, stderr: "" })
  expect(section(run, "used")).toBe("64+0 records in\n64+0 records in\nrandom 32\n")
}

/** The listing is clean and says what the devices declare. */
async function expectListed(run: GuestRun): Promise<ReturnType<typeof parseLspci>> {
  const listing = section(run, "lspci")
  expect(uncleanLines(listing)).toEqual([])
  const [bridge, ...functions] = parseLspci(listing)
  expect(bridge).toMatchObject({ address: "00:00.0", classCode: 0x060000, regions: [] })
  expect(functions).toMatchObject(await expectedFunctions())
  expect(functions.map(({ driver }) => driver)).toEqual(Array(3).fill("virtio-pci"))
  return functions
}

/** The queues' own vectors, and the CPUs that they go to. */
function expectVectors(run: GuestRun): void {
  const interrupts = parseInterrupts(section(run, "interrupts"))
  // Drivers of newer kernels look for their devices all at once, so the order of the vectors is anyone's.
  const names = [...interrupts.keys()].filter((name) => name.startsWith("virtio")).sort()
  expect(names).toEqual([
    ...["virtio0-config", "virtio0-req.0", "virtio0-req.1"],
    ...["virtio1-config", "virtio1-input", "virtio1-output"],
    ...["virtio2-config", "virtio2-input"],
  ])
  // Each CPU read 64 blocks, by a queue whose interrupt came to it alone.
  const [first, second] = [interrupts.get("virtio0-req.0")!, interrupts.get("virtio0-req.1")!]
  expect(first[0]).toBeGreaterThanOrEqual(64)
  expect(first[1]).toBe(0)
  expect(second[0]).toBe(0)
  expect(second[1]).toBeGreaterThanOrEqual(64)
  const cpus = section(run, "affinity")
    .trim()
    .split("\n")
    .map((line) => line.split(" ")[1])
  expect(new Set(cpus)).toEqual(new Set(["0", "1"]))
}

describe.each([undefined, "6.12"])(
  "PCI in the eyes of Debian's kernel, series %s",
  { timeout: 150_000 },
  (series) => {
    let linux: LinuxLab
    beforeAll(async () => {
      linux = await startLab(series)
    }, 240_000)
    afterAll(() => linux?.lab.close(), 60_000)

    it("has blk, console and rng with the BARs, capabilities and MSI-X that they declare, a vector a queue", async () => {
      const run = await boot(linux, "")
      expectUsed(run)
      const functions = await expectListed(run)
      expect(functions.map(({ msixEnabled }) => msixEnabled)).toEqual([true, true, true])
      expectVectors(run)
      expect(section(run, "complaints")).toBe("")
    })

    it("works on INTx with pci=nomsi", async () => {
      const run = await boot(linux, "pci=nomsi")
      expectUsed(run)
      const functions = await expectListed(run)
      expect(functions.map(({ msixEnabled }) => msixEnabled)).toEqual([false, false, false])
      const lines = section(run, "interrupts")
        .split("\n")
        .filter((line) => line.includes("virtio"))
      expect(lines.length).toBe(3)
      for (const line of lines) expect(line).toMatch(/IO-APIC +\d+-fasteoi +virtio\d/)
      expect(section(run, "complaints")).toBe("")
    })

    if (series !== undefined) return

    it.each(["pci=conf1", "pci=nommconf"])("works with %s: configuration space by ports", async (words) => {
      const run = await boot(linux, words)
      expectUsed(run)
      await expectListed(run)
      expectVectors(run)
      expect(section(run, "complaints")).toBe("")
    })

    // Debian's kernels know no MP tables: with these words they have one CPU, the 8259s and no MSI, on any machine.
    it.each(["pci=noacpi", "pci=conf1 pci=noacpi", "acpi=off"])("survives %s", async (words) => {
      const run = await boot(linux, words)
      expect(run, run.stdout).toMatchObject({ status: 0, stderr: "" })
      expect(section(run, "used")).toMatch(/^64\+0 records in\n(.*\n)*random 32\n$/)
      await expectListed(run)
      const lines = section(run, "interrupts")
        .split("\n")
        .filter((line) => line.includes("virtio"))
      expect(lines.length).toBeGreaterThan(0)
      for (const line of lines) expect(line).toContain("XT-PIC")
    })
  },
)
