"""Writes goldens.safetensors: torchvision's logits for random weights that are a function of name, shape and seed.

python3 -m venv .venv && .venv/bin/pip install torch torchvision safetensors && .venv/bin/python make.py
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file

SEED = 1000
GAMMA = 0x9E37_79B9_7F4A_7C15
BLOCK = 8
# Sizes at which windows reach over edges.
NETWORKS = {
    "alexnet": 95,
    "densenet121": 65,
    "googlenet": 71,
    "inception_v3": 97,
    "mnasnet0_5": 65,
    "mobilenet_v2": 65,
    "resnet18": 65,
    "resnext50_32x4d": 65,
    "shufflenet_v2_x1_0": 65,
    "squeezenet1_1": 97,
    "vgg11_bn": 64,
}


def uniform(name, count):
    """Numbers in [-1, 1): SplitMix64 of a hash of the name."""
    key = 0xCBF2_9CE4_8422_2325
    for byte in name.encode():
        key = (key ^ byte) * 0x100_0000_01B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(key ^ SEED) + np.arange(count, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)


def tensor(name, shape):
    """As `galley_core::synthetic::tensor`, of which only what convolutional networks need."""
    values = uniform(name, math.prod(shape))
    last, fan_in = name.rsplit(".")[-1], math.prod(shape[1:])
    if last in ("running_mean", "bias"):
        scale, offset = 0.1, None
    elif last == "running_var":
        scale, offset = 0.5, 1.0
    elif len(shape) == 1:
        scale, offset = 0.1, 1.0
    else:
        gain = conv_gain(name, shape) if len(shape) == 4 else 4.0 if name == "classifier.weight" else 1.0
        scale, offset = math.sqrt(3 * gain / fan_in), None
    values = values * np.float32(scale)
    return torch.from_numpy(values if offset is None else values + np.float32(offset)).reshape(shape)


def conv_gain(name, shape):
    reduces = shape[2] == 1 and shape[1] > shape[0]
    if ".fc1." in name or ".fc2." in name:
        return 1.0
    if reduces and (name.split(".") + [""] * 3)[2] == "0":
        return 5.0
    return 0.25 if reduces else 2.0


def image(name, size):
    grid = -(-size // BLOCK)
    cells = uniform(f"{name}.cells", 3 * grid * grid).reshape(3, grid, grid)
    cells = cells.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)[:, :size, :size]
    noise = uniform(f"{name}.noise", 3 * size * size).reshape(3, size, size)
    return torch.from_numpy(cells * np.float32(1.25) + noise * np.float32(0.5))[None]


def logits(name, size):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(**options).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim > 0:
                value.copy_(tensor(key, tuple(value.shape)))
        result = model(image(name, size))[0]
    print(f"{name:20} {size:3} mean {result.mean():8.3f} deviation {result.std():8.3f} class {result.argmax()}")
    return result.contiguous()


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("goldens.safetensors"))
    save_file({f"{name}.{size}": logits(name, size) for name, size in NETWORKS.items()}, out)
