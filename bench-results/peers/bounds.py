"""The least time that a card could take for each network of `zoo_cuda.py`, layer by layer, and the share of it that figures reach.

    python3 bounds.py [--flops 790e12] [--bytes 4.2e12] [--results FOLDER/results.jsonl ...]

A layer takes at least as long as its multiplications at the card's rate of dense f16 products, or as long as its input, weights and
output take from and to memory, each once. The rates are what plain products and copies were seen to reach on an H200, not the
maker's. Layers are convolutions, linear layers, pools, LSTMs and attention; all else could be part of them. Small layers cannot
reach it, as each begins when the one before has ended.
"""

import argparse
import json
import statistics
from collections import defaultdict

import torch
import torchvision

from zoo_check import NETWORKS, SEQUENCES, Sequence

BYTES = 2


def layer(module, inputs, output):
    """Multiply-adds of a layer and the values that it reads and writes."""
    x = inputs[0]
    y = output[0] if isinstance(output, tuple) else output
    weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    moved = x.numel() + y.numel() + weights
    if isinstance(module, torch.nn.Conv2d):
        return y.numel() * module.weight[0].numel(), moved
    if isinstance(module, torch.nn.LSTM):
        # Its weights stay on the chip; a step waits for the one before, which is not in this.
        return y.shape[0] * y.shape[1] * weights, moved
    if isinstance(module, (torch.nn.MaxPool2d, torch.nn.AvgPool2d)):
        return 0, moved
    return y.numel() // y.shape[-1] * weights, moved


def layers(name, batch, tokens):
    """The layers of a pass, without computing it."""
    found = []
    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.LSTM, torch.nn.MaxPool2d, torch.nn.AvgPool2d)
    with torch.device("meta"):
        random = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = (Sequence(name) if name in SEQUENCES else getattr(torchvision.models, name)(**random)).eval()
        for module in model.modules():
            if isinstance(module, kinds) or type(module).__name__ == "Conv1D":
                module.register_forward_hook(lambda *of: found.append(layer(*of)))
        with torch.inference_mode():
            if name in SEQUENCES:
                hidden, depth, heads = SEQUENCES[name]
                model(model.inputs(batch, tokens)[1].to("meta"))
                pairs = tokens * tokens // (2 if name.startswith("gpt2") else 1)
                found += [(2 * batch * hidden * pairs, 4 * batch * tokens * hidden)] * (depth if heads else 0)
            else:
                model(torch.empty(batch, 3, 224, 224))
    return found


def bound(name, batch, arguments):
    """Milliseconds."""
    of = layers(name, batch, arguments.tokens)
    return 1e3 * sum(max(2 * products / arguments.flops, BYTES * moved / arguments.bytes) for products, moved in of)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops", type=float, default=790e12)
    parser.add_argument("--bytes", type=float, default=4.2e12)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--results", nargs="*", default=[], help="records of zoo_cuda.py")
    arguments = parser.parse_args()
    figures = defaultdict(list)
    for path in arguments.results:
        for line in open(path):
            figure = json.loads(line)
            if "galley" in figure and "model" in figure:
                figures[figure["model"], figure["batch"]].append(figure["galley"])
    print("| network | 1: bound, ms | reached | 32: bound, ms | reached |\n| --- | ---: | ---: | ---: | ---: |")
    for name in [*NETWORKS, *SEQUENCES]:
        cells = []
        for batch in (1, 32):
            least, seen = bound(name, batch, arguments), figures[name, batch]
            cells += [f"{least:.3f}", f"{100 * least / statistics.median(seen):.0f} %" if seen else "-"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
