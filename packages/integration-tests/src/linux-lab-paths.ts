/** Where things are in a lab of `LinuxLab`. */
export const IN_LAB = {
  kernel: "/guest/vmlinuz",
  initrd: "/guest/initrd",
  virtkit: "/virtkit/node_modules/virtkit/dist/bin.js",
  programs: "/virtkit/node_modules/@virtkit/integration-tests/dist/programs",
} as const
