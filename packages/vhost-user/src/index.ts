export { VhostUserError } from "./error.js"
export { type ServeOptions, serve, VhostUserServer, type VhostUserServerEvents } from "./serve.js"
