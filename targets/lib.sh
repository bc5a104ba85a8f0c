# shellcheck shell=bash disable=SC2034
# What the scripts in targets/ share: where things are, and how what they need is installed. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# What the scripts install for themselves; it may be deleted at any time.
tools=$target/targets-tools
# What people are given.
dist=$target/dist
me=targets/$(basename "$0")
# What a small flash can hold beside a system.
max_bytes=8000000

say() { printf '%s: %s\n' "$me" "$*" >&2; }
give_up() {
    say "$*"
    exit 1
}

# Runs a command quietly: its output goes to a file that is shown if it fails.
quietly() {
    local log=$tools/$1.log
    shift
    mkdir -p "$tools"
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        give_up "failed: $* (all of it: $log)"
    }
}

# install_debian PACKAGE...
install_debian() {
    command -v apt-get >/dev/null || give_up "cannot install $*: this is no Debian or Ubuntu; install them by hand"
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || give_up "cannot install $*: neither root nor sudo; install them by hand"
        sudo=(sudo)
    fi
    say "installing the Debian packages $*"
    # A list that cannot be renewed may still know the packages. The machine's own upgrades may be at work: they are waited for.
    "${sudo[@]}" apt-get update >/dev/null 2>&1 || say "apt-get update failed; going on with the lists that are there"
    quietly apt-install "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y \
        --no-install-recommends "$@"
}

# The version that the workspace has.
version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1; }

# The commit that is checked out, marked if the sources are not quite it.
commit() {
    local commit
    commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null) || { echo unknown; return; }
    [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] || commit+=-modified
    echo "$commit"
}

# arch_of TARGET: the name that Debian has for it.
arch_of() {
    case $1 in
        aarch64-*) echo arm64 ;;
        # Debian's armhf is ARMv7; that of Raspberry Pi OS is ARMv6, with the same name.
        arm*-*eabihf) echo armhf ;;
        x86_64-*) echo amd64 ;;
        riscv64*) echo riscv64 ;;
        *) echo none ;;
    esac
}

# deb_of TARGET: the file name of its Debian package.
deb_of() {
    case $1 in
        arm-*) echo "headwater_$(version)_armhf-armv6.deb" ;;
        *) echo "headwater_$(version)_$(arch_of "$1").deb" ;;
    esac
}

# qemu_of TARGET: what runs its binaries, nothing for this machine's own.
qemu_of() {
    case $1 in
        "$(uname -m)"-*) ;;
        aarch64-*) echo qemu-aarch64-static ;;
        # The processor of the first Pi, which knows nothing later.
        arm-*) echo qemu-arm-static -cpu arm1176 ;;
        arm*) echo qemu-arm-static ;;
        riscv64*) echo qemu-riscv64-static ;;
        x86_64-*) echo qemu-x86_64-static ;;
    esac
}

install_zig() {
    local venv=$tools/venv
    if ! cmp -s "$root/targets/requirements.txt" "$venv/installed.txt"; then
        python3 -c 'import ensurepip' 2>/dev/null || install_debian python3 python3-venv
        say "installing zig and cargo-zigbuild into $venv"
        rm -rf "$venv"
        python3 -m venv "$venv"
        quietly pip "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/targets/requirements.txt"
        cp "$root/targets/requirements.txt" "$venv/installed.txt"
    fi
    # cargo-zigbuild finds zig as a module of the first python3 on the path.
    export PATH="$venv/bin:$PATH"
    export ZIG_GLOBAL_CACHE_DIR=$tools/zig-cache CARGO_ZIGBUILD_CACHE_DIR=$tools/zigbuild-cache
}

# rustflags_of TARGET: what the compiler is told of the machine, beginning with a space. Thumb-2, which every ARMv7 has, is a fourth
# smaller than ARM's 32-bit instructions; the compiler calls its name unstable, and warns.
rustflags_of() {
    case $1 in armv7-*) echo " -Ctarget-feature=+thumb-mode" ;; esac
}

# zigbuild TARGET ARGUMENT...: `cargo zigbuild` for that target, with everything it needs.
zigbuild() {
    local triple=$1 toolchain rustflags registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
    shift
    install_zig
    toolchain=$("$root/targets/std" "$triple")
    # No path of this machine gets into the binary: it would differ from machine to machine, and panic messages show them.
    rustflags="--remap-path-prefix=$registry=/registry --remap-path-prefix=$target=/target --remap-path-prefix=$root=/headwater"
    # Our own copy of the toolchain has no start files and no C library: those come from zig. It is named as a whole because
    # rustup's cargo would make its compiler look in the ordinary place.
    case $toolchain in "$tools"/*) rustflags+=" --sysroot=$toolchain -Clink-self-contained=no" ;; esac
    rustflags+=$(rustflags_of "$triple")
    # No panic passes through C: nothing there calls back.
    local cflags="-ffile-prefix-map=$target=/target -ffile-prefix-map=$registry=/registry -fno-unwind-tables -fno-asynchronous-unwind-tables"
    # zig takes no -mthumb.
    case $triple in armv7-*) cflags+=" -Xclang -target-feature -Xclang +thumb-mode" ;; esac
    # What zstd has for levels above ours (3, at any size of input: dfast) is left out of it.
    local strategy
    for strategy in GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA; do cflags+=" -DZSTD_EXCLUDE_${strategy}_BLOCK_COMPRESSOR"; done
    env CARGO_TARGET_DIR="$target" RUSTC="$toolchain/bin/rustc" RUSTFLAGS="$rustflags" CFLAGS="$cflags" \
        cargo zigbuild --target "$triple" "$@"
}
