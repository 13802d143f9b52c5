# shellcheck shell=bash
# A node of its own below a temporary root, with the example slices: what `demo` and `run` have in common.
# To be sourced.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=${PLAB_BIN_DIR:-$REPO/target/release}

ROOT=              # the temporary root, once there is one
PLABD_PID=         # plabd's, while it runs
FIRST_UID=         # of the hundred that slices get
LAST_UID=
MIRROR_PORT=
KV_PORT=

if [[ -t 1 ]]; then TTY=true; else TTY=false; fi
if $TTY && [[ -z ${NO_COLOR-} && ${TERM-dumb} != dumb ]]; then
    GREEN=$'\e[32m' RED=$'\e[1;31m' BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m'
else
    # shellcheck disable=SC2034
    GREEN='' RED='' BOLD='' DIM='' PLAIN=''
fi

die() {
    clear_line
    printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$*" "$PLAIN" >&2
    exit 1
}

clear_line() { if $TTY; then printf '\r\e[K'; fi; }

heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }

# Says what is being waited for: in place on a terminal, else as a line of its own.
busy() {
    if $TTY; then printf '\r\e[K%s… %s%s' "$DIM" "$*" "$PLAIN"; else printf '  … %s\n' "$*"; fi
}

# wait_until SECONDS WHAT COMMAND…: repeats the command until it succeeds; fails when the time is up.
wait_until() {
    local what=$2 end=$((SECONDS + $1)) turn=0 marks='-=*='
    shift 2
    busy "$what"
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            clear_line
            return 1
        fi
        if $TTY; then printf '\r\e[K%s%s %s%s' "$DIM" "${marks:turn++%4:1}" "$what" "$PLAIN"; fi
        sleep 0.05
    done
    clear_line
}

plab() { "$BIN/plab" --root "$ROOT" "$@"; }

require() {
    [[ $(id -u) == 0 ]] || die "capsules are made as root; run: sudo ${0##*/}"
    local name
    for name in plabd plab capsule-init; do
        [[ -x $BIN/$name ]] || die "$BIN/$name is not there; run: make build"
    done
    for name in curl jq perl ps setpriv setsid taskset timeout; do
        command -v "$name" >/dev/null || die "$name is not there; run: make deps-demo"
    done
    # Not the caller's python3: the one that a capsule will find.
    PATH=/usr/local/bin:/usr/bin:/bin python3 -c 'import asyncio, tomllib' 2>/dev/null ||
        die "the example services need python3 3.11 or newer in /usr; run: make deps-demo"
}

# Whether somebody listens on this TCP port, on whatever address.
port_taken() {
    local hex
    printf -v hex '%04X' "$1"
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v end=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == end { found = 1 } END { exit !found }'
}

# The wanted port, or the next that is free.
free_port() {
    local port=$1
    while port_taken "$port"; do
        port=$((port + 1))
        ((port < $1 + 200)) || die "no TCP port is free from $1 to $port"
    done
    echo "$port"
}

processes_of_uids() { ps -eo uid=,pid=,args= | awk -v first="$1" -v last="$2" '$1 >= first && $1 <= last'; }

# Makes the root: the example definitions and node file, with a hundred UIDs that nobody uses now.
make_root() {
    ROOT=$(mktemp -d "${TMPDIR:-/tmp}/plab-$1.XXXXXX")
    # mktemp's 0700 would keep the slices' own users from the control socket.
    chmod 755 "$ROOT"
    mkdir -p "$ROOT/etc/planetlab" "$ROOT/bin"
    cp -R "$REPO/config/examples/." "$ROOT/etc/planetlab"
    # A copy where every user may run it: the repository may lie in a directory that only root enters.
    install -m 755 "$BIN/plab" "$ROOT/bin/plab"
    FIRST_UID=99000
    while [[ $(processes_of_uids "$FIRST_UID" "$((FIRST_UID + 99))") ]]; do
        FIRST_UID=$((FIRST_UID - 100))
        ((FIRST_UID >= 70000)) || die "no hundred UIDs are free between 70000 and 99999"
    done
    LAST_UID=$((FIRST_UID + 99))
    sed -i "s/^uids = .*/uids = \"$FIRST_UID-$LAST_UID\"/" "$ROOT/etc/planetlab/node.toml"
    # Asked more often than a node would, so that nobody waits a minute to see a status.
    sed -i 's/^status_interval = .*/status_interval = "2s"/' "$ROOT/etc/planetlab/node.toml" "$ROOT"/etc/planetlab/slices.d/*.toml
    MIRROR_PORT=$(free_port 8080)
    KV_PORT=$(free_port 7070)
    sed -i "s|tcp/8080|tcp/$MIRROR_PORT|; s|tcp/7070|tcp/$KV_PORT|" "$ROOT"/etc/planetlab/slices.d/*.toml
}

answers() { plab status --json; }

# In a session of its own: Ctrl-C is for the script, which ends plabd in order.
start_plabd() {
    setsid "$BIN/plabd" --drain-on-exit --root "$ROOT" >>"$ROOT/plabd.log" 2>&1 </dev/null &
    PLABD_PID=$!
    wait_until 20 "plabd starts" plabd_settled && answers >/dev/null 2>&1 && return
    sed 's/^/  plabd: /' "$ROOT/plabd.log" >&2
    PLABD_PID=
    die "plabd did not start; its words are above"
}

plabd_settled() { answers || ! kill -0 "$PLABD_PID"; }

# One field of one slice's status.
field() { plab status --json | jq -r --arg slice "$1" ".slices[] | select(.name == \$slice) | $2"; }

is() { [[ $(field "$1" "$2") == "$3" ]]; }

# Installs an example as a researcher does: over `plab exec`, its settings first.
install_example() {
    local slice=$1 example=$2 file
    shift 2
    wait_until 20 "$slice runs" is "$slice" .state running || die "$slice does not run: $(plab status "$slice")"
    for file in "$@"; do
        plab exec "$slice" -- tee "${file%%=*}" <<<"${file#*=}" >/dev/null
    done
    # By name and not ".": tar would give the home directory itself the mode that it has in the repository.
    (cd "$REPO/control-scripts/examples/$example" && tar -c "$example" PlanetLab-control) |
        plab exec "$slice" -- tar -x
}

install_examples() {
    install_example princeton_mirror mirror "mirror.conf=port = $MIRROR_PORT"$'\n'"address = 127.0.0.1"
    install_example princeton_kv kv "kv.conf=port = $KV_PORT"
    install_example irb_prober prober "prober.conf=interval = 1" "targets=127.0.0.1:$MIRROR_PORT"
}

service_runs() { is "$1" .hooks.start running && is "$1" .status_ok true; }

# Ends plabd and everything that runs below it. Fine if there is nothing.
stop_plabd() {
    [[ $PLABD_PID ]] || return 0
    kill -TERM "$PLABD_PID" 2>/dev/null || true
    if ! wait_until 60 "every capsule is stopped" plabd_gone; then
        printf '%splabd (PID %s) did not end in a minute: killed%s\n' "$RED" "$PLABD_PID" "$PLAIN" >&2
        kill -KILL "$PLABD_PID" 2>/dev/null || true
    fi
    wait "$PLABD_PID" 2>/dev/null || true
    PLABD_PID=
}

plabd_gone() { ! kill -0 "$PLABD_PID"; }
