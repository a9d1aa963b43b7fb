import { loadRaw } from "@virtkit/boot"
import { Kvm, type VcpuExit, VcpuLoop } from "@virtkit/kvm"
import { mmapMemory } from "@virtkit/memory/mmap"

export type KvmProbe =
  /** It runs what Linux needs. */
  | { readonly usable: true }
  /** `reason` completes the sentence "KVM cannot be used: ...". */
  | { readonly usable: false; readonly reason: string; readonly code: string | undefined }

const TIMEOUT_MS = 5000
const MEMORY_SIZE = 2 ** 21
const CODE_ADDRESS = 0x1_0000
const RESULT_PORT = 0xf4
const SUCCESS = 0x5a

/**
 * Whether a KVM can run unmodified Linux: boots a guest of a few instructions that KVMs in software are known to lack
 * (a breakpoint trap, SSE loads and stores, cmpxchg16b) and sees whether it comes through.
 */
export async function probeKvm(path = "/dev/kvm"): Promise<KvmProbe> {
  try {
    const failure = await runProbeGuest(path)
    return failure === undefined ? { usable: true } : { usable: false, reason: failure, code: undefined }
  } catch (error) {
    const { message, code } = error as { message: string; code?: string }
    return { usable: false, reason: message, code }
  }
}

/** Undefined when the guest reported success. */
async function runProbeGuest(path: string): Promise<string | undefined> {
  using kvm = disposable(Kvm.open(path))
  using memory = disposable(mmapMemory(MEMORY_SIZE))
  using vm = disposable(kvm.it.createVm())
  const [region] = memory.it.regions
  vm.it.setMemorySlot({ slot: 0, guestAddress: 0, size: MEMORY_SIZE, hostAddress: region!.hostAddress })
  using vcpu = disposable(vm.it.createVcpu(0))
  vcpu.it.setCpuid(kvm.it.supportedCpuid())
  const { setup } = loadRaw({ memory: memory.it, code: probeCode(), address: CODE_ADDRESS, mode: "long" })
  vcpu.it.setSregs(setup.applySregs(vcpu.it.getSregs()))
  vcpu.it.setRegs(setup.regs)

  let timer: NodeJS.Timeout | undefined
  const result = await new Promise<string | undefined>((resolve) => {
    timer = setTimeout(() => resolve("its probe guest did not end"), TIMEOUT_MS)
    vcpu.it.start(new VcpuLoop({ maxVcpus: 1 }), {
      portRead: () => 0xff,
      portWrite: (port, _size, value) => {
        if (port === RESULT_PORT)
          resolve(value === SUCCESS ? undefined : "its probe guest computed wrong results")
      },
      mmioRead: () => 0xff,
      mmioWrite: () => {},
      exit: (_vcpu, exit) => resolve(describe(exit)),
      error: (_vcpu, error) => resolve(String(error)),
    })
  })
  clearTimeout(timer)
  await vcpu.it.stop()
  return result
}

function describe(exit: VcpuExit): string {
  if (exit.reason === "internal-error")
    return "it does not execute instructions that Linux needs (it is KVM in software)"
  return `its probe guest ended with ${exit.reason}`
}

/** Gives anything with `close` to `using`. */
function disposable<T extends { close(): void }>(it: T): { readonly it: T; [Symbol.dispose](): void } {
  return { it, [Symbol.dispose]: () => it.close() }
}

/** 64-bit code; the descriptor table for its one trap is part of it. */
function probeCode(): Uint8Array {
  const idtr = CODE_ADDRESS + 0x80
  const idt = CODE_ADDRESS + 0x90
  const handler = CODE_ADDRESS + 0x60
  const code = new Uint8Array(0x100)
  const put = (offset: number, ...bytes: number[]) => code.set(bytes, offset)
  put(0x00, 0xbc, 0x00, 0x80, 0x01, 0x00) //           mov esp, 0x18000
  put(0x05, 0x0f, 0x20, 0xe0) //                       mov rax, cr4
  put(0x08, 0x0d, 0x00, 0x06, 0x00, 0x00) //           or eax, OSFXSR | OSXMMEXCPT
  put(0x0d, 0x0f, 0x22, 0xe0) //                       mov cr4, rax
  put(0x10, 0x0f, 0x01, 0x1c, 0x25, ...le32(idtr)) //  lidt [idtr]
  put(0x18, 0xb0, 0x00) //                             mov al, 0
  put(0x1a, 0xcc) //                                   int3
  put(0x1b, 0x3c, 0x01) //                             cmp al, 1
  put(0x1d, 0x75, 0x27) //                             jne fail
  put(0x1f, 0x0f, 0x10, 0x44, 0x24, 0x80) //           movups xmm0, [rsp - 0x80]
  put(0x24, 0x0f, 0x11, 0x44, 0x24, 0x90) //           movups [rsp - 0x70], xmm0
  put(0x29, 0xbe, 0x00, 0x70, 0x01, 0x00) //           mov esi, 0x17000: 16 bytes of zeros
  put(0x2e, 0x31, 0xc0, 0x31, 0xd2) //                 xor eax, eax; xor edx, edx
  put(0x32, 0xbb, 0x07, 0x00, 0x00, 0x00) //           mov ebx, 7
  put(0x37, 0x31, 0xc9) //                             xor ecx, ecx
  put(0x39, 0x48, 0x0f, 0xc7, 0x0e) //                 cmpxchg16b [rsi]
  put(0x3d, 0x75, 0x07) //                             jne fail
  put(0x3f, 0xb0, SUCCESS) //                          mov al, SUCCESS
  put(0x41, 0xe6, RESULT_PORT, 0xf4, 0xeb, 0xfd) //    out RESULT_PORT, al; hlt; jmp to the hlt
  put(0x46, 0xb0, 0x00) //                       fail: mov al, 0
  put(0x48, 0xe6, RESULT_PORT, 0xf4, 0xeb, 0xfd) //    out RESULT_PORT, al; hlt; jmp to the hlt
  put(0x60, 0xb0, 0x01, 0x48, 0xcf) //        handler: mov al, 1; iretq
  put(0x80, 0x3f, 0x00, ...le32(idt), 0, 0, 0, 0) //   idtr: limit, base
  // Vector 3: present 64-bit interrupt gate in the code segment of the boot package's descriptor table.
  put(0xc0, handler & 0xff, (handler >> 8) & 0xff, 0x10, 0x00, 0x00, 0x8e, handler >> 16, 0x00)
  return code
}

function le32(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24]
}
