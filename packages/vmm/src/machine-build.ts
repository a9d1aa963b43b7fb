import { ACPI_AREA, type AcpiBlob, buildAcpiTables } from "@virtkit/acpi"
import { type KernelKind, type LoadedKernel, loadKernel, readFirmware } from "@virtkit/boot"
import { Bus } from "@virtkit/bus"
import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { Kvm, type Vm as KvmVm, type Vcpu } from "@virtkit/kvm"
import { type MmapBacking, mmapMemory } from "@virtkit/memory/mmap"
import { AddressSpaces } from "./address-spaces.js"
import { type Attached, attachToMmio, attachToPci, type Transport } from "./attach.js"
import { apicIds } from "./cpu-topology.js"
import { Doorbells } from "./doorbells.js"
import { FirmwareBoot } from "./firmware.js"
import { Interrupts } from "./interrupts.js"
import { DELAY_PORTS, IDENTITY_MAP_ADDRESS, PCI_ISA_IRQS, TSS_ADDRESS } from "./machine.js"
import { composeCmdline, hidesPci, needsLegacy, type VmConfig } from "./options.js"
import type { PciRoot, VmDevice } from "./pci-root.js"
import { describePlatform, Platform } from "./platform.js"
import { RegisterPages } from "./register-page.js"
import { writeResetVector } from "./reset-vector.js"
import type { Teardown } from "./teardown.js"
import { createVcpus, setBootState } from "./vcpu-setup.js"

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
  readonly spaces: AddressSpaces
  readonly interrupts: Interrupts
  readonly platform: Platform
  /** Undefined with virtio-mmio. */
  readonly pci: PciRoot | undefined
  /** Of the virtio devices that are there now; for statistics. */
  readonly transports: () => readonly Transport[]
  readonly vcpus: readonly Vcpu[]
  readonly kernel: LoadedKernel
}

/**
 * Puts the machine together: memory, interrupt controllers, devices, tables, kernel, vCPUs, in the order that KVM and the
 * dependencies between them ask for. `teardown` gets the way back, also when this throws half-way.
 */
export async function buildMachine(
  config: VmConfig,
  consoleArgument: string,
  devices: readonly VmDevice[],
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
  const { onError, onNeedsReset, onReset } = events
  const shared = { spaces, memory, interrupts, rings: config.rings, onError, onNeedsReset }
  const attached =
    config.transport === "pci"
      ? attachToPci(kvm, config, devices, platform, shared, { hasFirmware: firmware !== undefined, onReset })
      : attachToMmio(devices, shared)

  const kernel = firmware
    ? startFirmware(firmware, memory, vm, config, ports, attached, teardown)
    : await startKernel(config, memory, vm, consoleArgument, attached)
  const vcpus = createVcpus(kvm, vm, config)
  teardown.add(() => {
    for (const vcpu of vcpus) vcpu.close()
  })
  setBootState(vcpus[0]!, kernel.setup)
  const { pci, transports } = attached
  return { memory, ports, mmio, spaces, interrupts, platform, pci, transports, vcpus, kernel }
}

/** Loads the kernel and writes the tables, which depend on what kind of kernel it is. */
async function startKernel(
  config: VmConfig,
  memory: GuestMemory,
  vm: KvmVm,
  consoleArgument: string,
  attached: Attached,
): Promise<LoadedKernel> {
  const isLegacy = (kind: KernelKind) => config.legacy ?? needsLegacy(kind, config.cmdline)
  const kernel = await loadKernel({
    memory,
    kernel: config.kernel,
    initrd: config.initrd,
    cmdline: (kind) => composeCmdline(config.cmdline, consoleArgument, isLegacy(kind)),
    rsdpAddress: ACPI_AREA.start,
    reserved: attached.reserved,
    unpack: config.kernelCache === undefined ? true : { cacheDir: config.kernelCache },
  })
  finishMachine(memory, vm, config, attached, isLegacy(kernel.kind))
  writeResetVector(memory)
  return kernel
}

function startFirmware(
  firmware: FirmwareBoot,
  memory: GuestMemory,
  vm: KvmVm,
  config: VmConfig,
  ports: Bus,
  attached: Attached,
  teardown: Teardown,
): LoadedKernel {
  const [rsdp] = finishMachine(memory, vm, config, attached, config.legacy ?? true, firmware.acpiArea)
  return firmware.install({
    vm,
    slot: memory.regions.length,
    ports,
    cpus: config.cpus.count,
    apicIds: Math.max(...apicIds(config.cpus)) + 1,
    rsdp: rsdp!.bytes,
    reserved: attached.reserved,
    onDebug: config.onFirmwareDebug,
    teardown,
  })
}

/** Adds what depends on who is started, and writes the tables that tell of everything. */
function finishMachine(
  memory: GuestMemory,
  vm: KvmVm,
  config: VmConfig,
  attached: Attached,
  legacy: boolean,
  area: typeof ACPI_AREA = ACPI_AREA,
): readonly AcpiBlob[] {
  const cpus = apicIds(config.cpus).map((apicId) => ({ apicId }))
  if (legacy) {
    // A BIOS counts time with it, and uses its second channel, which is behind port 0x61.
    vm.createPit({ speaker: true })
    setLevelTriggered(vm, PCI_ISA_IRQS)
  }
  const { pci, ...rest } = attached.describe(legacy)
  const told = pci && !hidesPci(config.cmdline) ? { pci, ...rest } : rest
  const { blobs } = buildAcpiTables({ ...describePlatform(cpus, legacy), ...told }, area)
  for (const { address, bytes } of blobs) memory.write(address, bytes)
  return blobs
}

/** Sets the ISA interrupts that PCI's lines are wired to in the edge/level control registers, as firmware does. */
function setLevelTriggered(vm: KvmVm, irqs: readonly number[]): void {
  const bits = irqs.reduce((sum, irq) => sum | (1 << irq), 0)
  vm.setPic("master", { ...vm.getPic("master"), elcr: bits & 0xff })
  vm.setPic("slave", { ...vm.getPic("slave"), elcr: bits >> 8 })
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
  memory.regions.forEach(({ guestAddress, size, hostAddress }, slot) => {
    vm.setMemorySlot({ slot, guestAddress, size, hostAddress, owner: memory })
  })
  for (const port of DELAY_PORTS) vm.setPort(port, 1, { ignoreWrites: true })
  return vm
}
