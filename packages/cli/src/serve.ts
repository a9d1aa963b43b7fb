import type { VirtioDevice } from "@virtkit/interface"
import { serve, type VhostUserServer } from "@virtkit/vhost-user"

import type { RingOffers } from "@virtkit/vmm"
import { deviceOptions, parseNet } from "./net-option.js"
import { parseCommand, parseDisk, parseRings } from "./run-options.js"
import { EXIT_CLEAN, serveUsage, UsageError } from "./usage.js"

const KINDS = ["blk", "net", "console", "rng"] as const
type Kind = (typeof KINDS)[number]

/** Queues of a disk unless told: front ends ask for one for each CPU, and cannot have more than there are. */
const DISK_QUEUES = 4
/** Microseconds: two processes wake each other in about half of that. The process has nothing else to do. */
const DISK_POLL = 64

/** What `virtkit serve` was asked for. */
export interface ServeArguments {
  readonly kind: Kind
  readonly socket: string
  readonly disk: string | undefined
  readonly net: string | undefined
  readonly rings: RingOffers
}

/** A device with what connects it to its server and to this process. */
interface Served {
  readonly device: VirtioDevice
  /** For people. */
  readonly detail?: string | undefined
  connect?(server: VhostUserServer): void
}

/** `virtkit serve`: ends by a signal. */
export async function serveCommand(argv: readonly string[]): Promise<number> {
  const options = parseServeArguments(argv)
  if (options === undefined) {
    process.stdout.write(serveUsage)
    return EXIT_CLEAN
  }
  const stop = new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => resolve())
  })
  const { device, connect, detail } = await makeDevice(options)
  try {
    await using server = serve(device, { socket: options.socket, rings: options.rings })
    report(server, device.name)
    connect?.(server)
    process.stderr.write(
      `virtkit: ${device.name}${detail === undefined ? "" : ` (${detail})`} waits for a front end on ${options.socket}\n`,
    )
    await stop
  } finally {
    await device.close()
  }
  return EXIT_CLEAN
}

/** Undefined when help was asked for. Throws {@link UsageError}. */
export function parseServeArguments(argv: readonly string[]): ServeArguments | undefined {
  const { values, positionals } = parseCommand(
    argv,
    {
      socket: { type: "string" },
      disk: { type: "string" },
      net: { type: "string" },
      rings: { type: "string" },
      help: { type: "boolean" },
    },
    true,
  )
  if (values.help) return undefined
  const [name = "", ...rest] = positionals
  const kind = KINDS.find((known) => known === name)
  if (kind === undefined || rest.length > 0)
    throw new UsageError(`serve "${positionals.join(" ")}": it must be one of ${KINDS.join(", ")}`)
  const { socket, disk, net, rings } = values
  if (!socket) throw new UsageError("serve: --socket is missing: the path where front ends connect")
  for (const [option, value, owner] of [
    ["disk", disk, "blk"],
    ["net", net, "net"],
  ] as const) {
    if (kind === owner && value === undefined) throw new UsageError(`serve ${kind}: --${option} is missing`)
    if (kind !== owner && value !== undefined)
      throw new UsageError(`serve ${kind}: --${option} is for ${owner}`)
  }
  return { kind, socket, disk, net, rings: parseRings(rings ?? "split") }
}

/** Loads what that kind of device needs, and nothing else. */
async function makeDevice({ kind, disk, net }: ServeArguments): Promise<Served> {
  switch (kind) {
    case "blk": {
      const { block } = await import("@virtkit/virtio-blk")
      const options = parseDisk(disk!)
      if (options.thread !== undefined && options.thread !== false)
        throw new UsageError("serve blk: thread is for virtkit run; this process has nothing else to do")
      const device = await block({ queues: DISK_QUEUES, poll: DISK_POLL, mayWait: true, ...options })
      return { device, detail: device.engine }
    }
    case "net": {
      const device = await (await import("@virtkit/virtio-net")).net(deviceOptions(parseNet(net!), "net"))
      // The front end keeps the queue of commands to itself, and tells of the number of pairs by the queues that it enables.
      return {
        device,
        connect: (server) =>
          server.on("queues", (running) =>
            device.setQueuePairs(Math.max(1, running.filter((on, index) => on && index % 2 === 0).length)),
          ),
      }
    }
    case "console": {
      const { consolePort } = await import("@virtkit/virtio-console")
      const device = consolePort()
      return {
        device,
        connect: () => {
          process.stdin.pipe(device.stream, { end: false })
          device.stream.pipe(process.stdout)
        },
      }
    }
    case "rng":
      return { device: (await import("@virtkit/virtio-rng")).rng() }
  }
}

function report(server: VhostUserServer, name: string): void {
  const say = (line: string) => process.stderr.write(`virtkit: ${name}: ${line}\n`)
  server.on("connected", () => say("a front end connected"))
  server.on("disconnected", (reason) =>
    say(reason === undefined ? "the front end went" : `the front end was turned away: ${reason}`),
  )
  server.on("resumed", (queue, requests) => say(`queue ${queue}: ${requests} requests were in flight`))
  server.on("needsReset", (reason) => say(`needs a reset by the guest: ${reason}`))
  server.on("deviceError", (error) => say(error.message))
}
