# Run by `unshare` as the first process of new namespaces: builds a throw-away machine over this one's files and
# becomes its systemd. Arguments: an empty folder; one with units of an earlier boot; then folders that the inside shares
# with the outside.
set -euo pipefail
scratch=$1
units_of_before=$2
shift 2

# A systemd that does not have a cgroup namespace to itself takes all processes of the machine for its own.
grep -qx '0::/' /proc/self/cgroup

mount -t tmpfs -o mode=755 box "$scratch"
mkdir "$scratch/changes" "$scratch/work" "$scratch/root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/changes,workdir=$scratch/work" box "$scratch/root"
root=$scratch/root

# What a kernel offers, as little of it as systemd starts with.
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 box "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
touch "$root/dev/console"
mount --bind /dev/null "$root/dev/console"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 box "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=755 box "$root/run"
mkdir -p "$root/run/systemd" "$root/run/lock"
mount -t tmpfs -o mode=1777 box "$root/tmp"
# Kernel settings are the machine's, not the box's.
mount --bind "$root/proc/sys" "$root/proc/sys"
# Each boot has an id of its own.
cat /proc/sys/kernel/random/uuid >"$scratch/boot_id"
mount --bind "$scratch/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -o remount,bind,ro "$root/proc/sys"

for folder in "$@"; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
done

# No disks, devices, clocks or timers are to be looked after in here.
: >"$root/etc/fstab"
# Nor is anything to be cleaned away: the shared folders may lie below /tmp.
mkdir -p "$root/etc/tmpfiles.d"
: >"$root/etc/tmpfiles.d/tmp.conf"
hostname box
units=$root/etc/systemd/system
for unit in systemd-{udevd,udev-trigger,timesyncd,sysctl,modules-load,binfmt,update-utmp,remount-fs}.service \
  systemd-journald-audit.socket {apt-daily,apt-daily-upgrade,e2scrub_all,fstrim,dpkg-db-backup,systemd-tmpfiles-clean}.timer; do
  ln -sf /dev/null "$units/$unit"
done
cat >"$units/box.target" <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
UNIT

cp --archive "$units_of_before/." "$units/"

mkdir "$root/.outside"
cd "$root"
pivot_root . .outside
umount -l /.outside
exec env -i container=box LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=box.target --show-status=0
