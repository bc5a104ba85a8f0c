#!/bin/sh
# Installs Headwater from this folder on a system without Debian packages. Run as root; run again to upgrade.
#
#   ./install.sh                 install or upgrade; configuration and data stay
#   ./install.sh --uninstall     remove the program; configuration and data stay
#   DESTDIR=/mnt ./install.sh    into another root: files only, no user, nothing started
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
die() {
    echo "install.sh: $*" >&2
    exit 1
}
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || die "must run as root"

# Another root is judged by what is installed in it, a live one by what runs.
has_systemd() { if [ -n "$root" ]; then [ -d "$root/etc/systemd/system" ]; else [ -d /run/systemd/system ]; fi; }
is_openwrt() { [ -f "$root/etc/rc.common" ]; }
# Tells the running system something; another root has none.
live() { [ -n "$root" ] || "$@"; }

if [ "${1:-}" = --uninstall ]; then
    if has_systemd; then
        live systemctl disable --now headwater.service || true
        rm -f "$root/etc/systemd/system/headwater.service"
    fi
    if is_openwrt && [ -x "$root/etc/init.d/headwater" ]; then
        live /etc/init.d/headwater stop || true
        live /etc/init.d/headwater disable || true
        rm -f "$root/etc/init.d/headwater"
    fi
    rm -f "$root/usr/bin/headwater"
    echo "removed; /etc/headwater and /var/lib/headwater are left for you to delete"
    exit 0
fi
[ $# -eq 0 ] || die "expected nothing or --uninstall, found $1"

# Whether the binary is for this machine is known before anything is replaced.
[ -n "$root" ] || "$here/headwater" self >/dev/null || die "the binary does not run here: is this the archive for this machine?"

if [ -z "$root" ] && ! grep -q '^headwater:' /etc/passwd; then
    if command -v useradd >/dev/null; then
        useradd --system --user-group --home-dir /var/lib/headwater --shell /bin/false headwater
    elif command -v adduser >/dev/null; then
        addgroup -S headwater 2>/dev/null || true
        adduser -S -D -H -h /var/lib/headwater -s /bin/false -G headwater headwater
    else
        echo 'headwater:x:982:' >>/etc/group
        echo 'headwater:x:982:982:Headwater:/var/lib/headwater:/bin/false' >>/etc/passwd
    fi
fi

mkdir -p "$root/usr/bin" "$root/etc/headwater" "$root/var/lib/headwater"
# Beside it and renamed: a running binary cannot be written over, and a power cut leaves the old or the new one.
cp "$here/headwater" "$root/usr/bin/headwater.new"
chmod 755 "$root/usr/bin/headwater.new"
sync
mv "$root/usr/bin/headwater.new" "$root/usr/bin/headwater"
if [ ! -f "$root/etc/headwater/headwater.toml" ]; then
    cp "$here/headwater.toml" "$root/etc/headwater/headwater.toml"
    chmod 640 "$root/etc/headwater/headwater.toml"
fi
if [ -z "$root" ]; then
    chown root:headwater /etc/headwater /etc/headwater/headwater.toml
    chown headwater:headwater /var/lib/headwater
fi
chmod 750 "$root/etc/headwater" "$root/var/lib/headwater"

if is_openwrt; then
    cp "$here/headwater.init" "$root/etc/init.d/headwater"
    chmod 755 "$root/etc/init.d/headwater"
    live /etc/init.d/headwater enable
    live /etc/init.d/headwater restart
elif has_systemd; then
    cp "$here/headwater.service" "$root/etc/systemd/system/headwater.service"
    live systemctl daemon-reload
    live systemctl enable headwater.service
    live systemctl restart headwater.service
else
    echo "no systemd and no OpenWrt here: let your init start, as the user headwater:"
    echo "  /usr/bin/headwater run --config /etc/headwater/headwater.toml"
fi
echo "installed; the configuration is /etc/headwater/headwater.toml"
[ -z "$root" ] || echo "there, still to do: a user and a group headwater, who own /var/lib/headwater and whose group may read /etc/headwater"
