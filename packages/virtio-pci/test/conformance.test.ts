import { type EchoDevice, FEATURE, transportConformance } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const features = FEATURE.NOTIFICATION_DATA

for (const msix of [true, false]) {
  for (const pages of [true, false]) {
    describe(`VirtioPci, ${msix ? "MSI-X" : "INTx"}, register reads ${pages ? "from memory" : "by exits"}`, () => {
      const options = { features, setup: (device: EchoDevice) => setup({ device, msix, pages }) }
      transportConformance({ describe, it, expect }, options as Parameters<typeof transportConformance>[1])
    })
  }
}
