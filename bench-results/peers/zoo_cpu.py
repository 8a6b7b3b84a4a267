"""Times the networks of recipes/torchvision on the CPU beside ONNX Runtime, in turn, several rounds in one sitting.

    .venv/bin/python zoo_cpu.py --galley ../../target/release/galley --out ../DATE-MACHINE-cpu-torchvision [NAME ...]

Both sides run in f32 on the same number of threads, on random weights: a pass over a batch in memory, 224 pixels a side. In the
folder, `results.jsonl` has one figure a line, and `table.md` the median over the rounds of each round's ratio.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch
import torchvision

from cpu_peers import timed

NAMES = """resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2
densenet121 densenet161 densenet169 densenet201 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
squeezenet1_1 alexnet googlenet inception_v3""".split()


def session(name, threads):
    """The network in ONNX Runtime, for batches of any size."""
    random = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = getattr(torchvision.models, name)(**random).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        names = {"input_names": ["pixels"], "output_names": ["logits"], "dynamic_axes": {"pixels": {0: "n"}}}
        torch.onnx.export(module, (torch.randn(2, 3, 224, 224),), path, dynamo=False, **names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def peer(loaded, batch, seconds):
    pixels = torch.randn(batch, 3, 224, 224).numpy()
    return timed(lambda: loaded.run(None, {"pixels": pixels}), seconds)[0] * 1e3


def galley(args, name, batches):
    """Milliseconds of a pass for each batch size."""
    command = [args.galley, "bench", "native", name, "--weights", "synthetic", "--no-prepare", "--shape", "224"]
    command += ["--batch", ",".join(map(str, batches)), "--dtype", "f32", "--threads", str(args.threads)]
    command += ["--seconds", str(args.seconds), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {figure["batch"]: figure["ms"] for figure in figures if "ms" in figure}


def rows(figures, batches):
    """A network's line, and the medians of its ratios."""
    for name in dict.fromkeys(figure["model"] for figure in figures):
        cells, medians = [name], []
        for batch in batches:
            of = [f for f in figures if (f["model"], f["batch"]) == (name, batch)]
            ratios = [f["onnxruntime_ms"] / f["galley_ms"] for f in of]
            medians.append(statistics.median(ratios))
            ours = statistics.median(f["galley_ms"] for f in of)
            cells += [f"{ours:.2f}", f"{medians[-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        yield "| " + " | ".join(cells) + " |", medians


def table(figures, batches):
    head = ["network", *(cell for batch in batches for cell in (f"galley {batch}, ms", f"ONNX Runtime / galley {batch}"))]
    lines, medians = zip(*rows(figures, batches))
    means = [math.exp(statistics.mean(map(math.log, column))) for column in zip(*medians)]
    mean = ["geometric mean", *(cell for value in means for cell in ("", f"**{value:.2f}**"))]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines, "| " + " | ".join(mean) + " |"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--galley", required=True, help="the program, built with --release")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--batch", default="1,8")
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batch.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    figures = []
    with open(args.out / "results.jsonl", "w") as file:
        about = {name: version(name) for name in ("onnxruntime", "torch", "torchvision")}
        said = subprocess.run([args.galley, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        about |= {"kind": "run", "galley": said, "python": platform.python_version()}
        about |= {"rounds": args.rounds, "threads": args.threads, "seconds": args.seconds}
        print(json.dumps(about), file=file, flush=True)
        for name in args.names:
            loaded = session(name, args.threads)
            for number in range(args.rounds):
                ours = galley(args, name, batches)
                for batch in batches:
                    theirs = peer(loaded, batch, args.seconds)
                    figure = {"round": number, "model": name, "batch": batch}
                    figure |= {"galley_ms": ours[batch], "onnxruntime_ms": round(theirs, 4)}
                    figures.append(figure)
                    print(json.dumps(figure), file=file, flush=True)
            print(f"{name} done", file=sys.stderr)
    text = table(figures, batches)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
