import { deviceConformance, rngConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { rng } from "@virtkit/virtio-rng"
import { describe, expect, it } from "vitest"

for (const suite of [deviceConformance, rngConformance]) {
  suite({ describe, it, expect }, { setup: () => rng(), transport: (options) => new VirtioMmio(options) })
}
