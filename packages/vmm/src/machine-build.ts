import { buildAcpiTables } from "@virtkit/acpi"
import { type LoadedKernel, loadKernel, readFirmware } from "@virtkit/boot"
import { Bus } from "@virtkit/bus"
import { ConfigError, type GuestMemory, type VirtioDevice } from "@virtkit/interface"
import { Kvm, type Vm as KvmVm, type Vcpu } from "@virtkit/kvm"
import { type MmapBacking, mmapMemory } from "@virtkit/memory/mmap"
import type { VirtioMmio } from "@virtkit/virtio"
import { AddressSpaces } from "./address-spaces.js"
import { apicIds } from "./cpu-topology.js"
import { Doorbells } from "./doorbells.js"
import { FirmwareBoot } from "./firmware.js"
import { Interrupts } from "./interrupts.js"
import { DELAY_PORTS, IDENTITY_MAP_ADDRESS, TSS_ADDRESS } from "./machine.js"
import type { VmConfig } from "./options.js"
import { describePlatform, Platform } from "./platform.js"
import { RegisterPages } from "./register-page.js"
import { writeResetVector } from "./reset-vector.js"
import type { Teardown } from "./teardown.js"
import { createVcpus, setBootState } from "./vcpu-setup.js"
import { VirtioBus } from "./virtio-bus.js"

/** What the machine reports to the VM that it is built for. */
export interface MachineEvents {
  onPowerOff(): void
  onReset(): void
  onPanic(): void
  /** A device model broke its contract. */
  onError(error: Error): void
  /** A device set DEVICE_NEEDS_RESET. */
  onNeedsReset(device: string, reason: string): void
}

/** An assembled machine, its kernel loaded, no vCPU started. */
export interface Machine {
  readonly memory: GuestMemory
  readonly ports: Bus
  readonly mmio: Bus
  readonly platform: Platform
  readonly transports: readonly VirtioMmio[]
  readonly vcpus: readonly Vcpu[]
  readonly kernel: LoadedKernel
}

/**
 * Puts the machine together: memory, interrupt controllers, devices, tables, kernel, vCPUs, in the order that KVM and the
 * dependencies between them ask for. `teardown` gets the way back, also when this throws half-way.
 */
export async function buildMachine(
  config: VmConfig,
  cmdline: string,
  devices: readonly VirtioDevice[],
  events: MachineEvents,
  teardown: Teardown,
): Promise<Machine> {
  const image = await readFirmware(config.kernel)
  if (image !== undefined) checkFirmwareOptions(config)
  const kvm = Kvm.open(config.kvm)
  teardown.add(() => kvm.close())
  const memory = mmapMemory(config.memoryBytes, { backing: config.memoryBacking satisfies MmapBacking })
  teardown.add(() => memory.close())
  const vm = createKvmVm(kvm, memory, teardown)

  const interrupts = new Interrupts(vm)
  teardown.add(() => interrupts.close())
  const doorbells = new Doorbells(vm, events.onError)
  teardown.add(() => doorbells.close())
  const ports = new Bus({ name: "port", limit: 0x1_0000 })
  const mmio = new Bus({ name: "mmio" })
  const firmware = image && new FirmwareBoot(image, memory)
  const interrupt = (gsi: number) => interrupts.line(gsi)
  const platform = new Platform({ ports, interrupt, cmos: firmware?.cmos, ...events })
  const romSlot = memory.regions.length
  const pages = config.registerPages ? new RegisterPages(vm, romSlot + 1) : undefined
  const spaces = new AddressSpaces({ ports, mmio, doorbells, pages })
  const { onError, onNeedsReset } = events
  const virtio = new VirtioBus({ spaces, memory, interrupts, onError, onNeedsReset })
  for (const device of devices) virtio.attach(device)

  const cpus = apicIds(config.cpus).map((apicId) => ({ apicId }))
  const description = { ...describePlatform(cpus), virtioMmio: virtio.descriptions }
  const { rsdpAddress, blobs } = buildAcpiTables(description, firmware?.acpiArea)
  for (const { address, bytes } of blobs) memory.write(address, bytes)
  const kernel =
    firmware?.install({
      vm,
      slot: romSlot,
      ports,
      cpus: config.cpus.count,
      apicIds: Math.max(...apicIds(config.cpus)) + 1,
      rsdp: blobs[0]!.bytes,
      reserved: [],
      onDebug: config.onFirmwareDebug,
      teardown,
    }) ?? (await bootKernel(config, memory, cmdline, rsdpAddress))
  const vcpus = createVcpus(kvm, vm, config)
  teardown.add(() => {
    for (const vcpu of vcpus) vcpu.close()
  })
  setBootState(vcpus[0]!, kernel.setup)
  return { memory, ports, mmio, platform, transports: virtio.transports, vcpus, kernel }
}

function bootKernel(
  config: VmConfig,
  memory: GuestMemory,
  cmdline: string,
  rsdpAddress: number,
): Promise<LoadedKernel> {
  writeResetVector(memory)
  return loadKernel({
    memory,
    kernel: config.kernel,
    initrd: config.initrd,
    cmdline,
    rsdpAddress,
    unpack: config.kernelCache === undefined ? true : { cacheDir: config.kernelCache },
  })
}

/** Firmware finds what it boots on a disk: it takes neither a command line nor an initrd. */
function checkFirmwareOptions({ initrd, cmdline }: VmConfig): void {
  if (initrd !== undefined) throw new ConfigError("initrd: the kernel is firmware, which takes none")
  if (cmdline !== "") throw new ConfigError("cmdline: the kernel is firmware, which takes none")
}

function createKvmVm(kvm: Kvm, memory: GuestMemory, teardown: Teardown): KvmVm {
  const vm = kvm.createVm()
  teardown.add(() => vm.close())
  vm.setTssAddress(TSS_ADDRESS)
  vm.setIdentityMapAddress(IDENTITY_MAP_ADDRESS)
  vm.createIrqchip()
  // For guests that do without local APICs (pci=noacpi, acpi=off) and for a BIOS, which counts time with it and uses its
  // second channel, behind port 0x61. Others leave it alone, and then it costs nothing.
  vm.createPit({ speaker: true })
  memory.regions.forEach(({ guestAddress, size, hostAddress }, slot) => {
    vm.setMemorySlot({ slot, guestAddress, size, hostAddress, owner: memory })
  })
  for (const port of DELAY_PORTS) vm.setPort(port, 1, { ignoreWrites: true })
  return vm
}
