import type { FuzzTarget } from "../target.js"

/** Loaded only when they run: a defect can be planted in what a target imports. */
const TARGETS: Readonly<Record<string, () => Promise<FuzzTarget>>> = {
  "ring-split": async () => (await import("./ring.js")).ringTarget(false),
  "ring-packed": async () => (await import("./ring.js")).ringTarget(true),
  "virtio-mmio": async () => (await import("./virtio-mmio.js")).target,
  "virtio-pci": async () => (await import("./virtio-pci.js")).target,
  "pci-config": async () => (await import("./pci-config.js")).target,
  net: async () => (await import("./net.js")).target,
  "net-stream": async () => (await import("./net-stream.js")).target,
  console: async () => (await import("./console.js")).target,
  rng: async () => (await import("./rng.js")).target,
  blk: async () => (await import("./blk.js")).target,
  ports: async () => (await import("./ports.js")).target,
  state: async () => (await import("./state.js")).target,
  elf: async () => (await import("./kernels.js")).elf,
  pvh: async () => (await import("./kernels.js")).pvh,
  bzimage: async () => (await import("./kernels.js")).bzimage,
  "packed-kernel": async () => (await import("./kernels.js")).packedKernel,
  qcow2: async () => (await import("./qcow2.js")).target,
  "vhost-user": async () => (await import("./vhost-user.js")).target,
  "blk-file": async () => (await import("./blk-file.js")).target,
}

export const TARGET_NAMES: readonly string[] = Object.keys(TARGETS)

/** Throws RangeError when there is none of that name. */
export async function loadTarget(name: string): Promise<FuzzTarget> {
  const load = TARGETS[name]
  if (load === undefined) throw new RangeError(`there is no target "${name}": ${TARGET_NAMES.join(", ")}`)
  return load()
}
