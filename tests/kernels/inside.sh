#!/usr/bin/env bash
# What the guest runs: `doctor`, then the tests of `run`. The last line says how it ended; then the guest is switched off.
set -uo pipefail
trap 'busybox poweroff -f' EXIT
cd "$1"
shift
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ip link set lo up
# As udev or systemd-modules-load do at the start of a machine; the rest is for the kernel to load when it is asked for.
modprobe -a tun fuse
bin=target/x86_64-unknown-linux-gnu/debug
echo "== $(uname -sr), $(nproc) cores"
"$bin/capuchin" doctor
tests/ns.sh timeout 3000 target/kernels/within --test-threads 1 "$@"
echo "kernels: ended with $?"
