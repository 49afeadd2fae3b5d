#!/usr/bin/env bash
# Boots a systemd in name spaces of its own over this machine's files. It can read them but not
# change them: its writes stay in memory and are lost with it. Prints its process number once it is
# up. It ends when its standard input is closed.
#
# Usage: boot.sh STAGE      (STAGE: files that override this machine's; root only)
#        boot.sh --check    (exit code 77 if it cannot be done here)
set -euo pipefail
here=$(realpath "$0")
stage=$([ "$1" = --check ] || realpath "$1")

if [ "${2:-}" != inside ]; then
    cannot() { echo "cannot start systemd here: $1" >&2; exit 77; }
    [ "$(id -u)" = 0 ] || cannot "not root"
    [ -x /lib/systemd/systemd ] || cannot "/lib/systemd/systemd is missing"
    for tool in unshare nsenter systemctl journalctl; do
        command -v $tool > /dev/null || cannot "$tool is missing"
    done
    spaces=(-m -p -C -u -i -n)
    unshare "${spaces[@]}" -f true 2> /dev/null || cannot "name spaces are not allowed"
    # Try the mounts of the boot below that a machine may refuse.
    unshare "${spaces[@]}" -f sh -c 'mount -t tmpfs tmpfs /tmp && mkdir /tmp/u /tmp/w /tmp/r && mount -t cgroup2 cgroup2 /tmp/u &&
        umount /tmp/u && mount -t overlay overlay -o lowerdir=/,upperdir=/tmp/u,workdir=/tmp/w /tmp/r' 2> /dev/null ||
        cannot "file systems cannot be mounted"
    [ "$1" != --check ] || exit 0
    place=$(mktemp -d)
    unshare "${spaces[@]}" -f bash "$here" "$stage" inside "$place" > "$place/log" 2>&1 < /dev/null &
    outer=$!
    trap 'kill -9 $outer $(cat /proc/$outer/task/$outer/children 2> /dev/null) 2> /dev/null || true; sleep 0.2; rm -rf --one-file-system "$place"' EXIT
    for _ in $(seq 600); do
        sleep 0.1
        kill -0 $outer 2> /dev/null || { cat "$place/log" >&2; cannot "see above"; }
        first=$(cat "/proc/$outer/task/$outer/children" 2> /dev/null | tr -d ' ') || continue
        [ -n "$first" ] || continue
        # "degraded" counts as up: some unit of this machine fails in here.
        state=$(nsenter -t "$first" -m -p -C -u -i -n -r -w systemctl is-system-running 2> /dev/null || true)
        case $state in running | degraded) echo "$first"; cat > /dev/null; exit 0 ;; esac
    done
    cat "$place/log" >&2
    cannot "it did not start within a minute"
fi

place=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place"/{upper,work,root}
root=$place/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cp -a "$stage/." "$root/"
# Start nothing of this machine's own except for what every unit needs.
units=$root/etc/systemd/system
mkdir -p "$units"
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' > "$units/bare.target"
ln -sfn bare.target "$units/default.target"
for unit in systemd-udevd systemd-udev-trigger systemd-remount-fs systemd-modules-load systemd-sysctl systemd-logind systemd-networkd; do
    ln -sfn /dev/null "$units/$unit.service"
done
exec chroot "$root" env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
