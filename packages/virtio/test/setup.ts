import { FakeInterrupt, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { EchoDevice, type EchoOptions } from "./echo-device.js"

export interface Setup {
  device: EchoDevice
  transport: VirtioMmio
  driver: MmioDriver
  memory: TestMemory
  interrupt: FakeInterrupt
  errors: Error[]
}

export function setup(options: EchoOptions & { memory?: TestMemory } = {}): Setup {
  const device = new EchoDevice(options)
  const memory = options.memory ?? new TestMemory()
  const interrupt = new FakeInterrupt()
  const errors: Error[] = []
  const transport = new VirtioMmio({ device, memory, interrupt, onError: (error) => errors.push(error) })
  const driver = new MmioDriver({ device: transport, memory })
  return { device, transport, driver, memory, interrupt, errors }
}
