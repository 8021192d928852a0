#!/bin/bash
# boot.sh DIR: systemd as process 1 in namespaces of its own, over a copy on write of this
# machine's root. It needs this machine's systemd and no network; that of the caller is
# shared. DIR/upper keeps what is written, but for the directories of /var/lib that DIR/lib
# has; DIR/cgroup names the control group to be in. The caller made DIR/root the overlay.
set -e
dir=$1 root=$1/root

if [ "$2" != inside ]; then
  echo $$ >"$(cat "$dir/cgroup")/cgroup.procs"
  exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private -- bash "$0" "$dir" inside
fi

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /proc/sys "$root/proc/sys" -o ro # this machine's
if [ -e "$dir/net" ]; then # a network of its own
  mount --bind /proc/sys/net "$root/proc/sys/net"
fi
mount --bind /dev "$root/dev"
mount -t devpts devpts "$root/dev/pts" -o newinstance,mode=620,ptmxmode=666
for quiet in console kmsg; do # this machine's are not to be written to
  mount --bind /dev/null "$root/dev/$quiet"
done
mount -t sysfs sysfs "$root/sys" -o ro
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run" -o mode=755
mount -t tmpfs tmpfs "$root/tmp"
for lib in "$dir"/lib/*; do
  mkdir -p "$root/var/lib/${lib##*/}"
  mount --bind "$lib" "$root/var/lib/${lib##*/}"
done
cd "$root"
mkdir -p .before
pivot_root . .before
umount -l /.before
mount --make-rshared / # as on a host that systemd has booted
exec env -i container=rig PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd
