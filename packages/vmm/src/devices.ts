import type { VirtioDevice } from "@virtkit/interface"

/** Waits for every device; when one cannot be had, closes those that could before it throws the first reason. */
export async function settleDevices(
  pending: readonly (VirtioDevice | Promise<VirtioDevice>)[],
): Promise<VirtioDevice[]> {
  const settled = await Promise.allSettled(pending)
  const devices = settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []))
  const failed = settled.find((result) => result.status === "rejected")
  if (failed === undefined) return devices
  await closeDevices(devices)
  throw failed.reason
}

export async function closeDevices(devices: readonly VirtioDevice[]): Promise<void> {
  const results = await Promise.allSettled(devices.map((device) => device.close()))
  const failed = results.find((result) => result.status === "rejected")
  if (failed !== undefined) throw failed.reason
}
