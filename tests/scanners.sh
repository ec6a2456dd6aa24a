#!/usr/bin/env bash
# What others make of the lender's TLS: sslscan, nmap, sslyze, openssl s_client and malformed handshakes by tlslite-ng,
# against a real daemon on loopback. Installs what is missing; Python packages go into a folder that is thrown away.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sslyze=6.3.1
tlslite=0.8.2
# A scanner that hangs is a failure, too.
patience=180

# A program and the Debian package that holds it.
needs=(openssl:openssl sslscan:sslscan nmap:nmap python3:python3)

fail() {
    echo "tests/scanners.sh: $1" >&2
    exit 1
}

# The output of a scanner must have this line …
expect() {
    grep -Eq -- "$2" <<<"$1" || fail "$3: nothing like /$2/ in:
$1"
}

# … or must not.
refuse() {
    if grep -Eq -- "$2" <<<"$1"; then
        fail "$3: /$2/ in:
$1"
    fi
}

missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# Debian ships venv without ensurepip.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
    ((EUID == 0)) || fail "missing: ${missing[*]}. Install them first: sudo apt-get install ${missing[*]}"
    apt-get update -qq || fail "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get cannot install ${missing[*]}"
fi

scratch="$(mktemp -d)"
daemon=
cleanup() {
    [[ -z "$daemon" ]] || kill "$daemon" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

python3 -m venv "$scratch/venv" || fail "python3 cannot make a venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "sslyze==$sslyze" "tlslite-ng==$tlslite" ||
    fail "pip cannot install sslyze $sslyze and tlslite-ng $tlslite"

cargo build --quiet --locked --bins
bin="${CARGO_TARGET_DIR:-target}/debug"
export CAPUCHIND_DIR="$scratch/lender" HOME="$scratch/home" XDG_CONFIG_HOME="$scratch/home/config" XDG_STATE_HOME="$scratch/home/state"
mkdir -m 700 "$HOME"
"$bin/capuchind" init --name lab --listen 127.0.0.1:0 2>/dev/null
printf '[[allow]]\nwho = ["alice"]\nconnect = ["127.0.0.1:*"]\n' >"$CAPUCHIND_DIR/policy.toml"
# A scanner does what gets its address penalised, and more at once than a borrower.
printf 'per_source = 128\npenalties = false\n' >>"$CAPUCHIND_DIR/lender.toml"
"$bin/capuchind" user add alice
mkfifo "$scratch/says"
"$bin/capuchind" serve 2>"$scratch/says" &
daemon=$!
exec 3<"$scratch/says"
read -r -t 30 said <&3 || fail "the daemon does not start"
port="${said##*:}"
[[ "$port" =~ ^[0-9]+$ ]] || fail "the daemon said: $said"
(umask 077 && echo 'correct horse battery' >"$scratch/password")
"$bin/capuchin" join "$("$bin/capuchind" invite alice)" --password-file "$scratch/password" 2>/dev/null
device="$XDG_CONFIG_HOME/capuchin/hosts/lab/alice"

still_serves() {
    "$bin/capuchin" check lab connect 127.0.0.1:1 >/dev/null || fail "after $1 the daemon serves nobody"
    echo "$1: ok"
}

found="$(timeout "$patience" sslscan --no-colour "127.0.0.1:$port" 2>&1)" || fail "sslscan failed: $found"
for version in SSLv2 SSLv3 'TLSv1\.0' 'TLSv1\.1' 'TLSv1\.2'; do
    expect "$found" "^$version +disabled" sslscan
done
expect "$found" '^TLSv1\.3 +enabled' sslscan
expect "$found" 'Session renegotiation not supported' sslscan
refuse "$found" '(Accepted|Preferred) +(SSL|TLSv1\.[0-2])' sslscan
still_serves sslscan

found="$(timeout "$patience" nmap -Pn -n -p "$port" --script +ssl-enum-ciphers 127.0.0.1 2>&1)" || fail "nmap failed: $found"
expect "$found" '^\|   TLSv1\.3:' nmap
expect "$found" 'least strength: A' nmap
refuse "$found" 'SSLv|TLSv1\.[0-2]' nmap
still_serves nmap

found="$(timeout "$patience" "$scratch/venv/bin/sslyze" --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 \
    --resum --reneg --compression "127.0.0.1:$port" 2>&1)" || fail "sslyze failed: $found"
for version in 'SSL 2\.0' 'SSL 3\.0' 'TLS 1\.0' 'TLS 1\.1' 'TLS 1\.2'; do
    found_one="$(grep -A1 -E "\* $version Cipher Suites:" <<<"$found")"
    expect "$found_one" 'rejected all cipher suites' sslyze
done
expect "$found" 'Server REQUIRED client authentication' sslyze
expect "$found" 'accepted the following 3 cipher suites' sslyze
expect "$found" 'Compression disabled' sslyze
expect "$found" 'DoS Attack: +OK' sslyze
refuse "$found" 'VULNERABLE|FAILED' sslyze
still_serves sslyze

# A TLS 1.3 client is done first: only what comes afterwards tells whether it was accepted.
s_client() {
    timeout "$patience" openssl s_client -connect "127.0.0.1:$port" -alpn capuchin/1 -ign_eof -sess_out "$scratch/session" \
        "$@" </dev/null 2>&1 | tr -c '[:print:]\n' .
}
found="$(s_client || true)"
expect "$found" 'alert certificate required' "openssl s_client without a certificate"
for old in -tls1 -tls1_1 -tls1_2; do
    refuse "$(s_client "$old" || true)" 'Cipher is [^(]' "openssl s_client $old"
done
# OpenSSL before 3.5 reads no key that has its public half beside it (RFC 5958).
python3 - "$device/client.key" >"$scratch/key.pem" <<'EOF'
import base64, sys

der = base64.b64decode("".join(line for line in open(sys.argv[1]) if "-" not in line))
seed = der[der.index(b"\x04\x22\x04\x20") + 4 :][:32]
alone = bytes.fromhex("302e020100300506032b657004220420") + seed
print(f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(alone).decode()}\n-----END PRIVATE KEY-----")
EOF
# It greets nobody, and is told so after the login's 20 s: until then a ticket for resumption would have come.
found="$(s_client -cert "$device/client.crt" -key "$scratch/key.pem" || true)"
expect "$found" '^New, TLSv1\.3' "openssl s_client"
expect "$found" 'Early data was not sent' "openssl s_client"
expect "$found" 'took too long' "openssl s_client"
refuse "$found" 'New Session Ticket|Max Early Data' "openssl s_client"
[[ ! -s "$scratch/session" ]] || fail "openssl s_client got a session that it could resume"
still_serves "openssl s_client"

found="$(timeout "$patience" "$scratch/venv/bin/python" tests/scanners/malformed.py 127.0.0.1 "$port" 2>&1)" ||
    fail "malformed handshakes: $found"
expect "$found" 'a whole handshake: protocol_version' "malformed handshakes"
still_serves "malformed handshakes"

kill -0 "$daemon" || fail "the daemon died"
