import { existsSync, readFileSync } from "node:fs"
import * as native from "@virtkit/native"
import { KvmSystem, KvmVcpu, KvmVm, kvmConstants } from "@virtkit/native"
import { describe, expect, it } from "vitest"

const types = readFileSync(new URL("../types/kvm.d.ts", import.meta.url), "utf8")

describe("the contract", () => {
  it("declares what the addon exports, and its methods", () => {
    const classes = [...types.matchAll(/export declare class (\w+)[^{]*\{([\s\S]*?)\n\}/g)]
    expect(classes.length).toBe(6)
    for (const [, name, body] of classes) {
      const exported = (native as unknown as Record<string, { prototype: object }>)[name!]
      expect(exported, name).toBeTypeOf("function")
      const declared = [...body!.matchAll(/^ {2}(?:readonly )?(\w+)[(:]/gm)].map((match) => match[1])
      expect(new Set(declared)).toEqual(new Set(Object.getOwnPropertyNames(exported!.prototype)))
    }
  })

  it("names every constant", () => {
    const names = [...types.matchAll(/^ {2}\| "(KVM_\w+)"$/gm)].map((match) => match[1]!)
    expect(new Set(Object.keys(kvmConstants))).toEqual(new Set(names))
    expect(Object.isFrozen(kvmConstants)).toBe(true)
  })
})

const suite = existsSync("/dev/kvm") ? describe : describe.skip
suite("ioctl checks (need /dev/kvm)", () => {
  it("refuse unknown requests, other handles' requests and wrong buffers", () => {
    const system = new KvmSystem("/dev/kvm")
    const vm = new KvmVm(system, 0)
    const vcpu = new KvmVcpu(vm, 0)
    expect(() => system.ioctl("KVM_RUN")).toThrow(TypeError)
    expect(() => system.ioctl("KVM_GET_REGS", new Uint8Array(144))).toThrow(TypeError)
    expect(() => vcpu.ioctl("KVM_GET_REGS")).toThrow(TypeError)
    expect(() => vcpu.ioctl("KVM_GET_REGS", new Uint8Array(143))).toThrow(RangeError)
    expect(() => vcpu.ioctl("KVM_GET_REGS", new Uint8Array(145))).toThrow(RangeError)
    // A count that promises more entries than the buffer has.
    expect(() => system.ioctl("KVM_GET_SUPPORTED_CPUID", Uint32Array.of(100, 0, 0, 0))).toThrow(RangeError)
    expect(() => system.ioctl("KVM_GET_SUPPORTED_CPUID", new Uint8Array(4))).toThrow(RangeError)
    expect(() => vcpu.ioctl("KVM_SET_XSAVE", new Uint8Array(4095))).toThrow(RangeError)
    const nested = new Uint32Array(32)
    nested[1] = 100_000
    expect(() => vcpu.ioctl("KVM_GET_NESTED_STATE", nested)).toThrow(RangeError)
    expect(() => system.ioctl("KVM_CHECK_EXTENSION", -1)).toThrow(RangeError)
    expect(() => system.ioctl("KVM_CHECK_EXTENSION", 1.5)).toThrow(RangeError)
    expect(() => vcpu.attribute("get", 0, 0, new Uint8Array(4))).toThrow(RangeError)
    // A view of part of a buffer is used as that part.
    const buffer = new ArrayBuffer(200)
    vcpu.ioctl("KVM_GET_REGS", new DataView(buffer, 16, 144))
    expect(new DataView(buffer).getBigUint64(16 + 136, true)).toBe(2n)
    for (const handle of [vcpu, vm, system]) handle.close()
  })

  it("refuse objects of another class as parents", () => {
    const system = new KvmSystem("/dev/kvm")
    expect(() => new KvmVm({} as never, 0)).toThrow(/not a KvmSystem/)
    expect(() => new KvmVcpu(system as never, 0)).toThrow(/not a KvmVm/)
    expect(() => new KvmVcpu(undefined as never, 0)).toThrow(TypeError)
    // Called as a function, or on a foreign `this`.
    expect(() => KvmSystem.prototype.close.call({} as never)).toThrow()
    system.close()
    expect(() => new KvmVm(system, 0)).toThrow(/closed/)
  })
})
