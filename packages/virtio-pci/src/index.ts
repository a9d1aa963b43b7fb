export type { VirtioPciState } from "./state.js"
export { VirtioPci, type VirtioPciOptions } from "./virtio-pci.js"
