export { EXPECTED_COMPLAINTS } from "./complaints.js"
export { testPmd } from "./dpdk.js"
export * as guest from "./guest-image.js"
export { guestProgram } from "./guest-program.js"
export { GUEST_SHELL, GuestShell } from "./guest-shell.js"
export { type GuestRun, guestFiles, LinuxLab } from "./linux-lab.js"
export { IN_LAB } from "./linux-lab-paths.js"
export { netTools } from "./net-tools.js"
export { NET_TOOLS } from "./net-tools-path.js"
export { PingPeer } from "./ping-peer.js"
export { qemuGuest, ServeProcess } from "./qemu-guest.js"
export { bootSector, handWrittenRom } from "./real-mode.js"
export {
  collectGarbage,
  mappingCount,
  type Resources,
  residentBytes,
  resources,
} from "./resources.js"
export {
  DISK_REQUESTS,
  DISK_SECTORS,
  FRAMES,
  RING_GUEST,
  type RingDevice,
  type RingGuestReport,
  ringChoices,
  SECOND_GUEST,
} from "./ring-guest.js"
export { makeRootDisk, ROOT_MODULES, ROOT_SCRIPT } from "./root-disk.js"
export {
  prepareStorm,
  STORM_COUNTER,
  type StormRange,
  type StormRepair,
  stormImage,
} from "./storm-guest.js"
export * as uBoot from "./u-boot.js"
export { RING, virtioGuest } from "./virtio-guest.js"
