"""Times training steps on the CPU beside PyTorch's, in turn, several rounds in one sitting.

    .venv/bin/python train_cpu.py --galley ../../target/release/galley --out ../DATE-MACHINE-cpu-training [NAME ...]

Both sides run SuperBench's step in f32 on the same number of threads, on random weights and one fixed batch: forward in training
mode, cross-entropy, backward, SGD or AdamW. PyTorch runs eagerly, channels last where there are images. In the folder,
`results.jsonl` has one figure a line, and `table.md` the median over the rounds of each round's ratio.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torchvision
from zoo_check import CLASSES, SEQUENCES, Sequence


def step_of(name, batch, size, tokens):
    """A function that trains for a step."""
    entropy = torch.nn.functional.cross_entropy
    if name in SEQUENCES:
        model = Sequence(name).train()
        _, inputs = model.inputs(batch, tokens)
        labels = torch.randint(0, CLASSES, (batch,))
    else:
        random = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        model = getattr(torchvision.models, name)(**random).train().to(memory_format=torch.channels_last)
        inputs = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
        labels = torch.randint(0, 1000, (batch,))
    if name in SEQUENCES and name != "lstm":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step():
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = entropy(outputs[:, -1] if name.startswith("gpt2") else outputs, labels)
        loss.backward()
        optimizer.step()

    return step


def peer(step, steps):
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def galley(args, name):
    with tempfile.TemporaryDirectory() as folder:
        command = [args.galley, "bench", "models", name, "--action", "train", "--precision", "float32"]
        command += ["--batch-size", str(args.batch), "--num-warmup", "1", "--num-steps", str(args.steps)]
        command += ["--image-size", str(args.size), "--seq-len", str(args.tokens), "--threads", str(args.threads)]
        subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        [summary] = (Path(folder) / "results-summary.jsonl").read_text().splitlines()
        return next(value for key, value in json.loads(summary).items() if key.endswith("fp32_train_step_time_50"))


def table(figures):
    lines = ["| network | galley, ms | PyTorch, ms | PyTorch / galley |", "| --- | ---: | ---: | --- |"]
    medians = []
    for name in dict.fromkeys(figure["model"] for figure in figures):
        of = [figure for figure in figures if figure["model"] == name]
        ratios = [figure["pytorch_ms"] / figure["galley_ms"] for figure in of]
        medians.append(statistics.median(ratios))
        ours, theirs = (statistics.median(figure[key] for figure in of) for key in ("galley_ms", "pytorch_ms"))
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {medians[-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    mean = math.exp(statistics.mean(map(math.log, medians)))
    return "\n".join([*lines, f"| geometric mean | | | **{mean:.2f}** |"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["resnet18", "mobilenet_v2", "bert-base"], metavar="NAME")
    parser.add_argument("--galley", required=True, help="the program, built with --release")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    figures = []
    with open(args.out / "results.jsonl", "w") as file:
        about = {name: version(name) for name in ("torch", "torchvision", "transformers")}
        said = subprocess.run([args.galley, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        about |= {"kind": "run", "galley": said, "python": platform.python_version()}
        about |= {name: getattr(args, name) for name in ("rounds", "threads", "steps", "batch", "size", "tokens")}
        print(json.dumps(about), file=file, flush=True)
        for name in args.names:
            step = step_of(name, args.batch, args.size, args.tokens)
            for number in range(args.rounds):
                figure = {"round": number, "model": name, "batch": args.batch}
                figure |= {"galley_ms": round(galley(args, name), 3), "pytorch_ms": round(peer(step, args.steps), 3)}
                figures.append(figure)
                print(json.dumps(figure), file=file, flush=True)
            print(f"{name} done", file=sys.stderr)
    text = table(figures)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
