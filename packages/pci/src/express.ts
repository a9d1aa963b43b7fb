import type { CapabilityLayout } from "./capabilities.js"
import { type ConfigField, le } from "./config-space.js"
import * as reg from "./constants.js"

/**
 * The PCI Express capability of an endpoint, which Linux wants in order to use function-level reset: a root complex
 * integrated one on the root bus, one with a link behind a root port. `reset` is Initiate Function Level Reset.
 */
export function endpointCapability(
  behindPort: boolean,
  controlWritten: () => void | Promise<void>,
): CapabilityLayout {
  const type = behindPort ? reg.PCI_EXP_TYPE_ENDPOINT : reg.PCI_EXP_TYPE_RC_END
  const control = reg.PCI_EXP_DEVCTL_WRITABLE | reg.PCI_EXP_DEVCTL_BCR_FLR
  return express((start) => [
    { offset: start + reg.PCI_EXP_FLAGS, value: le(2, reg.PCI_EXP_FLAGS_VERS_2 | (type << 4)) },
    {
      offset: start + reg.PCI_EXP_DEVCAP,
      value: le(4, reg.PCI_EXP_DEVCAP_RBER | reg.PCI_EXP_DEVCAP_FLR),
    },
    ...deviceControl(start, control, controlWritten),
    // An integrated endpoint has no link: these registers are 0 (7.5.3).
    ...(behindPort ? link(start, 0) : []),
  ])
}

/**
 * The PCI Express capability of a root port with a slot, without native hot plug: that is ACPI's. `number` is the port's
 * and the slot's.
 */
export function rootPortCapability(number: number): CapabilityLayout {
  const flags = reg.PCI_EXP_FLAGS_VERS_2 | (reg.PCI_EXP_TYPE_ROOT_PORT << 4) | reg.PCI_EXP_FLAGS_SLOT
  return express((start) => [
    { offset: start + reg.PCI_EXP_FLAGS, value: le(2, flags) },
    { offset: start + reg.PCI_EXP_DEVCAP, value: le(4, reg.PCI_EXP_DEVCAP_RBER) },
    ...deviceControl(start, reg.PCI_EXP_DEVCTL_WRITABLE, undefined),
    ...link(start, number),
    { offset: start + reg.PCI_EXP_SLTCAP, value: le(4, number << reg.PCI_EXP_SLTCAP_PSN) },
    {
      offset: start + reg.PCI_EXP_SLTSTA,
      value: le(2, 0),
      volatile: le(2, reg.PCI_EXP_SLTSTA_PDS),
    },
    { offset: start + reg.PCI_EXP_RTCTL, value: le(2, 0), writable: le(2, reg.PCI_EXP_RTCTL_WRITABLE) },
  ])
}

function express(fields: (start: number) => ConfigField[]): CapabilityLayout {
  return { id: reg.PCI_CAP_ID_EXP, size: reg.PCI_CAP_EXP_SIZEOF, fields }
}

function deviceControl(
  start: number,
  writable: number,
  written: (() => void | Promise<void>) | undefined,
): ConfigField[] {
  return [
    {
      offset: start + reg.PCI_EXP_DEVCTL,
      value: le(2, reg.PCI_EXP_DEVCTL_DEFAULT),
      writable: le(2, writable),
      ...(written === undefined ? {} : { written }),
    },
    { offset: start + reg.PCI_EXP_DEVSTA, value: le(2, 0), clear: le(2, reg.PCI_EXP_DEVSTA_ERRORS) },
  ]
}

/** A link that is always up, at the lowest speed and width: nothing of it is real. */
function link(start: number, port: number): ConfigField[] {
  return [
    { offset: start + reg.PCI_EXP_LNKCAP, value: le(4, reg.PCI_EXP_LNK_2_5GB_X1 | (port << 24)) },
    { offset: start + reg.PCI_EXP_LNKCTL, value: le(2, 0), writable: le(2, reg.PCI_EXP_LNKCTL_WRITABLE) },
    { offset: start + reg.PCI_EXP_LNKSTA, value: le(2, reg.PCI_EXP_LNK_2_5GB_X1) },
    { offset: start + reg.PCI_EXP_LNKCAP2, value: le(4, reg.PCI_EXP_LNKCAP2_SLS_2_5GB) },
    { offset: start + reg.PCI_EXP_LNKCTL2, value: le(2, reg.PCI_EXP_LNKCTL2_TLS_2_5GT) },
  ]
}
