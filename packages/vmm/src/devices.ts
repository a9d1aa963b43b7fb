import type { VmDevice } from "./pci-root.js"

/** Waits for every device; when one cannot be had, closes those that could before it throws the first reason. */
export async function settleDevices(pending: readonly (VmDevice | Promise<VmDevice>)[]): Promise<VmDevice[]> {
  const settled = await Promise.allSettled(pending)
  const devices = settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []))
  const failed = settled.find((result) => result.status === "rejected")
  if (failed === undefined) return devices
  await closeDevices(devices)
  throw failed.reason
}

export async function closeDevices(devices: readonly VmDevice[]): Promise<void> {
  const results = await Promise.allSettled(devices.map((device) => device.close()))
  const failed = results.find((result) => result.status === "rejected")
  if (failed !== undefined) throw failed.reason
}
