import { EchoDevice, type EchoDeviceOptions, FakeInterrupt, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"

export interface Setup {
  device: EchoDevice
  transport: VirtioMmio
  driver: MmioDriver
  memory: TestMemory
  interrupt: FakeInterrupt
  /** What onError and onNeedsReset were given. */
  errors: Error[]
  reasons: string[]
}

export function setup(options: EchoDeviceOptions & { device?: EchoDevice; memory?: TestMemory } = {}): Setup {
  const device = options.device ?? new EchoDevice(options)
  const memory = options.memory ?? new TestMemory()
  const interrupt = new FakeInterrupt()
  const errors: Error[] = []
  const reasons: string[] = []
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt,
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => reasons.push(reason),
  })
  const driver = new MmioDriver({ device: transport, memory })
  return { device, transport, driver, memory, interrupt, errors, reasons }
}
