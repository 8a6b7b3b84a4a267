"""Times inference of torchvision's and SuperBench's networks on a CUDA device beside PyTorch's, in turn, several rounds in one sitting.

    python3 zoo_cuda.py --galley ../../target/release/galley --out ../DATE-MACHINE-inference [NAME ...]

Both run in f16 on random weights, on inputs that lie on the card: PyTorch (images channels last, `cudnn.benchmark`) eagerly, as a CUDA
graph, and with `--compile` by torch.compile; the ratio is to the best of these. Of sequences every token's answer is made, as SuperBench
does. In the folder, `results.jsonl` has one figure a line, and `table.md` the medians over the rounds.
"""

import json
import statistics
import subprocess
import sys

import torch
import torchvision

import sitting
from zoo_check import SEQUENCES, Sequence

WAYS = ("eager", "graph", "compiled")


def network(name):
    random = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cuda"):
        model = Sequence(name) if name in SEQUENCES else getattr(torchvision.models, name)(**random)
    model = model.eval().half()
    return model if name in SEQUENCES else model.to(memory_format=torch.channels_last)


def inputs(name, model, batch, tokens):
    if name in SEQUENCES:
        made = model.inputs(batch, tokens)[1].cuda()
        return made.half() if made.is_floating_point() else made
    return torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)


def graph(model, on):
    """A function that replays a pass."""
    stream, recorded = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(on)
        with torch.cuda.graph(recorded, stream=stream):
            model(on)
    torch.cuda.synchronize()
    return recorded.replay


def timed(run, least=0.1):
    """The median milliseconds of a pass, by the device's clock, of five repeats of `least` seconds together."""

    def repeat(count):
        start, end = torch.cuda.Event(True), torch.cuda.Event(True)
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    repeat(2)
    count = max(1, min(50, round(least * 200 / repeat(2))))
    return statistics.median(repeat(count) for _ in range(5))


def ways(arguments, name):
    """For each batch size, what runs a pass in each of PyTorch's ways."""
    model = network(name)
    made = {}
    for batch in arguments.batch:
        on = inputs(name, model, batch, arguments.tokens)
        made[batch] = {"eager": lambda on=on: model(on)}
        for way in ("graph", *(["compiled"] if arguments.compile else [])):
            try:
                if way == "graph":
                    run = graph(model, on)
                else:
                    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
                    run = lambda on=on, compiled=compiled: compiled(on)
                    run()
                made[batch][way] = run
            except Exception as error:
                print(f"{name} {batch} {way}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    return made


def galley(arguments, name):
    """Milliseconds of a pass on what lies on the card, for each batch size."""
    common = ["--device", "cuda:0"]
    if name not in SEQUENCES:
        command = [arguments.galley, "bench", "native", name, "--weights", "synthetic", *common, "--dtype", "f16", "--no-prepare"]
        command += ["--batch", ",".join(map(str, arguments.batch)), "--shape", "224", "--seconds", "0.1", "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {figure["batch"]: figure["resident_ms"] for figure in figures if figure.get("resident_ms")}
    made = {}
    for batch in arguments.batch:
        more = ["--action", "inference", "--precision", "float16", *common, "--batch-size", str(batch)]
        ended, records, _ = sitting.bench_models(arguments, name, *more, "--num-warmup", "2", "--num-steps", "5")
        ended.check_returncode()
        made |= {batch: record["resident_ms"] for record in records if record.get("resident_ms")}
    return made


def figures_of(arguments, name):
    """All rounds of a network, which PyTorch makes once."""
    with torch.inference_mode():
        made = ways(arguments, name)
    for count in range(arguments.rounds):
        try:
            ours = galley(arguments, name)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            ours = {}
        for batch, runs in made.items():
            with torch.inference_mode():
                theirs = {way: timed(run) for way, run in runs.items()}
            yield {"model": name, "round": count, "batch": batch} | theirs | ({"galley": ours[batch]} if batch in ours else {})


def best(figure):
    return min(figure[way] for way in WAYS if way in figure)


def table(figures, batches):
    head = [f"{batch}: {cell}" for batch in batches for cell in ("galley, ms", "PyTorch eager, graph, compiled", "best / galley")]
    lines = ["| network | " + " | ".join(head) + " |", "| --- |" + " ---: | --- | --- |" * len(batches)]
    all_of = {batch: [] for batch in batches}
    for name in dict.fromkeys(figure["model"] for figure in figures):
        cells = [name]
        for batch in batches:
            of = [figure for figure in figures if (figure["model"], figure["batch"]) == (name, batch) and "galley" in figure]
            if not of:
                cells += ["-"] * 3
                continue
            ratios = [best(figure) / figure["galley"] for figure in of]
            all_of[batch].append(statistics.median(ratios))
            theirs = (statistics.median(f[way] for f in of if way in f) if any(way in f for f in of) else None for way in WAYS)
            cells += [f"{statistics.median(figure['galley'] for figure in of):.3f}",
                      ", ".join("-" if value is None else f"{value:.3f}" for value in theirs),
                      sitting.ratio(ratios)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [sitting.mean(f"Batch {batch}", medians) for batch, medians in all_of.items() if medians]
    return "\n".join(lines) + "\n"


def main():
    parser = sitting.parser(__doc__)
    parser.add_argument("--batch", default="1,32", type=lambda text: [int(batch) for batch in text.split(",")])
    arguments = parser.parse_args()
    sitting.sit(arguments, figures_of, lambda figures: table(figures, arguments.batch))


if __name__ == "__main__":
    main()
