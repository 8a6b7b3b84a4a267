"""Times galley on a CUDA device before and after what PyTorch does on it, in one sitting, and writes how they compare.

    cargo build --release --features cuda
    python3 cuda_compare.py --galley ../../target/release/galley --out ../DATE-CARD-native

PyTorch's inputs lie in the device's memory and its results stay there. Galley's ratios are of the same (`resident_ms`: its passes
back to back, each on a copy of its input within the device); beside them stands what a caller waits for, with the copies from
and to the host (`ms`). In the folder, `results.jsonl` has one figure a line, and `table.md` medians over the rounds against the
fastest of eager, CUDA graphs and torch.compile.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
SYNTHETIC = ["--weights", "synthetic", "--no-prepare"]


def mixed_lengths():
    """As cuda_peers.py makes them."""
    drawn = numpy.random.default_rng(0).gamma(3.0, 9.0, size=512).astype(int) + 4
    return ",".join(map(str, numpy.clip(drawn, 6, 128)))


def cases(quick):
    def batches(few, all_of_them):
        return few if quick else all_of_them

    yield ["native", "efficientnet_b2_torchvision", "--batch", batches("256", "1,32,256,512"), "--shape", "288", *SYNTHETIC]
    yield ["native", "transformers_ner", "--batch", batches("512", "1,32,128,512"), "--shape", "64", *SYNTHETIC]
    yield ["native", "transformers_ner", "--mixed", mixed_lengths(), *SYNTHETIC]
    yield ["native", "distilbert_sst2", "--batch", batches("128", "1,8,32,128"), "--shape", "128", *SYNTHETIC]
    yield ["operators", "--only", "bilstm"]


def figures(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{' '.join(map(str, command))[:120]} failed with {done.returncode}", file=sys.stderr)
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def galley(args):
    for case in cases(args.quick):
        command = [args.galley, "bench", *case, "--device", args.device, "--seconds", str(args.seconds), "--json"]
        yield from figures(command)


def key(figure):
    """The same model at the same batch; names differ a little, and one side writes shapes out."""
    model = figure["model"].removesuffix("_torchvision")
    lengths = figure["shape"]
    if model.startswith("bert_base_ner") or model == "transformers_ner":
        unlike = "mixed" in model or len(lengths) == figure["batch"] > 2
        model = "bert_base_ner, mixed lengths" if unlike else "bert_base_ner"
    return model, figure["batch"]


def table(rounds, peers):
    head = ["model", "batch", "best peer", "items/s", "galley items/s", "ratio", "ms", "ms with copies"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    ours = {}
    for number, figure in rounds:
        if "resident_ms" in figure:
            ours.setdefault(key(figure), []).append(figure)
    for case, found in ours.items():
        rivals = [figure for figure in peers if "items_per_s" in figure and key(figure) == case]
        if not rivals:
            continue
        best = max(rivals, key=lambda figure: figure["items_per_s"])
        rates = [1000 * case[1] / figure["resident_ms"] for figure in found]
        ratios = sorted(rate / best["items_per_s"] for rate in rates)
        row = [*map(str, case), best["peer"], f"{best['items_per_s']:,.0f}", f"{statistics.median(rates):,.0f}"]
        row.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        row.append(f"{statistics.median(figure['resident_ms'] for figure in found):.3f}")
        row.append(f"{statistics.median(figure['ms'] for figure in found):.3f}")
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galley", required=True, help="the program, built with --release --features cuda")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--device", default="cuda:0", help="galley's; PyTorch takes the first")
    parser.add_argument("--rounds", type=int, default=5, help="of galley, about half of them before PyTorch")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each of galley's figures")
    parser.add_argument("--quick", action="store_true", help="a case of each model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rounds, peers = [], []
    with open(args.out / "results.jsonl", "w") as file:
        about = {name: version(name) for name in ("torch", "torchvision", "transformers")}
        about |= {"kind": "run", "python": platform.python_version(), "rounds": args.rounds, "seconds": args.seconds}
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        about["card"] = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        about["galley"] = subprocess.run(
            [args.galley, "--version"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

        def write(figure):
            print(json.dumps(figure), file=file, flush=True)

        def our_rounds(numbers):
            for number in numbers:
                for figure in galley(args):
                    rounds.append((number, figure))
                    write({"round": number, **figure})

        write(about)
        before = (args.rounds + 1) // 2
        our_rounds(range(before))
        for figure in figures([sys.executable, HERE / "cuda_peers.py", *["--quick"] * args.quick]):
            peers.append(figure)
            write(figure)
        our_rounds(range(before, args.rounds))
    text = table(rounds, peers)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
