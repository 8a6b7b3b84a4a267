#!/usr/bin/env bash
# How long `galley serve` takes until it is ready on a CUDA device, of two programs in turn and with three states of the driver's
# cache of compiled kernels: empty (a new container), off (CUDA_CACHE_DISABLE=1), and warm (what the same program left there).
#
#   first_start.sh OLD NEW [ROUNDS]        (3 rounds; bash alone, no curl; logs stay in ./first_start.logs)
#   RECIPES=efficientnet_lite0,transformers_ner WEIGHTS=bundled first_start.sh ...     (lite0 has no synthetic weights)
#
# One line a start: the program, the cache, seconds to ready, and each recipe's batch size with the time its warm-up took.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: first_start.sh OLD NEW [ROUNDS]" >&2; exit 2; }
declare -A program=([old]=$(realpath "$1") [new]=$(realpath "$2"))
rounds=${3:-3}
recipes=${RECIPES:-transformers_ner,efficientnet_b2}
weights=${WEIGHTS:-synthetic:1}
device=${DEVICE:-cuda:0}
port=${PORT:-18080}
logs=$PWD/first_start.logs
mkdir -p "$logs"
server=
trap '[ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true' EXIT

ready() {
    local status
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
    printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    read -r status <&3 || status=
    exec 3>&- 3<&-
    [[ $status == *" 200"* ]]
}

# start LABEL PROGRAM [NAME=VALUE...]: prints the line, unless the label is -.
start() {
    local label=$1 which=$2 log began ended
    shift 2
    log=$logs/$(date +%s%N).${which}.${label//[^a-z0-9]/_}.log
    began=$(date +%s%N)
    env -u CUDA_CACHE_DISABLE RUST_BACKTRACE=0 "$@" "${program[$which]}" serve --port "$port" --device "$device" \
        --recipes "$recipes" --weights "$weights" >"$log" 2>&1 &
    server=$!
    until ready; do
        if ! kill -0 "$server" 2>/dev/null; then
            printf '%-4s %-10s ended without being ready: %s\n' "$which" "$label" "$(tail -1 "$log")"
            wait "$server" || true
            server=
            return 0
        fi
        sleep 0.02
    done
    ended=$(date +%s%N)
    kill -TERM "$server"
    wait "$server" || true
    server=
    [ "$label" = - ] && return 0
    printf '%-4s %-10s %6.2f s  ' "$which" "$label" "$(((ended - began) / 10000000))e-2"
    # `recipe="a" ... max_batch_size=1 ... took=2.1s`, whatever else a line has.
    grep 'max_batch_size=' "$log" |
        sed -E 's/.*recipe="?([a-z0-9_]+)"?.* max_batch_size=([0-9]+).*/\1 \2 &/; s/^([^ ]+ [^ ]+) .*took=([0-9.a-zµ]+).*/\1 in \2/; s/^([^ ]+ [^ ]+) [0-9]{4}-.*/\1/' |
        paste -sd ';' | sed 's/;/; /g'
}

scratch=$(mktemp -d)
for which in old new; do
    cat "${program[$which]}" >/dev/null
    "${program[$which]}" --version || true
    # Fills the warm cache; and the libraries are in the page cache from here on.
    start - "$which" CUDA_CACHE_PATH="$scratch/$which"
done
for ((round = 1; round <= rounds; round++)); do
    for label in empty off warm; do
        for which in old new; do
            case $label in
            empty) start empty "$which" CUDA_CACHE_PATH="$(mktemp -d -p "$scratch")" ;;
            off) start off "$which" CUDA_CACHE_DISABLE=1 ;;
            warm) start warm "$which" CUDA_CACHE_PATH="$scratch/$which" ;;
            esac
        done
    done
done
# Without the driver's compiler at all: the old one cannot start, the new one needs none.
for which in old new; do
    start no-compiler "$which" CUDA_DISABLE_PTX_JIT=1 CUDA_CACHE_DISABLE=1
done
# By the PTX alone, as on a later card.
start ptx-alone new CUDA_FORCE_PTX_JIT=1 CUDA_CACHE_DISABLE=1
for which in old new; do
    printf '%s: %s in its cache of compiled kernels\n' "$which" "$(du -sh "$scratch/$which" 2>/dev/null | cut -f1 || true)"
done
rm -rf "$scratch"
