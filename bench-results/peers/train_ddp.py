"""Times training steps on several CUDA devices of one host beside PyTorch's DistributedDataParallel, in turn, several rounds.

    python3 train_ddp.py --galley ../../target/release/galley --devices 2 --out ../DATE-MACHINE-training-devices [NAME ...]

Both sides run the step of train_cuda.py, its batch on each device, and average gradients by NCCL. PyTorch runs a process a device, as
SuperBench does (eager) and then channels last with a fused optimizer, gradients that are views of buckets and statistics that are not
broadcast; galley one process. A step takes as long as on the slowest device. One device, without any of this, is what the others are
held against: scaling is samples a second over those of one device. In the folder, `results.jsonl` has one figure a line, and
`table.md` the medians over the rounds. NCCL is PyTorch's for both.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from train_cuda import DTYPES, best, galley, number, step_of, times_of

WAYS = {"eager": {}, "fused": {"broadcast_buffers": False, "gradient_as_bucket_view": True}}


def work(rank, arguments, name, precision, way, count, store, out):
    """A process's part; the first says what a step took on the slowest device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(rank)
    torch.cuda.set_device(rank)
    wrap = {}
    if count > 1:
        dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=count)
        wrap["wrap"] = lambda model: DistributedDataParallel(model, device_ids=[rank], **WAYS[way])
    times = torch.tensor(times_of(step_of(name, arguments, DTYPES[precision], way, **wrap), arguments.steps)).cuda()
    if count > 1:
        dist.all_reduce(times, op=dist.ReduceOp.MAX)
        dist.destroy_process_group()
    if rank == 0:
        said = {f"{way}_ms": statistics.median(times.tolist()), "device": torch.cuda.get_device_name()}
        Path(out).write_text(json.dumps(said))


def peer(arguments, name, precision, way, count):
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "store", Path(folder) / "out.json"
        try:
            given = (arguments, name, precision, way, count, str(store), str(out))
            torch.multiprocessing.spawn(work, given, nprocs=count)
            return json.loads(out.read_text())
        except Exception as error:
            return {f"{way}_error": f"{type(error).__name__}: {error}"[-300:]}


def round_of(arguments, name, precision, count):
    devices = ",".join(f"cuda:{ordinal}" for ordinal in range(count))
    figure = {"model": name, "precision": precision, "devices": count} | galley(arguments, name, precision, devices)
    for way in WAYS:
        figure |= peer(arguments, name, precision, way, count)
    return figure


def table(figures):
    lines = ["| network | precision | devices | galley, ms | DDP: eager, fused, ms | DDP / galley | scaling: galley, DDP |",
             "| --- | --- | ---: | ---: | --- | --- | --- |"]

    def median(name, precision, count, of):
        same = [each for each in figures if (each["model"], each["precision"], each["devices"]) == (name, precision, count)]
        values = [value for each in same if (value := of(each)) is not None]
        return statistics.median(values) if values else None

    def scaling(name, precision, count, of):
        one, all_of_them = median(name, precision, 1, of), median(name, precision, count, of)
        return "-" if one is None or all_of_them is None else f"{count * one / all_of_them:.2f}"

    def ours(each):
        return each.get("galley_ms")

    def ratio(each):
        return None if best(each) is None or ours(each) is None else best(each) / ours(each)

    for name, precision, count in dict.fromkeys((each["model"], each["precision"], each["devices"]) for each in figures):
        key = (name, precision, count)
        ways = ", ".join(number(median(*key, lambda each, way=way: each.get(f"{way}_ms"))) for way in WAYS)
        scale = "1, 1" if count == 1 else f"{scaling(*key, ours)}, {scaling(*key, best)}"
        lines.append(f"| {name} | {precision} | {count} | {number(median(*key, ours))} | {ways} | "
                     f"**{number(median(*key, ratio))}** | {scale} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet50", "bert-large"])
    parser.add_argument("--galley", default="target/release/galley", help="the program")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--devices", default="2", help="how many at once, with commas: 2,4")
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32, help="of each device")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--tokens", type=int, default=512)
    arguments = parser.parse_args()
    # Where PyPI's package has NCCL, for galley, which looks for it as for any library.
    if importlib.util.find_spec("nvidia") and (found := importlib.util.find_spec("nvidia.nccl")):
        folders = [f"{folder}/lib" for folder in found.submodule_search_locations]
        os.environ["LD_LIBRARY_PATH"] = ":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    arguments.out.mkdir(parents=True, exist_ok=True)
    counts = [1, *(int(count) for count in arguments.devices.split(","))]
    figures = []
    with open(arguments.out / "results.jsonl", "w") as out:
        about = {"torch": torch.__version__, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                 "arguments": {key: str(value) for key, value in vars(arguments).items() if key not in ("galley", "out")}}
        print(json.dumps(about), file=out)
        for turn in range(arguments.rounds):
            for name in arguments.networks:
                for precision in arguments.precision.split(","):
                    for count in counts:
                        figure = {"round": turn} | round_of(arguments, name, precision, count)
                        figures.append(figure)
                        print(json.dumps(figure), file=out, flush=True)
    text = table(figures)
    (arguments.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
