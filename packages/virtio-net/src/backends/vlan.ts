import { VLAN_TAG_BYTES } from "../constants.js"

/** IEEE 802.1Q: the type that says that a tag follows, and where it is. */
const TAG_TYPE = 0x8100
const TAG_AT = 12

/** The VLAN of a frame's tag; undefined when it has none. A tag of VLAN 0 has a priority only. */
export function vlanOf(frame: Uint8Array): number | undefined {
  if (frame.length < TAG_AT + VLAN_TAG_BYTES) return undefined
  if (((frame[TAG_AT]! << 8) | frame[TAG_AT + 1]!) !== TAG_TYPE) return undefined
  return ((frame[TAG_AT + 2]! << 8) | frame[TAG_AT + 3]!) & 0xfff
}

/** The frame without its tag, as part of the same bytes: the addresses are moved. */
export function untag(frame: Uint8Array): Uint8Array {
  frame.copyWithin(VLAN_TAG_BYTES, 0, TAG_AT)
  return frame.subarray(VLAN_TAG_BYTES)
}

/** The frame with a tag, in `target`. */
export function tag(frame: Uint8Array, vlan: number, target: Uint8Array): Uint8Array {
  target.set(frame.subarray(0, TAG_AT), 0)
  target.set([TAG_TYPE >> 8, TAG_TYPE & 0xff, vlan >> 8, vlan & 0xff], TAG_AT)
  target.set(frame.subarray(TAG_AT), TAG_AT + VLAN_TAG_BYTES)
  return target.subarray(0, frame.length + VLAN_TAG_BYTES)
}
