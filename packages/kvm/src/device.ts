import { KvmDevice, type KvmVm } from "@virtkit/native"
import { convertError, converting } from "./errors.js"
import { Handle } from "./handle.js"

/** An in-kernel device; all that it has are its attributes. */
export class Device extends Handle<KvmDevice> {
  /** @internal Use Vm.createDevice. */
  static create(vm: KvmVm, type: number): Device {
    return new Device(converting(() => new KvmDevice(vm, type, false)))
  }

  /** @internal Use Vm.canCreateDevice. */
  static possible(vm: KvmVm, type: number): boolean {
    try {
      new KvmDevice(vm, type, true)
      return true
    } catch (error) {
      if ((error as { code?: unknown }).code === "ENODEV") return false
      throw convertError(error)
    }
  }
}
