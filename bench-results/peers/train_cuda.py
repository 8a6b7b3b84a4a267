"""Times training steps on a CUDA device beside PyTorch's, in turn, several rounds in one sitting.

    python3 train_cuda.py --galley ../../target/release/galley --out ../DATE-MACHINE-training [NAME ...]

Both sides run SuperBench's step on random inputs: the batch's copy to the device, forward in training mode, cross-entropy, backward,
SGD or AdamW. PyTorch runs eagerly as SuperBench does (everything in the precision, half of it included), then channels last with a
fused optimizer, and with `--compile` by torch.compile; the ratio is to the best of these. f32 is f32 on both sides, not TF32. In
the folder, `results.jsonl` has one figure a line, and `table.md` the medians over the rounds.
"""

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torchvision
from train_check import AUXILIARY, loss_of
from zoo_check import CLASSES, NETWORKS, SEQUENCES, Sequence

DTYPES = {"float32": torch.float32, "float16": torch.float16}
SHORT = {"float32": "fp32", "float16": "fp16"}


def step_of(name, arguments, dtype, way, wrap=lambda model: model):
    """A function that trains for a step in one of PyTorch's ways, with the model as it is wrapped."""
    last = torch.channels_last if way != "eager" else torch.contiguous_format
    if name in SEQUENCES:
        with torch.device("cuda"):
            model = Sequence(name).train()
        _, inputs = model.inputs(arguments.batch, arguments.tokens)
        classes = CLASSES
    else:
        random = {"init_weights": False} if name in AUXILIARY else {}
        with torch.device("cuda"):
            model = getattr(torchvision.models, name)(**random).train()
        size = 299 if name == "inception_v3" else arguments.size
        inputs = torch.randn(arguments.batch, 3, size, size).contiguous(memory_format=last)
        model = model.to(memory_format=last)
        classes = 1000
    model = model.to("cuda", dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    labels = torch.randint(0, classes, (arguments.batch,)).cuda()
    fused = {} if way == "eager" else {"fused": True}
    if name in SEQUENCES and name != "lstm":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **fused)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4, nesterov=True, **fused)
    run = wrap(torch.compile(model) if way == "compile" else model)

    def step():
        on_device = inputs.cuda()
        optimizer.zero_grad()
        loss_of(name, run, on_device, labels).backward()
        optimizer.step()

    return step


def times_of(step, steps):
    """The milliseconds of each step, after some that do not count."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def peer(step, steps):
    """The median milliseconds of a step, and the most memory that tensors took."""
    return statistics.median(times_of(step, steps)), torch.cuda.max_memory_allocated()


def galley(arguments, name, precision, device="cuda:0"):
    """The same of galley; none where it does not train the network so."""
    with tempfile.TemporaryDirectory() as folder:
        size = 299 if name == "inception_v3" else arguments.size
        command = [arguments.galley, "bench", "models", name, "--action", "train", "--precision", precision]
        command += ["--device", device, "--batch-size", str(arguments.batch), "--num-warmup", "3"]
        command += ["--num-steps", str(arguments.steps), "--image-size", str(size), "--seq-len", str(arguments.tokens)]
        ended = subprocess.run([*command, "--out", folder], capture_output=True, text=True)
        records = [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]
        summary = json.loads((Path(folder) / "results-summary.jsonl").read_text().splitlines()[0])
        steps = next((record for record in records if record.get("kind") == "steps" or "step_ms" in record), None)
        remarks = [record["remarks"] for record in records if "remarks" in record]
        key = f"{SHORT[precision]}_train_step_time_50"
        median = next((value for named, value in summary.items() if named.endswith(key)), None)
        if ended.returncode != 0 or median is None:
            return {"galley_ms": None, "why": ended.stderr.strip()[-200:], "remarks": remarks}
        return {"galley_ms": median, "galley_bytes": steps.get("device_peak_bytes"), "parts": steps.get("training"),
                "remarks": remarks}


def round_of(arguments, name, precision):
    figure = {"model": name, "precision": precision}
    for way in ("eager", "fused", *(["compile"] if arguments.compile else [])):
        try:
            torch.cuda.reset_peak_memory_stats()
            figure[f"{way}_ms"], figure[f"{way}_bytes"] = peer(step_of(name, arguments, DTYPES[precision], way), arguments.steps)
        except Exception as error:
            figure[f"{way}_error"] = f"{type(error).__name__}: {error}"[:200]
        torch.cuda.empty_cache()
    return figure | galley(arguments, name, precision)


def best(figure):
    return min((figure[key] for key in ("eager_ms", "fused_ms", "compile_ms") if key in figure), default=None)


def number(value):
    return "-" if value is None else f"{value:.2f}"


def table(figures):
    lines = ["| network | precision | galley, ms | PyTorch: eager, fused, compiled, ms | best / galley | memory / its |",
             "| --- | --- | ---: | --- | --- | ---: |"]
    medians = {}
    for name, precision in dict.fromkeys((figure["model"], figure["precision"]) for figure in figures):
        of = [figure for figure in figures if (figure["model"], figure["precision"]) == (name, precision)]
        ratios = [best(each) / each["galley_ms"] for each in of if each.get("galley_ms") and best(each)]

        def median(key):
            return statistics.median(values) if (values := [each[key] for each in of if each.get(key)]) else None

        ratio = "-"
        if ratios:
            medians.setdefault(precision, []).append(statistics.median(ratios))
            ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
        ways = ", ".join(number(median(f"{way}_ms")) for way in ("eager", "fused", "compile"))
        memory = [each["galley_bytes"] / each["fused_bytes"] for each in of if each.get("galley_bytes") and each.get("fused_bytes")]
        lines.append(f"| {name} | {precision} | {number(median('galley_ms'))} | {ways} | {ratio} | "
                     f"{number(statistics.median(memory) if memory else None)} |")
    for precision, each in medians.items():
        mean = math.exp(sum(math.log(value) for value in each) / len(each))
        lines.append(f"\n{precision}: geometric mean of {len(each)} medians {mean:.2f}, the least {min(each):.2f}.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--galley", default="target/release/galley", help="the program")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", default="float16,float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = []
    with open(arguments.out / "results.jsonl", "w") as out:
        said = subprocess.run([arguments.galley, "--version"], check=True, capture_output=True, text=True).stdout.strip()
        about = {"galley": said, "torch": torch.__version__, "torchvision": torchvision.__version__, "transformers": version("transformers"),
                 "device": torch.cuda.get_device_name(),
                 "arguments": {key: str(value) for key, value in vars(arguments).items() if key not in ("galley", "out")}}
        print(json.dumps(about), file=out)
        for count in range(arguments.rounds):
            for name in arguments.networks or [*NETWORKS, *SEQUENCES]:
                for precision in arguments.precision.split(","):
                    figure = {"round": count} | round_of(arguments, name, precision)
                    figures.append(figure)
                    print(json.dumps(figure), file=out, flush=True)
    text = table(figures)
    (arguments.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
