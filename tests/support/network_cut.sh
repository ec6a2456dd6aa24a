#!/usr/bin/env bash
# Two machines and the wire between them, in namespaces of their own: the wire is cut, the lender gets another address, the
# wire is mended. Prints what each step shows. To be run by `unshare --map-root-user --net --mount`.
#   network_cut.sh CAPUCHIND CAPUCHIN FOLDER
set -euo pipefail
capuchind="$1" capuchin="$2" folder="$3"
export CAPUCHIND_DIR="$folder/lab"
# A function in the background is a shell of its own, which would outlive this one, and its command with it.
trap 'kill $(jobs -p)' EXIT

mount -t tmpfs tmpfs /run
ip link set lo up
ip netns add lab
ip link add near type veth peer name far netns lab
ip address add 10.78.0.2/24 dev near
ip link set near up
on_lab() { ip netns exec lab "$@"; }
on_lab ip link set lo up
on_lab ip address add 10.78.0.1/24 dev far
on_lab ip link set far up

echo page > "$folder/page"
on_lab setpriv --pdeathsig KILL python3 -m http.server --directory "$folder" --bind 127.0.0.1 8000 >"$folder/web.log" 2>&1 &
setpriv --pdeathsig KILL python3 -m http.server --directory "$folder" --bind 127.0.0.1 8001 >"$folder/own-web.log" 2>&1 &
"$capuchind" init --name lab --listen 10.78.0.1:2278 --advertise 10.78.0.1:2278 --advertise 10.78.0.3:2278 >&2
sed -i 's/^listen = .*/listen = "0.0.0.0:2278"/' "$CAPUCHIND_DIR/lender.toml"
cat > "$CAPUCHIND_DIR/policy.toml" <<POLICY
[[allow]]
who = ["alice"]
connect = ["127.0.0.1:8000"]
listen = ["127.0.0.1:8090"]
unix_listen = ["$folder/at-lab.sock"]
allow_root = true
POLICY
"$capuchind" user add alice >&2
on_lab setpriv --pdeathsig KILL "$capuchind" serve >"$folder/lender.log" 2>&1 &

# Waits for a line, or for several, of a file that somebody is still writing.
line_of() { grep -m "${3:-1}" "$2" < <(timeout 90 tail -n +1 -F "$1" 2>/dev/null); }
line_of "$folder/lender.log" "listens on" >&2
"$capuchind" invite alice | "$capuchin" join - --password-file "$folder/password" >&2
setpriv --pdeathsig KILL "$capuchin" forward lab -N -L 8080:127.0.0.1:8000 -L "$folder/here.sock:127.0.0.1:8000" -D 1080 \
    -R 8090:127.0.0.1:8001 -R "$folder/at-lab.sock:127.0.0.1:8001" >"$folder/forward.log" 2>&1 &
line_of "$folder/forward.log" Forwarding 5 >&2
# What is made again at the lender may come a moment after the session.
get() { curl --silent --show-error --fail --noproxy '*' --max-time 10 --retry 60 --retry-delay 1 --retry-all-errors "$@"; }
fetch() {
    echo "$1: -L $(get http://127.0.0.1:8080/page) -L unix $(get --unix-socket "$folder/here.sock" http://lab/page)" \
        "-D $(get --noproxy '' --proxy socks5h://127.0.0.1:1080 http://127.0.0.1:8000/page)" \
        "-R $(on_lab bash -c "$(declare -f get); get http://127.0.0.1:8090/page")" \
        "-R unix $(on_lab bash -c "$(declare -f get); get --unix-socket '$folder/at-lab.sock' http://here/page")"
}
fetch before

ip link set near down
on_lab ip address del 10.78.0.1/24 dev far
line_of "$folder/forward.log" reconnecting
on_lab ip address add 10.78.0.3/24 dev far
ip link set near up
line_of "$folder/forward.log" "back after"
fetch after
