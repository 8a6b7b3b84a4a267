"""Times galley and its peers in turn, case by case, several rounds in one sitting, and writes how they compare.

    cargo build --release
    .venv/bin/python compare.py --galley ../../target/release/galley --out ../DATE-MACHINE-cpu-peers

Both sides keep to the same number of threads. In the folder, `results.jsonl` has one figure a line (`round`, `peer`,
`model`, `batch`, `shape`, `dtype`, `ms`), and `table.md` the median over the rounds of each round's ratio.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The lengths in tokens (bert-base-cased, with both special tokens) of the first 32 texts of loadgen/data/texts/ner.txt.zst.
MIXED = "34,43,31,37,40,45,16,22,8,42,9,31,33,42,10,17,40,26,30,6,37,37,34,21,33,16,8,28,69,55,65,64"
SYNTHETIC = ["--weights", "synthetic", "--no-prepare"]
NATIVE = [
    *(["efficientnet_b2_torchvision", "--batch", batch, "--shape", "288"] for batch in ("1", "8")),
    *(["transformers_ner", "--batch", batch, "--shape", "64"] for batch in ("1", "8")),
    ["transformers_ner", "--batch", "32", "--shape", "32"],
    ["transformers_ner", "--mixed", MIXED],
    *(["distilbert_sst2", "--batch", batch, "--shape", "128"] for batch in ("1", "8")),
]
# What galley is asked for, and the numbers of the same cases in cpu_peers.py.
CASES = [(["native", *case], [number]) for number, case in enumerate(NATIVE)]
CASES.append((["operators", "--only", "bilstm"], [8, 9, 10]))


class Peers:
    """The other side's process, with its models loaded."""

    def __init__(self, common):
        command = [sys.executable, HERE / "cpu_peers.py", *common, "--mixed", MIXED, "--on-demand"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.figures()

    def time(self, case):
        print(case, file=self.process.stdin, flush=True)
        return self.figures()

    def figures(self):
        figures = []
        while (line := self.process.stdout.readline()).strip():
            figures.append(json.loads(line))
        if not line:
            sys.exit("cpu_peers.py ended too early")
        return figures


def galley(args, common, case):
    dtypes = args.dtypes.split(",") if case[0] == "native" else [None]
    for dtype in dtypes:
        more = [*SYNTHETIC, "--dtype", dtype] if dtype else []
        command = [args.galley, "bench", *case, *more, *common, "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def one_round(args, common, peers):
    """Case by case, each side right after the other."""
    for case, numbers in CASES:
        if args.only and case[1] not in args.only.split(","):
            continue
        for number in numbers:
            yield from peers.time(number)
        yield from galley(args, common, case)


def key(figure):
    return figure["model"], figure["batch"], tuple(figure["shape"])


def table(rounds, dtypes):
    """Each case's ratios of times, the peer's over galley's: the median of the rounds, and the range."""
    cases = dict.fromkeys(key(figure) for figure in rounds[0] if figure["peer"] == "galley")
    columns = [(peer, dtype) for peer in ("onnxruntime", "torch") for dtype in dtypes]
    head = ["model", "shape", *(f"galley {dtype} ms" for dtype in dtypes)]
    head += [f"{peer} / galley {dtype}" for peer, dtype in columns]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for case in cases:
        def ms(peer, dtype):
            found = [
                [f["ms"] for f in figures if (f["peer"], f["dtype"]) == (peer, dtype) and key(f) == case]
                for figures in rounds
            ]
            return [times[0] for times in found if times]

        model, batch, shape = case
        mixed = len(shape) == batch and batch > 1
        row = [model, f"{batch} of mixed length" if mixed else "x".join(map(str, shape))]
        for dtype in dtypes:
            times = ms("galley", dtype)
            row.append(f"{statistics.median(times):.3f}" if times else "")
        for peer, dtype in columns:
            ratios = [theirs / ours for theirs, ours in zip(ms(peer, "f32"), ms("galley", dtype))]
            row.append(
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            )
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galley", required=True, help="the program, built with --release")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    parser.add_argument("--dtypes", default="f32,bf16", help="galley's dtypes")
    parser.add_argument("--only", help="recipes to be timed [default: all, and a BiLSTM]")
    args = parser.parse_args()
    common = ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    peers = Peers(common)
    args.out.mkdir(parents=True, exist_ok=True)
    rounds = []
    with open(args.out / "results.jsonl", "w") as file:
        about = {name: version(name) for name in ("onnxruntime", "torch", "torchvision", "transformers")}
        about |= {"kind": "run", "python": platform.python_version(), "rounds": args.rounds}
        about |= {"threads": args.threads, "seconds": args.seconds}
        about["galley"] = subprocess.run(
            [args.galley, "--version"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        print(json.dumps(about), file=file, flush=True)
        for number in range(args.rounds):
            figures = []
            for figure in one_round(args, common, peers):
                figures.append(figure)
                print(json.dumps({"round": number, **figure}), file=file, flush=True)
            rounds.append(figures)
            (args.out / "table.md").write_text(table(rounds, args.dtypes.split(",")))
            print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    print(table(rounds, args.dtypes.split(",")))


if __name__ == "__main__":
    main()
