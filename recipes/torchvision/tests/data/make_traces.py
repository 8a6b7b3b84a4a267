"""Writes traces.safetensors: what PyTorch makes of three training steps of torchvision's networks on one small batch.

.venv/bin/python make_traces.py    # as make.py, whose random weights and images these are

Of each network, by `NAME.SIZE`: the rate, the losses before each step, and in the order of the parameters' names the Euclidean norms of their
gradients in the first step and of their values after the last one. Dropout is off; auxiliary classifiers count as in galley.
"""

import sys
from pathlib import Path

import torch
import torchvision
from make import image, tensor
from safetensors.torch import save_file

BATCH, STEPS, CLASSES = 6, 3, 1000
# What a long step makes of rounding says nothing of what rounded, and these two have the longest gradients.
RATE, RATES = 3e-5, {"inception_v3": 3e-6, "resnext50_32x4d": 3e-6}
# Sizes at which windows reach over edges, and at which what is trained besides still fits.
NETWORKS = {
    "alexnet": 95,
    "densenet121": 65,
    "googlenet": 71,
    "inception_v3": 299,
    "mnasnet0_5": 65,
    "mobilenet_v2": 65,
    "resnet18": 65,
    "resnext50_32x4d": 97,
    "shufflenet_v2_x1_0": 65,
    "squeezenet1_1": 97,
    "vgg11_bn": 64,
}
AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}


def loss_of(name, outputs, labels):
    entropy = torch.nn.functional.cross_entropy
    if name not in AUXILIARY:
        return entropy(outputs, labels)
    return entropy(outputs[0], labels) + sum(AUXILIARY[name] * entropy(each, labels) for each in outputs[1:])


def trace(name, size):
    options = {"init_weights": False} if name in AUXILIARY else {}
    model = getattr(torchvision.models, name)(**options).train().double()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim > 0:
                value.copy_(tensor(key, tuple(value.shape)))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch, rate = 4 if size > 200 else BATCH, RATES.get(name, RATE)
    images = torch.cat([image(f"{name}.{i}", size) for i in range(batch)]).double()
    labels = torch.tensor([(i * 37 + 5) % CLASSES for i in range(batch)])
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
    parameters = dict(sorted(model.named_parameters()))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(name, model(images), labels)
        loss.backward()
        if not losses:
            gradients = torch.stack([value.grad.norm() for value in parameters.values()])
        losses.append(loss.detach())
        optimizer.step()
    values = torch.stack([value.detach().norm() for value in parameters.values()])
    print(f"{name:20} {size:3} {' '.join(f'{loss:.5f}' for loss in losses)}, gradient {gradients.norm():.5f}")
    return {"rate": torch.tensor([rate], dtype=torch.float64), "losses": torch.stack(losses), "gradients": gradients.float(), "values": values.float()}


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("traces.safetensors"))
    traces = {name: trace(name, size) for name, size in NETWORKS.items()}
    save_file({f"{name}.{NETWORKS[name]}.{kind}": value.contiguous() for name, all in traces.items() for kind, value in all.items()}, out)
