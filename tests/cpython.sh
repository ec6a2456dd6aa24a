#!/usr/bin/env bash
# Runs CPython's own network suites as they are, on this machine and then under `capuchin run`, and compares each test.
# Needs an interpreter with the package `test` (Debian: libpython3-testsuite or libpython3.11-testsuite), named by $PYTHON,
# and root, or a user who may make network namespaces. Prints what differs; exits 0 if what passes outside passes inside, but for
# the one test that `run` does not let pass, which renames the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
suites=("${@:-}")
[[ -n "${suites[0]}" ]] || suites=(test_socket test_socketserver test_asyncio.test_events test_asyncio.test_server
    test_asyncio.test_streams test_asyncio.test_sock_lowlevel test_asyncio.test_sendfile)
bin="$PWD/target/${PROFILE:-release}"
[[ -x "$bin/capuchin" ]] || cargo build --locked --release --bins
"$python" -c 'import test.test_socket' || { echo "tests/cpython.sh: $python has no package test; set PYTHON" >&2; exit 2; }

folder=$(mktemp -d)
export CAPUCHIND_DIR="$folder/lab" HOME="$folder" XDG_CONFIG_HOME="$folder/config" XDG_STATE_HOME="$folder/state" XDG_RUNTIME_DIR="$folder/run"
trap 'kill "$lender" 2>/dev/null || :; wait "$lender" 2>/dev/null || :; rm -rf -- "$folder"' EXIT
lender=

"$bin/capuchind" init --name lab --listen 127.0.0.1:0 >/dev/null 2>&1
cat >"$CAPUCHIND_DIR/policy.toml" <<'POLICY'
[[allow]]
who = ["alice"]
connect = ["*:*", "127.0.0.0/8:*", "[::1]:*"]
udp = ["*:*", "127.0.0.0/8:*", "[::1]:*"]
listen = ["*:*"]
POLICY
"$bin/capuchind" user add alice >/dev/null
"$bin/capuchind" serve >"$folder/log" 2>&1 &
lender=$!
# It opens the port before it says so.
( timeout 30 tail -n +1 -f --pid="$lender" "$folder/log" & ) | grep -q --line-buffered "listens on"
echo "correct horse battery" >"$folder/password"
chmod 0600 "$folder/password"
address=$(sed -n 's/.*listens on .* \([^ ]*\)$/\1/p' "$folder/log" | head -1)
"$bin/capuchin" join "$("$bin/capuchind" invite alice)" --password-file "$folder/password" >/dev/null

# VSOCK leaves a network namespace: `run` has none, and outside it may hang.
runner='
import sys, unittest
def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        elif "VSOCK" not in test.id().upper():
            yield test
tests = unittest.defaultTestLoader.loadTestsFromName("test." + sys.argv[1])
unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(each(tests)))
'
run_suite() { # how suite
    local before=()
    [[ "$1" == inside ]] && before=("$bin/capuchin" run lab --)
    (cd "$folder" && timeout 1500 "${before[@]}" "$python" -c "$runner" "$2" >"$folder/$1.$2" 2>&1) || :
}
for suite in "${suites[@]}"; do
    run_suite outside "$suite"
    run_suite inside "$suite"
done

"$python" - "$folder" "${suites[@]}" <<'COMPARE'
import re, sys
folder, *suites = sys.argv[1:]
LINE = re.compile(r"^(test\w*) \(([\w.]+)\)")
VERDICT = re.compile(r"\.\.\. .*?(ok|FAIL|ERROR|skipped|expected failure)")

def results(path):
    found, name = {}, None
    for line in open(path, errors="replace"):
        if match := LINE.match(line):
            name = f"{match[2].removeprefix('test.')}"
            name = name if name.endswith(match[1]) else f"{name}.{match[1]}"
        if name and (match := VERDICT.search(line)) or name and (match := re.match(r"^(ok|FAIL|ERROR|skipped)\b", line)):
            found[name] = match[1]
            name = None
    return found

# The second skips itself wherever it loses its race.
MAY_SKIP = ("test_sethostname", "test_sock_client_connect_racing")
worse = 0
for suite in suites:
    outside, inside = results(f"{folder}/outside.{suite}"), results(f"{folder}/inside.{suite}")
    passed = {name for name, verdict in outside.items() if verdict == "ok"}
    both = {name for name in passed if inside.get(name) == "ok"}
    differ = sorted(name for name in passed - both)
    other = sorted(name for name in inside if inside[name] == "ok" and outside.get(name) not in ("ok", None))
    print(f"{suite}: {len(outside)} tests, {len(passed)} pass outside, {len(both)} of them inside")
    for name in differ:
        print(f"    {name}: ok outside, {inside.get(name, 'not run')} inside")
    for name in other:
        print(f"    {name}: {outside[name]} outside, ok inside")
    worse += sum(inside.get(name) != "skipped" or not name.endswith(MAY_SKIP) for name in differ)
    if not passed:
        print(f"    nothing passed outside: {folder}/outside.{suite}")
        worse += 1
sys.exit(1 if worse else 0)
COMPARE
