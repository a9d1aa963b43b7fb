import { StateError, SystemError } from "@virtkit/interface"

interface ErrnoError extends Error {
  code: string
  errno: number
  syscall: string
}

function isErrno(error: unknown): error is ErrnoError {
  return error instanceof Error && "errno" in error && "syscall" in error
}

// By system call and errno: what most often causes it and what to do.
const hints: Readonly<Record<string, string>> = {
  "open ENOENT":
    "this kernel offers no KVM: enable virtualisation in the firmware or hypervisor, load kvm_intel or kvm_amd, or pass /dev/kvm into the container",
  "open EACCES":
    "this user may not open /dev/kvm: add the user to its group (usually `sudo usermod -aG kvm $USER`, then log in again)",
  "open EPERM": "a container or security policy forbids /dev/kvm",
  "open ENODEV": "/dev/kvm exists, but no KVM module serves it: load kvm_intel or kvm_amd",
  "KVM_CREATE_VM EBUSY": "another hypervisor uses the processor's virtualisation",
  "KVM_CREATE_VM EINVAL": "this KVM has no such machine type",
  "KVM_CREATE_VCPU EEXIST": "a vCPU of that id exists already, or an earlier one was not garbage collected",
  "KVM_CREATE_VCPU EINVAL": "the id is above the maximum (KVM_CAP_MAX_VCPU_ID)",
  "KVM_CREATE_IRQCHIP EEXIST": "the interrupt controllers exist already",
  "KVM_CREATE_IRQCHIP EINVAL": "interrupt controllers must be made before the first vCPU",
  "KVM_CREATE_PIT2 ENOENT": "the timer needs the in-kernel interrupt controllers",
  "KVM_SET_USER_MEMORY_REGION EEXIST": "the guest range overlaps another slot's",
  "KVM_SET_USER_MEMORY_REGION EINVAL":
    "addresses and size must be multiples of 4096, the memory must be this process's, and a slot's size cannot change",
  "KVM_IRQFD EBUSY": "the eventfd is attached to an interrupt already",
  "KVM_IOEVENTFD EEXIST": "an ioeventfd that matches the same write exists already",
  "KVM_SET_CPUID2 EINVAL": "CPUID cannot change once the vCPU ran, or an entry is not supported",
  "KVM_SET_GSI_ROUTING EINVAL": "a GSI has too many routes, or an interrupt controller has no such pin",
}

/** Turns an error of the addon into a {@link SystemError} or {@link StateError}; other errors stay as they are. */
export function convertError(error: unknown): unknown {
  if (isErrno(error)) {
    const hint = hints[`${error.syscall} ${error.code}`]
    const message = hint === undefined ? error.message : `${error.message}: ${hint}`
    return new SystemError(error.code, error.errno, error.syscall, message, { cause: error })
  }
  if (error instanceof Error && "code" in error && error.code === "ERR_VIRTKIT_STATE")
    return new StateError(error.message, { cause: error })
  return error
}

/** Runs `operation`, which calls the addon, with its errors converted. */
export function converting<T>(operation: () => T): T {
  try {
    return operation()
  } catch (error) {
    throw convertError(error)
  }
}
