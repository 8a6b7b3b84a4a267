"""Holds galley's networks against torchvision's, transformers' and torch's, on the same random weights and inputs.

    python3 -m venv .venv && .venv/bin/pip install torch torchvision transformers safetensors
    cargo build --release
    .venv/bin/python bench-results/peers/zoo_check.py --galley target/release/galley resnet50 vgg16 ...

A network gets random weights, BatchNorm's statistics from a pass in training mode (so that its numbers stay tame), and scales
and shifts that are not all alike. Its state dict goes to a folder, galley says its logits for it, and they are compared: how
far the worst one is off, in deviations of the logits. Networks of sequences are SuperBench's, with a linear layer on them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

NETWORKS = """
    alexnet densenet121 densenet161 densenet169 densenet201 googlenet inception_v3
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1
    vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
""".split()

# Hidden size, layers, attention heads.
SEQUENCES = {
    "bert-base": (768, 12, 12),
    "bert-large": (1024, 24, 16),
    "gpt2-small": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
    "lstm": (1024, 8, 0),
}
CLASSES = 100


class Sequence(torch.nn.Module):
    """A network with a linear layer, under the names of SuperBench's state dicts."""

    def __init__(self, name):
        super().__init__()
        hidden, layers, heads = SEQUENCES[name]
        self.kind = name.split("-")[0]
        if self.kind == "bert":
            from transformers import BertConfig, BertModel

            sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
            self._bert = BertModel(BertConfig(**sizes, intermediate_size=4 * hidden))
        elif self.kind == "gpt2":
            from transformers import GPT2Config, GPT2Model

            self._gpt2 = GPT2Model(GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads))
        else:
            self._lstm = torch.nn.LSTM(256, hidden, layers, batch_first=True)
        self._linear = torch.nn.Linear(hidden, CLASSES)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)
            if self.kind == "lstm":
                # As they are initialised, nothing of the input would be left after so many layers.
                for parameter in self._lstm.parameters():
                    parameter.mul_(3)

    def forward(self, x):
        if self.kind == "bert":
            return self._linear(self._bert(x).pooler_output)
        if self.kind == "gpt2":
            return self._linear(self._gpt2(x).last_hidden_state)
        return self._linear(self._lstm(x)[0][:, -1])

    def inputs(self, count, length):
        if self.kind == "lstm":
            return "input", torch.randn(count, length, 256)
        return "input_ids", torch.randint(0, 30_000, (count, length))


def build(name, size):
    """The network in evaluation mode, with statistics of its own."""
    if name in SEQUENCES:
        return Sequence(name).eval()
    import torchvision

    # Their own initialisation takes minutes, and their auxiliary classifiers want large images.
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(**options)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
            norm.momentum = None
        if norms:
            model.train()
            model(torch.randn(4, 3, size, size))
    return model.eval()


def save(model, folder):
    # As they lie in memory: what is only a view of other numbers would be written wrongly.
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def predict(galley, name, folder, file, more):
    command = [galley, "predict", name, "--weights", str(folder), "--raw", str(file), *more]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
    return torch.tensor([json.loads(line)["logits"] for line in ended.stdout.splitlines()])


def check(arguments, name, seed):
    torch.manual_seed(seed)
    size = arguments.size or (299 if name == "inception_v3" else 224)
    model = build(name, size)
    if name in SEQUENCES:
        key, inputs = model.inputs(arguments.images, size)
    else:
        key, inputs = "pixels", torch.randn(arguments.images, 3, size, size)
    with torch.inference_mode():
        model, on = model.to(arguments.torch), inputs.to(arguments.torch)
        expected = model(on).cpu()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        folder = Path(folder)
        save(model, folder)
        save_file({key: inputs}, folder / "inputs.safetensors")
        more = ["--device", arguments.device, *(["--dtype", arguments.dtype] if arguments.dtype else [])]
        got = predict(arguments.galley, name, folder, folder / "inputs.safetensors", more)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    peer = None
    if arguments.dtype == "f16" and arguments.torch != "cpu":
        with torch.inference_mode():
            model = model.half()
            peer = against(model(on.half() if on.is_floating_point() else on).float().cpu(), expected)
    expected = expected.flatten(1)
    apart = (expected[0] - expected[-1]).abs().max().item() / expected.std(dim=1).max().item()
    return size, against(got, expected), peer, apart


def against(got, expected):
    """How far the worst logit is off, in deviations of its item's, and of how many items the likeliest class is the same."""
    # All logits of an item, which are those of each token where there are such.
    got, expected = got.flatten(1), expected.flatten(1)
    deviation = expected.std(dim=1, keepdim=True)
    off = ((got - expected).abs() / deviation).max().item()
    return off, (got.argmax(1) == expected.argmax(1)).sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="torchvision's and SuperBench's names [default: all]")
    parser.add_argument("--galley", default="target/release/galley", help="the program")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times [default: 1]")
    parser.add_argument("--images", type=int, default=2, help="or sequences")
    parser.add_argument("--size", type=int, help="pixels or tokens [default: 224, and 299 for inception_v3]")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="in deviations of an item's logits")
    parser.add_argument("--device", default="cpu", help="where galley computes")
    parser.add_argument("--torch", default="cpu", metavar="DEVICE", help="where PyTorch does")
    parser.add_argument("--dtype", help="what galley computes in [default: its own]")
    parser.add_argument("--dir", help="where to put folders of weights, up to 600 MB each, 6.3 GB for gpt2-xl")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print("| network | seed | pixels or tokens | off, in deviations | same class | items apart | PyTorch's f16 | same class | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    failed = 0
    for name in arguments.networks or [*NETWORKS, *SEQUENCES]:
        for seed in arguments.seed or [1]:
            size, (off, same), peer, apart = check(arguments, name, seed)
            good = off <= arguments.tolerance
            failed += not good
            verdict = "" if good else "**off**"
            of = f"of {arguments.images}"
            theirs = f"{peer[0]:.1e} | {peer[1]} {of}" if peer else "- | -"
            print(f"| {name} | {seed} | {size} | {off:.1e} | {same} {of} | {apart:.2f} | {theirs} | {verdict} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
