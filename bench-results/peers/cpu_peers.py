"""What ONNX Runtime and PyTorch do on this CPU, for the models and shapes that `galley bench native --no-prepare` times.

Weights are random, as speed does not depend on them. Prints one JSON object a figure, with the keys of galley's own.

    python3 -m venv .venv && .venv/bin/pip install torch torchvision transformers onnx onnxruntime
    .venv/bin/python cpu_peers.py --threads 2

With `--on-demand` the models stay loaded, and each line on standard input names a case to be timed, by its number; an empty
line follows its figures.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import onnxruntime
import torch
import torchvision
from transformers import BertConfig, BertForTokenClassification
from transformers import DistilBertConfig, DistilBertForSequenceClassification


def timed(call, seconds):
    """The median time of a call and how often it ran: twice unmeasured, then 3 to 200 times."""
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    times = []
    for _ in range(max(3, min(200, int(seconds / once)))):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[len(times) // 2], len(times)


class Case:
    """What peers do with one batch: a function for each."""

    def __init__(self, model, batch, shape, **calls):
        self.model = model
        self.batch = batch
        self.shape = shape
        self.calls = calls

    def time(self, seconds):
        for peer, call in self.calls.items():
            median, runs = timed(call, seconds)
            line = {
                "peer": peer,
                "model": self.model,
                "batch": self.batch,
                "shape": self.shape,
                "ms": round(median * 1e3, 4),
                "items_per_s": round(self.batch / median, 3),
                "runs": runs,
                "dtype": "f32",
            }
            print(json.dumps(line), flush=True)


class OnlyLogits(torch.nn.Module):
    """A classifier as ONNX has it: tensors in, a tensor out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def onnx_session(module, inputs, axes, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=list(axes),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )


def images(threads):
    model = torchvision.models.efficientnet_b2(weights=None).eval()
    session = onnx_session(
        model, (torch.randn(1, 3, 288, 288),), {"pixels": {0: "batch"}}, threads
    )
    model = model.to(memory_format=torch.channels_last)
    for batch in (1, 8):
        pixels = torch.randn(batch, 3, 288, 288)
        last = pixels.to(memory_format=torch.channels_last)
        feed = {"pixels": pixels.numpy()}
        yield Case(
            "efficientnet_b2_torchvision",
            batch,
            list(pixels.shape),
            torch=lambda last=last: model(last),
            onnxruntime=lambda feed=feed: session.run(None, feed),
        )


def texts(threads, name, model, batches):
    """`batches` are lists of lengths; the texts of a batch are padded to the longest, and masked."""
    ids, mask = torch.randint(1, 28000, (2, 64)), torch.ones(2, 64, dtype=torch.long)
    axis = {0: "batch", 1: "length"}
    axes = {"input_ids": axis, "attention_mask": axis}
    session = onnx_session(OnlyLogits(model.eval()), (ids, mask), axes, threads)
    for lengths in batches:
        longest = max(lengths)
        ids = torch.randint(1, 28000, (len(lengths), longest))
        mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
        both = {"input_ids": ids, "attention_mask": mask}
        feed = {key: value.numpy() for key, value in both.items()}
        yield Case(
            name,
            len(lengths),
            [len(lengths), longest] if len(set(lengths)) == 1 else lengths,
            torch=lambda both=both: model(**both),
            onnxruntime=lambda feed=feed: session.run(None, feed),
        )


def lstm():
    layer = torch.nn.LSTM(150, 100, bidirectional=True, batch_first=True).eval()
    for batch in (1, 32, 128):
        x = torch.randn(batch, 40, 150)
        yield Case("bilstm_150_100", batch, list(x.shape), torch=lambda x=x: layer(x))


def cases(threads, mixed):
    yield from images(threads)
    bert = BertForTokenClassification(BertConfig(vocab_size=28996, num_labels=9))
    batches = [[64], [64] * 8, [32] * 32, *([mixed] if mixed else [])]
    yield from texts(threads, "transformers_ner", bert, batches)
    distilbert = DistilBertForSequenceClassification(DistilBertConfig())
    yield from texts(threads, "distilbert_sst2", distilbert, [[128], [128] * 8])
    yield from lstm()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    parser.add_argument("--mixed", default="", help="lengths of the texts of one more BERT batch: 12,30,7")
    parser.add_argument("--on-demand", action="store_true", help="time the cases named on standard input")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    mixed = [int(length) for length in args.mixed.split(",")] if args.mixed else []
    with torch.inference_mode():
        all_cases = list(cases(args.threads, mixed))
        if not args.on_demand:
            for case in all_cases:
                case.time(args.seconds)
            return
        print(flush=True)
        for line in sys.stdin:
            all_cases[int(line)].time(args.seconds)
            print(flush=True)


if __name__ == "__main__":
    main()
