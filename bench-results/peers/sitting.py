"""What `zoo_cuda.py` and `train_cuda.py` have in common: arguments, the records of a sitting, and what a run of galley wrote.

A sitting goes from network to network and takes all rounds of one before it begins the next: choosing cuDNN's algorithms takes PyTorch
longer than all rounds, so each network is built once, and freed before the next. Whenever it is cut off, `results.jsonl` has every
figure so far, and `table.md` the networks that were done.
"""

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torchvision

from zoo_check import NETWORKS, SEQUENCES


def parser(doc):
    """The arguments of both."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("networks", nargs="*")
    made.add_argument("--galley", default="target/release/galley", help="the program")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--tokens", type=int, default=512)
    made.add_argument("--compile", action="store_true")
    made.add_argument("--seconds", type=float, metavar="LIMIT", help="begin no further network after so long")
    return made


def about(arguments):
    said = subprocess.run([arguments.galley, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    return {"galley": said, "torch": torch.__version__, "torchvision": torchvision.__version__, "transformers": version("transformers"),
            "device": torch.cuda.get_device_name(),
            "arguments": {key: str(value) for key, value in vars(arguments).items() if key not in ("galley", "out")}}


def sit(arguments, figures_of, table):
    """Writes what `figures_of(arguments, name)` yields for each network, and after each the `table` of all figures so far."""
    started = time.monotonic()
    torch.backends.cudnn.benchmark = True
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = []
    with open(arguments.out / "results.jsonl", "w") as out:
        print(json.dumps(about(arguments)), file=out, flush=True)
        for name in arguments.networks or [*NETWORKS, *SEQUENCES]:
            if arguments.seconds is not None and time.monotonic() - started >= arguments.seconds:
                print(f"{arguments.seconds:g} s are over: {name} and what follows is left out", file=sys.stderr)
                break
            for figure in figures_of(arguments, name):
                figures.append(figure)
                print(json.dumps(figure), file=out, flush=True)
            (arguments.out / "table.md").write_text(table(figures))
            print(f"{name} done", file=sys.stderr, flush=True)
            free()
    print(table(figures))


def free():
    """Gives back what nobody refers to any more, compiled code included, of which PyTorch keeps only so much."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def bench_models(arguments, name, *more):
    """Runs `galley bench models`; gives how it ended, its records and its summaries."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.galley, "bench", "models", name, "--seq-len", str(arguments.tokens), *more, "--out", folder]
        ended = subprocess.run(command, capture_output=True, text=True)

        def lines(file):
            path = Path(folder) / file
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

        return ended, lines("results.jsonl"), lines("results-summary.jsonl")


def ratio(ratios):
    """The median of rounds' ratios, and where they lie, for a table."""
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def mean(what, medians):
    """A line for below a table."""
    value = math.exp(statistics.mean(map(math.log, medians)))
    return f"\n{what}: geometric mean of {len(medians)} medians {value:.2f}, the least {min(medians):.2f}."
