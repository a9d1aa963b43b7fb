import { consoleConformance, deviceConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { consolePort } from "@virtkit/virtio-console"
import { describe, expect, it } from "vitest"

const transport = (options: ConstructorParameters<typeof VirtioMmio>[0]) => new VirtioMmio(options)

deviceConformance({ describe, it, expect }, { setup: () => consolePort(), transport })

consoleConformance(
  { describe, it, expect },
  {
    setup: () => {
      const device = consolePort()
      const chunks: Uint8Array[] = []
      device.stream.on("data", (chunk: Uint8Array) => chunks.push(chunk))
      return {
        device,
        output: () => Buffer.concat(chunks),
        input: (bytes) => device.stream.write(bytes),
      }
    },
    transport,
  },
)
