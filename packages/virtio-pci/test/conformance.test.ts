import { type EchoDevice, FEATURE, transportConformance } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

for (const msix of [true, false]) {
  for (const pages of [true, false]) {
    describe(`VirtioPci, ${msix ? "MSI-X" : "INTx"}, register reads ${pages ? "from memory" : "by exits"}`, () => {
      transportConformance(
        { describe, it, expect },
        {
          features: FEATURE.NOTIFICATION_DATA | FEATURE.NOTIF_CONFIG_DATA,
          setup: (device, options) => setup({ device: device as EchoDevice, msix, pages, ...options }),
        },
      )
    })
  }
}
