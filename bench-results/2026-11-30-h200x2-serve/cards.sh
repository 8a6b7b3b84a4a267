#!/usr/bin/env bash
# One card and both, by turns: what is served and by which card; then another program takes what is left of the second card's memory.
#
#   cards.sh GALLEY OUT      (two cards; Python with PyTorch takes the memory)
galley=$1 out=$2
mkdir -p "$out"
serve() {
    "$galley" serve --port 18080 --device "$1" --recipes transformers_ner,efficientnet_b2,deepsegment_en \
        --weights synthetic:1 >"$out/ready" 2>"$out/log" &
    server=$!
    until grep -q ready "$out/ready"; do sleep 0.05; kill -0 $server || return 1; done
}
utilization() { curl -s http://127.0.0.1:18080/metrics | grep "^galley_device_utilization_ratio"; }
run() {
    local label=$1 recipe=$2; shift 2
    "$galley" bench served $recipe --url http://127.0.0.1:18080 --weights synthetic:1 --device cuda:0 \
        --out "$out/run" "$@" >"$out/table-$label-$recipe.txt" 2>&1 &
    local bench=$!
    sleep 3; utilization | sed "s/^/$label $recipe /" | tee -a "$out/utilization.txt"
    wait $bench
    sed "s/^/{\"devices\":\"$label\",\"run\":/; s/$/}/" "$out/run/results.jsonl" >>"$out/results.jsonl"
    python3 - "$out/run/results.jsonl" "$label" "$recipe" <<'P'
import json,sys
for l in open(sys.argv[1]):
    r=json.loads(l)
    if r["kind"]=="served": print(sys.argv[2],sys.argv[3],r["batch"],r["concurrency"],round(r["items_per_s"]),r["latency_ms"]["p50"],r["latency_ms"]["p99"],r["errors"])
P
}
for round in 1 2; do
    for devices in cuda:0 cuda:0,cuda:1; do
        serve $devices || { tail "$out/log"; continue; }
        grep -E 'warmed|batch size' "$out/log" | sed "s/^/$devices /" >>"$out/warm-up.log"
        run $devices transformers_ner --batch 32 --concurrency 128 --examples 200000 --repeats 1
        run $devices efficientnet_b2 --batch 1 --concurrency 256 --examples 16384 --repeats 1
        run $devices deepsegment_en --batch 32 --concurrency 64 --examples 300000 --repeats 1
        kill $server; wait $server
    done
done
# Another program takes what is left of the second card's memory, under load.
serve cuda:0,cuda:1
python3 - <<'P' &
import torch,time
torch.cuda.set_device(1); keep=[]
for size in (1<<30, 1<<26, 1<<22, 1<<20):
    while True:
        try: keep.append(torch.empty(size,dtype=torch.uint8,device="cuda:1"))
        except Exception: break
print("taken",sum(k.numel() for k in keep)>>20,"MiB",flush=True); time.sleep(40)
P
hog=$!
sleep 14
"$galley" bench served transformers_ner --url http://127.0.0.1:18080 --weights synthetic:1 --device cuda:0 --out "$out/hog" --batch 128 --concurrency 128 --examples 200000 --repeats 1 2>&1 | tail -12
curl -s -o /dev/null -w "readyz %{http_code}\n" http://127.0.0.1:18080/readyz; curl -s http://127.0.0.1:18080/readyz | head -c 600; echo
grep -E "WARN|ERROR" "$out/log" | tail -12
utilization
kill $hog; wait $hog 2>/dev/null
"$galley" bench served transformers_ner --url http://127.0.0.1:18080 --weights synthetic:1 --device cuda:0 --out "$out/after" --batch 32 --concurrency 128 --examples 100000 --repeats 1 2>&1 | tail -6
curl -s -o /dev/null -w "readyz %{http_code}\n" http://127.0.0.1:18080/readyz
kill $server; wait $server
cp "$out/log" "$out/hog.log"
