import { blkConformance, deviceConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"

const transport = (options: ConstructorParameters<typeof VirtioMmio>[0]) => new VirtioMmio(options)

deviceConformance({ describe, it, expect }, { setup: () => block({ backend: memoryDisk(65536) }), transport })

blkConformance(
  { describe, it, expect },
  {
    setup: (image, { readonly }) => {
      return block({ backend: memoryDisk(image, { readonly }), serial: "virtkit" })
    },
    transport,
  },
)
