export { type TapBackendOptions, tapBackend } from "./backends/tap.js"
export type { TapByDescriptor, TapByName } from "./backends/tap-open.js"
