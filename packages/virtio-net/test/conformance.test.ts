import { deviceConformance, netConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { net } from "@virtkit/virtio-net"
import { describe, expect, it } from "vitest"
import { GUEST_MAC, recorder } from "./helpers.js"

const transport = (options: ConstructorParameters<typeof VirtioMmio>[0]) => new VirtioMmio(options)

deviceConformance(
  { describe, it, expect },
  { setup: () => net({ backend: recorder(), mac: GUEST_MAC, queues: 2 }), transport },
)

netConformance(
  { describe, it, expect },
  {
    setup: async (mac) => {
      const backend = recorder()
      const sent: Uint8Array[] = []
      const { transmit } = backend
      backend.transmit = (pair, frame) => {
        const taken = transmit.call(backend, pair, frame)
        sent.push(backend.frames.at(-1)!.bytes)
        return taken
      }
      const address = Buffer.from(mac)
        .toString("hex")
        .replaceAll(/(..)(?=.)/g, "$1:")
      const device = await net({ backend, mac: address })
      const deliver = (frame: Uint8Array): void => {
        backend.session!.receive(0, frame)
        backend.session!.received(0)
      }
      return { device, sent, deliver }
    },
    transport,
  },
)
