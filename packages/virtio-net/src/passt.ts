export { type PasstBackendOptions, passtBackend } from "./backends/passt.js"
