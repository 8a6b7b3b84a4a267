"""jpeg_cuda.py [--side 260] [--resize 292] [FILE ...]: EfficientNet-B2 from JPEG bytes to logits on one card with PyTorch.

nvJPEG by torchvision decodes each batch, it is resized with antialiasing on the card, and the network in f16 runs as a CUDA graph. Prints
a JSON line for each part and batch size: images a second, median of five. Without files, 256 of 500 by 375 are made up. Files of any
size are resized one by one, files of one size together.
"""
import argparse
import io
import json
import statistics
import time

import torch
import torchvision
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

BATCHES = (1, 8, 32, 128, 256)


def made_up(count):
    """Photograph-like noise: smooth at several scales, so that files have some 60 kB."""
    from PIL import Image

    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        layers = [torch.rand(1, 3, 375 // scale + 1, 500 // scale + 1, generator=generator) for scale in (3, 12, 60)]
        layers = [torch.nn.functional.interpolate(layer, (375, 500), mode="bicubic") for layer in layers]
        pixels = (sum(layers)[0] / 3).clamp(0, 1).mul(255).byte().permute(1, 2, 0).contiguous()
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=90)
        yield file.getvalue()


def seconds(run):
    """Of one run, in the median of five times a third of a second."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < 1 / 3:
            run()
            torch.cuda.synchronize()
            runs += 1
        times.append((time.perf_counter() - start) / runs)
    return statistics.median(times)


class Pipeline:
    """From a batch of files to logits."""

    def __init__(self, network, batch, side, resize):
        self.side, self.resize = side, resize
        shape = (batch, 3, side, side)
        self.pixels = torch.zeros(shape, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)
        mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.mean, self.deviation = (torch.tensor(x, device="cuda").mul(255).view(3, 1, 1) for x in (mean, deviation))
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(self.pixels)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = network(self.pixels)

    def decode(self, files):
        return decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda")

    def view(self, images):
        images = functional.resize(images, self.resize, interpolation=functional.InterpolationMode.BICUBIC, antialias=True)
        return functional.center_crop(images, self.side)

    def __call__(self, files):
        images = self.decode(files)
        if len({image.shape for image in images}) == 1:
            views = self.view(torch.stack(images))
        else:
            views = torch.stack([self.view(image) for image in images])
        self.pixels.copy_((views - self.mean) / self.deviation)
        self.graph.replay()
        return self.logits.cpu()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--side", type=int, default=260)
    arguments.add_argument("--resize", type=int, default=292)
    arguments.add_argument("files", nargs="*")
    arguments = arguments.parse_args()
    read = [open(path, "rb").read() for path in arguments.files] or list(made_up(max(BATCHES)))
    files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in read]
    print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "card": torch.cuda.get_device_name(),
                      "files": len(files), "mean_bytes": sum(map(len, read)) // len(read)}))
    network = torchvision.models.efficientnet_b2().eval().cuda().half().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for batch in BATCHES:
            some = [files[i % len(files)] for i in range(batch)]
            pipeline = Pipeline(network, batch, arguments.side, arguments.resize)
            parts = {"decode": lambda: pipeline.decode(some), "network": pipeline.graph.replay, "all": lambda: pipeline(some)}
            for part, run in parts.items():
                took = seconds(run)
                print(json.dumps({"part": part, "batch": batch, "ms": round(took * 1e3, 3),
                                  "images_per_s": round(batch / took, 1)}), flush=True)


if __name__ == "__main__":
    main()
