/** Where things are in the lab. */
export const FILES = {
  kernel: "/tmp/vmlinuz",
  initrd: "/tmp/initrd",
  disk: "/tmp/disk.img",
  crash: "/tmp/crash.elf",
} as const

/** What the guest's init says first. */
export const MARKER = "bench: userspace"
