import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { VirtioDevice } from "@virtkit/interface"
import { until as untilNamed } from "@virtkit/testkit"
import { type ServeOptions, serve, type VhostUserServer } from "@virtkit/vhost-user"
import { afterAll, afterEach } from "vitest"
import { FrontEnd } from "./front-end.js"

/** For sockets. */
export const folder: string = mkdtempSync(join(tmpdir(), "virtkit-vhost-user-"))
afterAll(() => rmSync(folder, { recursive: true }))

const closers: { close(): unknown }[] = []
afterEach(async () => {
  for (const closer of closers.splice(0).reverse()) await closer.close()
})

/** Closed after the test, the last one first. */
export function keep<T extends { close(): unknown }>(closer: T): T {
  closers.push(closer)
  return closer
}

let sockets = 0

/** A server of the device, on a socket of its own unless told. `reasons`: why connections ended. */
export function serving(
  device: VirtioDevice,
  path: string = join(folder, `${sockets++}.sock`),
  rings: ServeOptions["rings"] = {},
): {
  server: VhostUserServer
  path: string
  reasons: (string | undefined)[]
} {
  const server = keep(serve(device, { socket: path, rings }))
  const reasons: (string | undefined)[] = []
  server.on("disconnected", (reason) => reasons.push(reason))
  return { server, path, reasons }
}

export function connect(path: string, before?: FrontEnd): FrontEnd {
  return keep(new FrontEnd(path, before))
}

export const text = (words: string): Uint8Array => new TextEncoder().encode(words)

/** Waits for it, for 10 s at most. */
export const until = (done: () => boolean, what = "the other side"): Promise<void> => untilNamed(done, what)
