#!/usr/bin/env bash
# Proofs that take too long for every change: 1 GiB each way through a forward, long fuzzing, CPython's suites, another kernel, the
# benches.
# Prints a dated report; the last one stands in docs/MEASURED.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuzz_seconds="${1:-600}"

echo "== $(date -u +%F), $(nproc) cores, $(uname -r)"
echo "== 1 GiB each way, byte-identical"
CAPUCHIN_TEST_MEBIBYTES=1024 cargo test --release --locked --test road -- forwards::mebibytes_each_way
echo "== what CI tries under run as any user, as root"
CAPUCHIN_TEST_ANYBODY=0 env --default-signal=HUP,INT,QUIT,PIPE,TERM tests/ns.sh cargo test --locked --test within
echo "== fuzzing, $fuzz_seconds s each"
for target in $(cargo fuzz list); do
    cargo fuzz run --sanitizer none --dev "$target" -- -max_total_time="$fuzz_seconds" -verbosity=0
done
echo "== CPython's network suites, as they are and under run"
tests/cpython.sh
echo "== another kernel"
tests/kernels.sh
echo "== benches"
# Those that fail where what is promised is missed come last.
for bench in mux forward run session udp flood revoke; do
    cargo bench --locked --bench "$bench"
done
