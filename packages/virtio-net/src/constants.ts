/** Names and numbers of virtio 1.3, section 5.1 (network device). */

/** 5.1.1 */
export const VIRTIO_ID_NET = 1

/** 5.1.3: feature bits, as masks. */
export const VIRTIO_NET_F_CSUM: bigint = 1n << 0n
export const VIRTIO_NET_F_GUEST_CSUM: bigint = 1n << 1n
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: bigint = 1n << 2n
export const VIRTIO_NET_F_MTU: bigint = 1n << 3n
export const VIRTIO_NET_F_MAC: bigint = 1n << 5n
export const VIRTIO_NET_F_GUEST_TSO4: bigint = 1n << 7n
export const VIRTIO_NET_F_GUEST_TSO6: bigint = 1n << 8n
export const VIRTIO_NET_F_GUEST_ECN: bigint = 1n << 9n
export const VIRTIO_NET_F_GUEST_UFO: bigint = 1n << 10n
export const VIRTIO_NET_F_HOST_TSO4: bigint = 1n << 11n
export const VIRTIO_NET_F_HOST_TSO6: bigint = 1n << 12n
export const VIRTIO_NET_F_HOST_ECN: bigint = 1n << 13n
export const VIRTIO_NET_F_HOST_UFO: bigint = 1n << 14n
export const VIRTIO_NET_F_MRG_RXBUF: bigint = 1n << 15n
export const VIRTIO_NET_F_STATUS: bigint = 1n << 16n
export const VIRTIO_NET_F_CTRL_VQ: bigint = 1n << 17n
export const VIRTIO_NET_F_CTRL_RX: bigint = 1n << 18n
export const VIRTIO_NET_F_CTRL_VLAN: bigint = 1n << 19n
export const VIRTIO_NET_F_CTRL_RX_EXTRA: bigint = 1n << 20n
export const VIRTIO_NET_F_GUEST_ANNOUNCE: bigint = 1n << 21n
export const VIRTIO_NET_F_MQ: bigint = 1n << 22n
export const VIRTIO_NET_F_CTRL_MAC_ADDR: bigint = 1n << 23n
export const VIRTIO_NET_F_GUEST_USO4: bigint = 1n << 54n
export const VIRTIO_NET_F_GUEST_USO6: bigint = 1n << 55n
export const VIRTIO_NET_F_HOST_USO: bigint = 1n << 56n
export const VIRTIO_NET_F_SPEED_DUPLEX: bigint = 1n << 63n

/** 5.1.4: offsets in the device configuration space, and its size up to the fields that this device has. */
export const CONFIG = {
  mac: 0,
  status: 6,
  maxVirtqueuePairs: 8,
  mtu: 10,
  speed: 12,
  duplex: 16,
  bytes: 20,
} as const

/** 5.1.4: bits of status. */
export const VIRTIO_NET_S_LINK_UP = 1
export const VIRTIO_NET_S_ANNOUNCE = 2

/** 5.1.4: values of speed (in Mbit/s otherwise) and duplex. */
export const SPEED_UNKNOWN = 0xffff_ffff
export const DUPLEX_HALF = 0
export const DUPLEX_FULL = 1
export const DUPLEX_UNKNOWN = 0xff

/** 5.1.6: bytes of struct virtio_net_hdr without hash report. num_buffers is there with VIRTIO_F_VERSION_1 too. */
export const HEADER_BYTES = 12

/** 5.1.6: offsets in the header. */
export const HEADER = {
  flags: 0,
  gsoType: 1,
  hdrLen: 2,
  gsoSize: 4,
  csumStart: 6,
  csumOffset: 8,
  numBuffers: 10,
} as const

/** 5.1.6: flags of the header. */
export const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
export const VIRTIO_NET_HDR_F_DATA_VALID = 2

/** 5.1.6: values of gso_type. ECN is a flag beside the others. */
export const VIRTIO_NET_HDR_GSO_NONE = 0
export const VIRTIO_NET_HDR_GSO_TCPV4 = 1
export const VIRTIO_NET_HDR_GSO_UDP = 3
export const VIRTIO_NET_HDR_GSO_TCPV6 = 4
export const VIRTIO_NET_HDR_GSO_UDP_L4 = 5
export const VIRTIO_NET_HDR_GSO_ECN = 0x80

/** 5.1.6.5: answers to commands. */
export const VIRTIO_NET_OK = 0
export const VIRTIO_NET_ERR = 1

/** 5.1.6.5: classes of commands. */
export const VIRTIO_NET_CTRL_RX = 0
export const VIRTIO_NET_CTRL_MAC = 1
export const VIRTIO_NET_CTRL_VLAN = 2
export const VIRTIO_NET_CTRL_ANNOUNCE = 3
export const VIRTIO_NET_CTRL_MQ = 4
export const VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5

/** 5.1.6.5.1: commands of class RX. */
export const VIRTIO_NET_CTRL_RX_PROMISC = 0
export const VIRTIO_NET_CTRL_RX_ALLMULTI = 1
export const VIRTIO_NET_CTRL_RX_ALLUNI = 2
export const VIRTIO_NET_CTRL_RX_NOMULTI = 3
export const VIRTIO_NET_CTRL_RX_NOUNI = 4
export const VIRTIO_NET_CTRL_RX_NOBCAST = 5

/** 5.1.6.5.2 to 5.1.6.5.6: commands of the other classes. */
export const VIRTIO_NET_CTRL_MAC_TABLE_SET = 0
export const VIRTIO_NET_CTRL_MAC_ADDR_SET = 1
export const VIRTIO_NET_CTRL_VLAN_ADD = 0
export const VIRTIO_NET_CTRL_VLAN_DEL = 1
export const VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0
export const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0
export const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0

/** IEEE 802.3: bytes of addresses and type, which every frame has; of a MAC address; of a VLAN tag. */
export const ETHERNET_HEADER_BYTES = 14
export const MAC_BYTES = 6
export const VLAN_TAG_BYTES = 4

/** The largest frame: an IP packet of 65535 bytes with Ethernet header and VLAN tag. */
export const MAX_FRAME_BYTES = 65_553
