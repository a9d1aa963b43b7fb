export { type DgramAddress, type DgramBackendOptions, dgramBackend } from "./backends/dgram.js"
export { duplexBackend } from "./backends/duplex.js"
export { type StreamAddress, type StreamBackendOptions, streamBackend } from "./backends/stream.js"
