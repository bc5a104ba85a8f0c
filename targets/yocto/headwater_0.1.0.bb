# Installs the static binary that targets/build made: nothing is compiled here, so any release of Yocto will do.
# Put target/dist/ beside this file as files/, for example: ln -s ../../target/dist targets/yocto/files
SUMMARY = "MQTT broker for gateways that mirrors its streams to NATS JetStream"
DESCRIPTION = "Devices publish over MQTT; what they publish is stored in streams on disk under a hard bound, and mirrored \
               in order and without duplicates to a central NATS JetStream cluster whenever there is a link."
SECTION = "net"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# Which archive is for the machine. One with ARMv6 sets it to arm-unknown-linux-musleabihf.
HEADWATER_TARGET ?= "${@{'aarch64': 'aarch64-unknown-linux-musl', 'arm': 'armv7-unknown-linux-musleabihf', 'x86_64': 'x86_64-unknown-linux-musl', 'riscv64': 'riscv64gc-unknown-linux-musl'}.get(d.getVar('TARGET_ARCH'), 'none')}"
HEADWATER_ARCHIVE = "headwater-${PV}-${HEADWATER_TARGET}"
SRC_URI = "file://${HEADWATER_ARCHIVE}.tar.gz"
# Releases before 5.1 unpack into WORKDIR and do not know the other name.
UNPACKDIR ??= "${WORKDIR}"
S = "${UNPACKDIR}/${HEADWATER_ARCHIVE}"
COMPATIBLE_HOST = "(aarch64|arm|x86_64|riscv64).*-linux"

inherit systemd useradd

SYSTEMD_SERVICE:${PN} = "headwater.service"
USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --user-group --home-dir ${localstatedir}/lib/headwater --no-create-home --shell /bin/false headwater"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -Dm 0755 ${S}/headwater ${D}${bindir}/headwater
    install -d -m 0750 -g headwater ${D}${sysconfdir}/headwater
    install -m 0640 -g headwater ${S}/headwater.toml ${D}${sysconfdir}/headwater/headwater.toml
    install -Dm 0644 ${S}/headwater.service ${D}${systemd_system_unitdir}/headwater.service
    install -d -m 0750 -o headwater -g headwater ${D}${localstatedir}/lib/headwater
}

CONFFILES:${PN} = "${sysconfdir}/headwater/headwater.toml"
FILES:${PN} += "${systemd_system_unitdir} ${localstatedir}/lib/headwater"
# Static, and stripped by its own build.
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
# nooelint: oelint.vars.insaneskip
INSANE_SKIP:${PN} += "already-stripped"
