import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { finished } from "node:stream/promises"
import type { VirtioDevice } from "@virtkit/interface"
import { cacheDir } from "@virtkit/lab/paths"
import { block } from "@virtkit/virtio-blk"
import { type ConsoleDevice, consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { describeExit, isCleanExit, Vm, type VmExit } from "@virtkit/vmm"
import { readCpu, readMsrFilter } from "./cpu-options.js"
import { vhostUserOptions } from "./device-option.js"
import { deviceOptions } from "./net-option.js"
import type { DiskOption, RunOptions } from "./run-options.js"
import { openKeyboard, showOutput, windowSize } from "./terminal.js"
import { EXIT_CLEAN, EXIT_CRASH, EXIT_TIMEOUT } from "./usage.js"

/** Runs the guest in this process on /dev/kvm. */
export async function runOnKvm(options: RunOptions): Promise<number> {
  const began = performance.now()
  const stop = new AbortController()
  const port = options.console === "virtio" ? consolePort(windowSize(process.stdout, process.env)) : undefined
  await using vm = await Vm.create({
    kernel: options.kernel,
    ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    cmdline: options.cmdline,
    memory: options.memory,
    cpus: options.cpus,
    cpu: readCpu(options.cpu),
    msrFilter: readMsrFilter(options.msrFilter),
    transport: options.transport,
    rings: options.rings,
    devices: await devicesOf(options, port),
    kernelCache: join(cacheDir(), "vmlinux"),
    signal: stop.signal,
  })
  if (options.devices.length > 0 || options.disks.some(({ thread = false }) => thread !== false))
    vm.on("deviceNeedsReset", (_, reason) =>
      process.stderr.write(`virtkit: ${reason}; the guest can reset it\n`),
    )
  let timedOut = false
  const timer =
    options.timeout === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true
          stop.abort()
        }, options.timeout * 1000)
  const interrupt = () => stop.abort()
  process.on("SIGTERM", interrupt).on("SIGINT", interrupt).on("SIGHUP", interrupt)

  process.stdout.on("resize", () => port?.resize(process.stdout.columns, process.stdout.rows))
  const drained = connectConsole(vm, options, interrupt)
  await vm.start()
  const exit = await vm.exited
  clearTimeout(timer)
  // From here on signals end this process as they do any other: the reader of our output may be one that never reads.
  process.off("SIGTERM", interrupt).off("SIGINT", interrupt).off("SIGHUP", interrupt)
  // A guest that ended by itself meanwhile was not ended by the timeout.
  timedOut &&= exit.reason === "killed"
  await drained()

  if (options.report !== undefined) writeReport(options.report, vm, exit, timedOut, began)
  return conclude(exit, timedOut, options)
}

async function devicesOf(
  options: RunOptions,
  port: ConsoleDevice | undefined,
): Promise<(VirtioDevice | Promise<VirtioDevice>)[]> {
  // Loaded by those who have one.
  const net = options.nets.length === 0 ? undefined : (await import("@virtkit/virtio-net")).net
  const disks = options.disks.map((disk: DiskOption) => block(disk))
  const nets =
    net === undefined ? [] : options.nets.map((each, index) => net(deviceOptions(each, `net${index}`)))
  return [...disks, ...nets, ...(await farDevicesOf(options)), ...(port ? [port] : []), rng()]
}

/** Those of other processes, which are told of when they go and come. */
async function farDevicesOf({ devices }: RunOptions): Promise<Promise<VirtioDevice>[]> {
  if (devices.length === 0) return []
  const { vhostUser } = await import("@virtkit/vhost-user")
  return devices.map(async (each, index) => {
    const device = await vhostUser(vhostUserOptions(each, index))
    const say = (line: string) => process.stderr.write(`virtkit: ${device.name}: ${line}\n`)
    device.on("disconnected", (reason) => say(reason ?? "its process has gone"))
    device.on("connected", () => say("its process is there again"))
    return device
  })
}

/**
 * Guest output to stdout, stdin to the guest. The function that it gives waits until all that the guest wrote has left
 * this process, and puts the terminal back.
 */
function connectConsole(vm: Vm, options: RunOptions, leave: () => void): () => Promise<void> {
  const guest = vm.console
  if (options.console === "none" || guest === undefined) {
    guest?.resume()
    return async () => {}
  }
  const { keys, restore } = openKeyboard(leave)
  // The guest's end of input is no end of the guest: it may go on without it.
  keys.pipe(guest, { end: false })
  showOutput(guest, process.stdout)
  return async () => {
    keys.unpipe(guest)
    restore()
    await finished(guest, { writable: false }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ERR_STREAM_PREMATURE_CLOSE") throw error
    })
    if (process.stdout.writableLength > 0) await new Promise((resolve) => process.stdout.write("", resolve))
  }
}

function conclude(exit: VmExit, timedOut: boolean, options: RunOptions): number {
  if (timedOut) {
    process.stderr.write(`virtkit: the guest was ended after ${options.timeout} s\n`)
    return EXIT_TIMEOUT
  }
  if (isCleanExit(exit)) return EXIT_CLEAN
  process.stderr.write(`virtkit: ${describeExit(exit)}\n`)
  if ((exit.reason === "panic" || exit.reason === "triple-fault") && exit.console.length > 0) {
    process.stderr.write(`${exit.console.map((line) => `  | ${line}`).join("\n")}\n`)
  }
  if (exit.reason === "internal-error" || exit.reason === "fail-entry") {
    const registers = Object.entries(exit.registers).map(([name, value]) => `${name}=${value}`)
    process.stderr.write(`  ${registers.join(" ")}\n  code: ${exit.code}\n`)
  }
  return EXIT_CRASH
}

function writeReport(path: string, vm: Vm, exit: VmExit, timedOut: boolean, began: number): void {
  const statistics = vm.statistics()
  const report = {
    reason: timedOut ? "timeout" : exit.reason,
    wallMs: Math.round(performance.now() - began),
    phasesMs: statistics.phasesMs,
    vcpuExits: statistics.vcpuExits,
    devices: statistics.devices,
  }
  writeFileSync(path, `${JSON.stringify(report, null, 2)}\n`)
}
