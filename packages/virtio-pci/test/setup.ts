import {
  EchoDevice,
  type EchoDeviceOptions,
  FakeInterrupt,
  FakePciSlot,
  PciTransportDriver,
  TestMemory,
} from "@virtkit/testkit"
import { VirtioPci } from "@virtkit/virtio-pci"

export interface Setup {
  device: EchoDevice
  transport: VirtioPci
  slot: FakePciSlot
  driver: PciTransportDriver
  memory: TestMemory
  interrupt: FakeInterrupt
  /** What onError and onNeedsReset were given. */
  errors: Error[]
  reasons: string[]
}

export interface SetupOptions extends EchoDeviceOptions {
  readonly device?: EchoDevice
  readonly memory?: TestMemory
  /** Offer VIRTIO_F_RING_PACKED and VIRTIO_F_IN_ORDER. Default false. */
  readonly packed?: boolean
  readonly inOrder?: boolean
  /** Default true. */
  readonly msix?: boolean
  /** Default true. */
  readonly pages?: boolean
}

export function setup(options: SetupOptions = {}): Setup {
  const { memory = new TestMemory(), msix = true, pages = true, packed = false, inOrder = false } = options
  const device = options.device ?? new EchoDevice(options)
  const interrupt = new FakeInterrupt()
  const errors: Error[] = []
  const reasons: string[] = []
  const transport = new VirtioPci({
    device,
    packed,
    inOrder,
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => reasons.push(reason),
  })
  const slot = new FakePciSlot({ function: transport, memory, interrupt, msix, pages })
  const vectors = msix ? transport.msix.vectors : 0
  const driver = new PciTransportDriver({ access: slot, memory, vectors })
  return { device, transport, slot, driver, memory, interrupt, errors, reasons }
}
