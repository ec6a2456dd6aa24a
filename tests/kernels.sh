#!/usr/bin/env bash
# Boots another kernel under qemu, Debian 12's 6.1 unless a package is named, and runs the core cases of `run` there, or the tests
# that are named, with static binaries; the guest sees this machine's programs. Needs root for the packages, and a machine that does
# little else: its processor is emulated. The last result stands in docs/MEASURED.md.
# Usage: tests/kernels.sh [PACKAGE [TEST …]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needs=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod)
PATH="$PATH:/usr/sbin:/sbin"
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# One that needs libraries would be the guest's first program without them.
! ldd "$(command -v busybox)" >/dev/null 2>&1 || missing+=(busybox-static)
if ((${#missing[@]})); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

newest='^linux-image-6\.1\.[0-9]+-[0-9]+-amd64-unsigned$'
package="${1:-$(apt-cache pkgnames linux-image-6.1 | grep -E "$newest" | sort -V | tail -1 || :)}"
[[ -n "$package" ]] || { echo "tests/kernels.sh: no kernel of that name is known: apt-get update, or name a package" >&2; exit 2; }
here="$PWD/target/kernels"
files="$here/files"
rm -rf -- "$here"
mkdir -p "$files" "$here/initramfs"/{bin,proc,machine,layer,root,modules}
(cd "$here" && apt-get download -qq -o APT::Sandbox::User=root "$package" && dpkg-deb -x ./*.deb "$files")
kernel=$(basename "$files"/lib/modules/*)
depmod -b "$files" "$kernel"

target=x86_64-unknown-linux-gnu
export CARGO_TARGET_DIR="$PWD/target" RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_DEV_DEBUG=line-tables-only CARGO_INCREMENTAL=0
# An emulated processor is slow enough without a debug build's detours.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CAPUCHIN_TESTS_EMULATED=1
cargo build --locked --target "$target" --bins
cargo test --no-run --locked --target "$target" --test within --message-format json |
    python3 -c 'import json, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("target", {}).get("name") == "within" and built.get("executable"):
        print(built["executable"])' >"$here/test"
ln -s "$(cat "$here/test")" "$here/within"

initramfs="$here/initramfs"
cp "$(command -v busybox)" "$initramfs/bin/"
cp tests/kernels/init "$initramfs/init"
chmod +x "$initramfs/init"
shift || :
# What a kernel decides: each kind of socket and of way, where it could differ. Not what takes thousands of sockets.
core=(
    confined::
    connects::{curl_fetches,connect_fails,a_program_learns,a_port_that_the_program,data_that_a_program_sends,what_a_program_wrote_last_arrives}
    listens::{a_server_is_met,loopback_is_the_programs}
    binds::bind_and_listen
    ports::{a_port_is_open_as_long,sockets_share,listen_binds_by_itself}
    datagrams::{datagrams_are_answered,a_server_of_datagrams}
    tun::{without_,a_name_is_looked_up}
    without_namespaces::{curl_fetches,connections::connect_fails,connections::a_program_learns,credentials::,ways::,process::where_namespaces}
)
echo "$PWD" "${@:-${core[*]}}" >"$initramfs/project"
# In the order in which they are loaded.
number=100
for module in virtio_pci 9pnet_virtio 9p overlay; do
    modprobe -d "$files" -S "$kernel" --show-depends "$module"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' | while read -r path; do
    cp "$path" "$initramfs/modules/$((number++))-$(basename "$path")"
done
(cd "$initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$here/initramfs.gz"

timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -display none -no-reboot \
    -kernel "$files/boot/vmlinuz-$kernel" -initrd "$here/initramfs.gz" -append "console=ttyS0 quiet panic=-1" \
    -virtfs "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap" \
    -nic none -serial stdio -monitor none </dev/null | tee "$here/log"
grep -q "^kernels: ended with 0" "$here/log" && grep -qE "test result: .*ok.* [1-9][0-9]* passed; 0 failed" "$here/log"
