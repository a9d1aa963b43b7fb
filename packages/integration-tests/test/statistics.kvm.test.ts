import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { block } from "@virtkit/virtio-blk"
import { rng } from "@virtkit/virtio-rng"
import { afterEach, describe, expect, it } from "vitest"
import { guest } from "../src/index.js"
import { closeAll, noKvm, vmOf } from "./kvm.js"

describe.skipIf(noKvm !== "")(`statistics of a VM${noKvm}`, () => {
  afterEach(closeAll)

  it.each(["pci", "mmio"] as const)("say what carries out the requests of a disk, %s", async (transport) => {
    const folder = mkdtempSync(join(tmpdir(), "virtkit-statistics-"))
    try {
      const path = join(folder, "disk")
      writeFileSync(path, Buffer.alloc(4096))
      const disk = await block({ path, engine: "threads", name: "disk" })
      const vm = await vmOf(guest.halt, { transport, devices: [disk, rng()] })
      expect(vm.statistics().devices).toEqual([
        { name: "disk", queues: expect.anything(), engine: "threads" },
        { name: expect.any(String), queues: expect.anything() },
      ])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
