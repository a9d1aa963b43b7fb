// Loads the addon: what `npm run build` made in a checkout, else the binary that the package ships.
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"

const candidates = [
  "./build/Release/virtkit_native.node",
  `./prebuilds/linux-${process.arch}/virtkit_native.node`,
]

function load() {
  for (const candidate of candidates) {
    const path = fileURLToPath(new URL(candidate, import.meta.url))
    if (existsSync(path)) return createRequire(import.meta.url)(path)
  }
  throw new Error(
    `@virtkit/native has no binary for ${process.platform}-${process.arch}; in a checkout, run "npm run build"`,
  )
}

const addon = load()

// One line a part of the addon, the names as in types/*.d.ts; a test compares them with the addon's real exports.
export const { ExitHub, KvmDevice, KvmStats, KvmSystem, KvmVcpu, KvmVm, kvmConstants, kvmLayouts } = addon // kvm.cc
export const { MemoryMapping, memfdCreate } = addon // memory.cc
export const { EventFd } = addon // events.cc
export const { Poller } = addon // poller.cc
export const { BlockEngine, blockFileInfo, directAlignment, lockFile, writeTogether } = addon // block.cc
export const { Tap } = addon // net.cc
export const { UnixListener, UnixSocket, unixConnect, unixPair } = addon // unix_socket.cc
export const { probeIoUring } = addon // host.cc
