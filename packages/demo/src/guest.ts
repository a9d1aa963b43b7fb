import { cachedInitramfs, type Kernel } from "@virtkit/lab"

/** The word by which the guest says that its own checks passed, and what is followed by the checksum of its file. */
export const PASSED = "demo: all checks in the guest passed"
export const CHECKSUM = "demo: sha256 of guest-data is "

/** What udhcpc runs when it has a lease. */
const LEASE = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router" dev "$interface"
echo "demo: the network card has the address $ip, from $serverid" >/dev/console
`

/**
 * What runs in the guest: gets an address for its network card, reads the file that the host put on the ext4 disk, writes one
 * of its own, reads it back from the device, and powers off; or, with `demo=shell`, gives a shell before that.
 */
const INIT = `
exec </dev/console >/dev/console 2>&1
fail() { echo "demo: FAILED: $*"; poweroff -f; sleep 60; }

echo "demo: $(uname -sr) on $(nproc) CPUs, $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB, up $(cut -d' ' -f1 /proc/uptime) s"
[ "$(nproc)" = 2 ] || fail "not all CPUs are online"
ip link set eth0 up && udhcpc -i eth0 -s /lease -n -q >/dev/null 2>/tmp/udhcpc || fail "no address: $(cat /tmp/udhcpc)"
mount -t ext4 /dev/vda /mnt || fail "mount"
(cd /mnt && sha256sum -c host-data.sha256) || fail "the host's file is damaged"
dd if=/dev/urandom of=/mnt/guest-data bs=1M count=32 2>/dev/null || fail "write"
sum=$(sha256sum </mnt/guest-data | cut -d' ' -f1)
umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 /dev/vda /mnt || fail "mount again"
[ "$(sha256sum </mnt/guest-data | cut -d' ' -f1)" = "$sum" ] || fail "read back other data than written"
head -c 16 /dev/hwrng >/dev/null || fail "no entropy from virtio-rng"
echo "${CHECKSUM}$sum"
echo "${PASSED}"
if grep -q demo=shell /proc/cmdline; then
  echo "demo: a shell in the guest; the disk is at /mnt; 'exit' powers off, Ctrl-A x pulls the plug"
  setsid cttyhack sh
fi
umount /mnt
poweroff -f
`

/** The guest's initial RAM disk: busybox, the virtio and ext4 modules, and the script. */
export function guestInitrd(kernel: Kernel): Promise<string> {
  return cachedInitramfs({
    kernel,
    modules: ["virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "ext4"],
    files: [{ target: "/lease", data: LEASE, mode: 0o755 }],
    init: INIT,
  })
}
