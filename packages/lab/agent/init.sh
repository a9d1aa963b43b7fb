# Runs as the lab's process 1 after the start that every initramfs has; ends in the agent.
# /usr is the lab's image; everything else is memory.

mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /dev/lab /dev/shm
for disk in /sys/block/vd*; do
  name=$(cat "$disk/serial")
  ln -s "/dev/${disk##*/}" "/dev/lab/$name"
  # Node.js is 100 MB that are mapped, not read: larger reads make fewer requests of the page faults.
  [ "$name" = usr ] && echo 1024 >"$disk/queue/read_ahead_kb"
done
mount -t ext4 -o ro /dev/lab/usr /usr

# KVM takes the frequency of the TSC once, when it is loaded. The kernel measures it a second time in its first seconds, and
# then switches to it. A KVM that was loaded before gives its guests timers that never fire, for want of TSC scaling.
load_kvm() {
  read -r clock <"$clocksource/current_clocksource"
  while [ "$clock" != tsc ]; do
    usleep 2000
    read -r clock <"$clocksource/current_clocksource"
  done
  modprobe kvm-amd
}
clocksource=/sys/devices/system/clocksource/clocksource0
load_kvm &
kvm=$!
cat /usr/bin/node >/dev/null &
mount -t tmpfs none /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
hostname lab
echo "127.0.0.1 localhost lab" >/etc/hosts
# Programs of root's, such as passt, become nobody.
echo "root:x:0:0::/root:/bin/sh
nobody:x:65534:65534::/:/bin/sh" >/etc/passwd
ip link set lo up

# The first command may need /dev/kvm.
wait $kvm
while [ ! -e /dev/vport0p1 ]; do usleep 1000; done

# Programs that shut themselves in, such as passt, pivot their root. The kernel's first root cannot be pivoted; the same
# files as a mount of their own can.
mkdir /.root
mount -o rbind / /.root
cd /.root
mount -o move . /
exec chroot . /agent /dev/vport0p1
