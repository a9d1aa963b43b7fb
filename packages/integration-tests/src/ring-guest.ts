import { EXPECTED_COMPLAINTS } from "./complaints.js"
/** What the test of rings and the program that runs its guests have to agree on. */

/** What is offered for the rings of a device. */
export interface RingChoice {
  readonly packed: boolean
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly inOrder: boolean
}

/** Every combination, with IN_ORDER as told. */
export function ringChoices(inOrder: boolean): RingChoice[] {
  const both = [false, true]
  return both.flatMap((packed) =>
    both.flatMap((eventIdx) => both.map((indirect) => ({ packed, eventIdx, indirect, inOrder }))),
  )
}

/** Where the second kernel and its initramfs are in the lab, beside those of `IN_LAB`. */
export const SECOND_GUEST = { kernel: "/guest-2/vmlinuz", initrd: "/guest-2/initrd" } as const

export const DISK_SECTORS = 2048
export const DISK_REQUESTS = 250
export const FRAMES = 250
export const CONSOLE_BYTES = 1500

/**
 * Tells what each virtio device negotiated, then puts all of them under load at once, each with a checking program of its
 * own, and waits until it is let go.
 */
export const RING_GUEST: string = `for device in /sys/bus/virtio/devices/*; do
  path=$(readlink -f $device)
  slot=\${path%/*}
  echo device \${slot##*:} $(cat $device/device) $(cat $device/features) \${device##*/}
done
disks=$(cd /sys/block; echo vd*)
cards=$(cd /sys/class/net; echo eth*)
for disk in $disks; do
  path=$(readlink -f /sys/block/$disk/device)
  path=\${path%/*}
  ( ring-judge disk /dev/$disk ${DISK_SECTORS} ${DISK_REQUESTS} && echo passed \${path##*:} ) &
done
for card in $cards; do
  path=$(readlink -f /sys/class/net/$card/device)
  path=\${path%/*}
  (
    # What is sent before the link is up is lost, and 6.12 has it up some time after it was asked for.
    ip link set $card up
    until [ "$(cat /sys/class/net/$card/operstate)" = up ]; do sleep 0.1; done
    ring-judge frames $card ${FRAMES} && echo passed \${path##*:}
  ) &
done
for tty in 0 1 2 3 4 5 6 7; do
  (
    exec 3<>/dev/hvc$tty
    stty raw -echo <&3
    echo console $tty
    head -c ${CONSOLE_BYTES} <&3 >&3
  ) &
done
wait
dmesg -r | grep '^<[0-3]>' | grep -vE '${EXPECTED_COMPLAINTS}|unable to open an initial console' |
  sed 's/^/complaint /'
echo finished
read line
`

/** Of one device of a guest. */
export interface RingDevice {
  readonly kind: "blk" | "net" | "console"
  readonly rings: RingChoice
  /** Bits of /sys/bus/virtio/devices/.../features, the lowest first. */
  readonly features: string
  /** The checking program in the guest found no error; of a console, the host got back what it had sent. */
  readonly passed: boolean
  /** Of a disk: sectors that hold, seen from the host, what the guest wrote. */
  readonly goodSectors: number | undefined
  /** Over all queues. */
  readonly chains: number
  readonly malformed: number
}

export interface RingGuestReport {
  readonly reason: string
  readonly release: string
  readonly complaints: readonly string[]
  readonly devices: readonly RingDevice[]
  readonly said: string
  readonly seconds: number
}
