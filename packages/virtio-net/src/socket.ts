export { type DgramAddress, type DgramBackendOptions, dgramBackend } from "./backends/dgram.js"
export { type StreamAddress, type StreamBackendOptions, streamBackend } from "./backends/stream.js"
