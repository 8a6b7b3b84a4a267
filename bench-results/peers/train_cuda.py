"""Times training steps on a CUDA device beside PyTorch's, in turn, several rounds in one sitting.

    python3 train_cuda.py --galley ../../target/release/galley --out ../DATE-MACHINE-training [NAME ...]

Both sides run SuperBench's step on random inputs: the batch's copy to the device, forward in training mode, cross-entropy, backward,
SGD or AdamW. PyTorch runs eagerly as SuperBench does (everything in the precision, half of it included), then channels last with a
fused optimizer, and with `--compile` by torch.compile; the ratio is to the best of these. f32 is f32 on both sides, not TF32. Memory
is the most that each had allocated on the device at a time in a step, once algorithms are chosen, and that of its optimizer, weights
and gradients with it: of PyTorch by its allocator, of galley `device_allocated_bytes`. The driver's context and code are in neither.
In the folder, `results.jsonl` has one figure a line, and `table.md` the medians over the rounds.
"""

import statistics
import time

import torch
import torchvision

import sitting
from train_check import AUXILIARY, loss_of
from zoo_check import CLASSES, SEQUENCES, Sequence

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


def trained(name, arguments, dtype, way):
    """A step that has run, so that cuDNN's algorithms are chosen, and the most memory that another one takes of it."""
    before = torch.cuda.memory_allocated()
    step = step_of(name, arguments, dtype, way)
    times_of(step, 1)
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return step, torch.cuda.max_memory_allocated() - before


def galley(arguments, name, precision, device="cuda:0"):
    """The same of galley; none where it does not train the network so."""
    size = 299 if name == "inception_v3" else arguments.size
    more = ["--action", "train", "--precision", precision, "--device", device, "--batch-size", str(arguments.batch)]
    more += ["--num-warmup", "3", "--num-steps", str(arguments.steps), "--image-size", str(size)]
    ended, records, summaries = sitting.bench_models(arguments, name, *more)
    steps = next((record for record in records if record.get("kind") == "steps"), {})
    remarks = [record["remarks"] for record in records if "remarks" in record]
    key = f"{SHORT[precision]}_train_step_time_50"
    median = next((value for summary in summaries[:1] for named, value in summary.items() if named.endswith(key)), None)
    if ended.returncode != 0 or median is None:
        return {"galley_ms": None, "why": ended.stderr.strip()[-200:], "remarks": remarks}
    return {"galley_ms": median, "galley_bytes": steps.get("device_allocated_bytes"), "parts": steps.get("training"), "remarks": remarks}


def tried(figure, way, action, *given):
    """What becomes of `action(*given)`; none if it fails, of which the figure says why."""
    try:
        return action(*given)
    except Exception as error:
        figure[f"{way}_error"] = f"{type(error).__name__}: {error}"[:200]
    return None


def figures_of(arguments, name):
    """All rounds of a network, which PyTorch makes once in each precision and way."""
    for precision in arguments.precision.split(","):
        common = {"model": name, "precision": precision}
        made = {}
        for way in ("eager", "fused", *(["compile"] if arguments.compile else [])):
            made[way] = tried(common, way, trained, name, arguments, DTYPES[precision], way)
            torch.cuda.empty_cache()
        for count in range(arguments.rounds):
            figure = {"round": count} | common
            for way, (step, taken) in ((way, both) for way, both in made.items() if both):
                if times := tried(figure, way, times_of, step, arguments.steps):
                    figure |= {f"{way}_ms": statistics.median(times), f"{way}_bytes": taken}
                # Galley, or the next way, may need what PyTorch keeps.
                torch.cuda.empty_cache()
            yield figure | galley(arguments, name, precision)
        made = step = None
        sitting.free()


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
            ratio = sitting.ratio(ratios)
        ways = ", ".join(number(median(f"{way}_ms")) for way in ("eager", "fused", "compile"))
        memory = [each["galley_bytes"] / each["fused_bytes"] for each in of if each.get("galley_bytes") and each.get("fused_bytes")]
        lines.append(f"| {name} | {precision} | {number(median('galley_ms'))} | {ways} | {ratio} | "
                     f"{number(statistics.median(memory) if memory else None)} |")
    lines += [sitting.mean(precision, each) for precision, each in medians.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = sitting.parser(__doc__)
    parser.add_argument("--precision", default="float16,float32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sitting.sit(arguments, figures_of, table)


if __name__ == "__main__":
    main()
