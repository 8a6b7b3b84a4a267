#!/usr/bin/env bash
# Ten starts on a CUDA device, by turns with the driver's cache of compiled kernels off and on: seconds to ready, the batch
# sizes found, and what 1024 clients of one text each are served.
#
#   starts.sh GALLEY OUT
set -euo pipefail
galley=$1 out=$2
mkdir -p "$out"

start() {
    local label=$1 began ended server
    shift
    began=$(date +%s%N)
    env "$@" "$galley" serve --port 18080 --device cuda:0 --recipes transformers_ner,efficientnet_b2 \
        --weights synthetic:1 >"$out/ready" 2>"$out/log" &
    server=$!
    until grep -q ready "$out/ready"; do
        sleep 0.02
        kill -0 $server
    done
    ended=$(date +%s%N)
    "$galley" bench served transformers_ner --url http://127.0.0.1:18080 --weights synthetic:1 --device cuda:0 \
        --batch 1 --concurrency 1024 --examples 40000 --repeats 3 --out "$out/run" >/dev/null 2>&1
    echo "$label: ready after $(((ended - began) / 1000000)) ms"
    { echo "== $label"; grep -E 'warmed up|first pass' "$out/log"; } >>"$out/warm-up.log"
    sed "s/^/{\"start\":\"$label\",\"run\":/; s/$/}/" "$out/run/results.jsonl" >>"$out/results.jsonl"
    kill $server
    wait $server || true
}

for round in 1 2 3 4 5; do
    start "off$round" CUDA_CACHE_DISABLE=1
    start "warm$round" CUDA_CACHE_PATH="$out/cache"
done
