"""Holds galley's training steps against PyTorch's, on the same random weights and the same batch.

    python3 -m venv .venv && .venv/bin/pip install torch torchvision transformers safetensors
    cargo build --release
    .venv/bin/python bench-results/peers/train_check.py --galley target/release/galley resnet50 vgg16 ...

A network gets random weights as `zoo_check.py` makes them, and both train it for a few steps on one fixed batch, without dropout,
with SuperBench's optimizer but for the rate, which is too small there to be seen. Compared are each step's loss, and of each
parameter the norms of its last gradient and of its values. Both round differently, and what a network makes of that grows with
its depth and with each step: `--double` lets PyTorch compute in f64 besides, and says how far PyTorch's own f32 is from that.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from zoo_check import CLASSES, NETWORKS, SEQUENCES, Sequence, save

AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}


def build(name):
    """The network in training mode, without dropout."""
    if name in SEQUENCES:
        model = Sequence(name)
    else:
        import torchvision

        options = {"init_weights": False} if name in AUXILIARY else {}
        model = getattr(torchvision.models, name)(**options)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return model.train()


def loss_of(name, model, inputs, labels):
    outputs = model(inputs)
    entropy = torch.nn.functional.cross_entropy
    if name in AUXILIARY:
        return entropy(outputs[0], labels) + sum(AUXILIARY[name] * entropy(each, labels) for each in outputs[1:])
    if name.startswith("gpt2"):
        outputs = outputs[:, -1]
    return entropy(outputs, labels)


def optimizer_of(name, model, lr):
    if name in SEQUENCES and name != "lstm":
        return torch.optim.AdamW(model.parameters(), lr=lr)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True)


def train(name, model, inputs, labels, steps, lr):
    optimizer = optimizer_of(name, model, lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(name, model, inputs, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    norms = {
        key: (0.0 if value.grad is None else value.grad.double().norm().item(), value.detach().double().norm().item())
        for key, value in model.named_parameters()
    }
    return losses, norms


def galley(arguments, name, folder, lr):
    """What galley says."""
    file = str(folder / "inputs.safetensors")
    # In f16 the first steps may only find what gradients bear.
    steps = arguments.steps + (16 if arguments.precision == "float16" else 0)
    command = [arguments.galley, "bench", "models", name, "--action", "train", "--weights", str(folder)]
    command += ["--input", file, "--num-steps", str(steps), "--no-dropout", "--losses", "--lr", str(lr)]
    command += ["--device", arguments.device, "--precision", arguments.precision]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    losses = [line["loss"] for line in lines if "loss" in line]
    if arguments.precision == "float16":
        # A step whose gradients were more than f16 holds changed nothing, so that the next has the same loss.
        losses = [loss for loss, before in zip(losses, [None, *losses]) if loss != before][: arguments.steps]
    norms = {line["parameter"]: (line["gradient_norm"], line["value_norm"]) for line in lines if "parameter" in line}
    return losses, norms


def relative(got, expected):
    return abs(got - expected) / max(abs(expected), 1e-30)


def compare(got, expected):
    """How far losses, the whole gradient's norm, the parameters' gradients' and values' norms are off, relatively."""
    losses = max(relative(a, b) for a, b in zip(got[0], expected[0], strict=True))
    assert got[1].keys() == expected[1].keys(), got[1].keys() ^ expected[1].keys()
    # What is nothing but rounding, such as the gradient of a bias before BatchNorm, is no measure of anything.
    least = 1e-5 * max(gradient for gradient, _ in expected[1].values())
    gradients = {
        key: relative(got[1][key][0], gradient) for key, (gradient, _) in expected[1].items() if gradient > least
    }
    least = 1e-5 * max(value for _, value in expected[1].values())
    values = max(relative(got[1][key][1], value) for key, (_, value) in expected[1].items() if value > least)
    whole = relative(*(math.hypot(*(gradient for gradient, _ in norms.values())) for norms in (got[1], expected[1])))
    worst = max(gradients, key=gradients.get)
    return losses, whole, gradients[worst], values, worst


def check(arguments, name, seed):
    torch.manual_seed(seed)
    size = arguments.size or (299 if name == "inception_v3" else 224)
    model = build(name)
    if name in SEQUENCES:
        key, inputs = model.inputs(arguments.batch, size)
        key = "x" if name == "lstm" else key
    else:
        key, inputs = "pixels", torch.randn(arguments.batch, 3, size, size)
    classes = CLASSES if name in SEQUENCES else 1000
    labels = torch.randint(0, classes, (arguments.batch,))
    lr = arguments.lr or (1e-5 if name in SEQUENCES and name != "lstm" else 1e-3)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        folder = Path(folder)
        save(model, folder)
        save_file({key: inputs, "labels": labels}, folder / "inputs.safetensors")
        got = galley(arguments, name, folder, lr)
    rows = []
    model, inputs, labels = model.to(arguments.torch), inputs.to(arguments.torch), labels.to(arguments.torch)
    double = copy.deepcopy(model).double() if arguments.double else None
    expected = train(name, model, inputs, labels, arguments.steps, lr)
    rows.append(("", *compare(got, expected)))
    if double is not None:
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        exact = train(name, double, inputs, labels, arguments.steps, lr)
        rows.append(("galley from f64", *compare(got, exact)))
        rows.append(("PyTorch from f64", *compare(expected, exact)))
    return size, expected[0], rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="torchvision's and SuperBench's names [default: all]")
    parser.add_argument("--galley", default="target/release/galley", help="the program")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times [default: 1]")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, help="pixels or tokens [default: 224, and 299 for inception_v3]")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--lr", type=float, help="[default: 1e-3, and 1e-5 with AdamW]")
    parser.add_argument("--worst", type=float, default=1e-3, help="how far a parameter's gradient may be off")
    parser.add_argument("--device", default="cpu", help="galley's")
    parser.add_argument("--precision", default="float32", help="galley's; of float16 only losses are judged, within 1e-2")
    parser.add_argument("--torch", default="cpu", help="PyTorch's device")
    parser.add_argument("--double", action="store_true", help="hold both against PyTorch in f64 besides")
    parser.add_argument("--dir", help="where to put folders of weights")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print("| network | seed | pixels or tokens | loss, first and last | losses off | whole gradient off | "
          "the worst parameter's | it | values off | |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | --- |")
    failed = 0
    for name in arguments.networks or [*NETWORKS, *SEQUENCES]:
        for seed in arguments.seed or [1]:
            size, losses, rows = check(arguments, name, seed)
            for what, off, whole, gradients, values, worst in rows:
                limit = 1e-4 if arguments.precision == "float32" else 1e-2
                good = off <= limit and (arguments.precision != "float32" or whole <= 1e-3 and gradients <= arguments.worst and values <= 1e-3)
                failed += not good and not what
                verdict = what or ("" if good else "**off**")
                ends = f"{losses[0]:.4f} {losses[-1]:.4f}"
                numbers = f"{off:.1e} | {whole:.1e} | {gradients:.1e} | {worst} | {values:.1e}"
                if arguments.precision == "float16":
                    numbers = f"{off:.1e} | - | - | - | -"
                print(f"| {name} | {seed} | {size} | {ends} | {numbers} | {verdict} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
