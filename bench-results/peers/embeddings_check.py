"""Holds galley's `text_embeddings` against the sentence-transformers library, on the same random weights and texts.

    python3 -m venv .venv && .venv/bin/pip install sentence-transformers
    cargo build --release
    .venv/bin/python bench-results/peers/embeddings_check.py --galley target/release/galley --seed 1 --seed 2

A BERT of random weights goes to a folder as the library saves one, with the mean over tokens or the first token, normalised or
not. Both make vectors of made-up texts, some longer than it reads, and the least cosine of two that should be one is printed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, models
from transformers import BertConfig, BertModel, BertTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def folder_of(folder, seed, sizes, pooling, normalised):
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), ".", ",", "?"]
    words += sorted({a + b for a in LETTERS for b in LETTERS})
    hidden, layers, heads = sizes
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        initializer_range=0.1,
    )
    plain = folder / "plain"
    plain.mkdir()
    BertModel(config, add_pooling_layer=False).save_pretrained(plain)
    (plain / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(str(plain / "vocab.txt")).save_pretrained(plain)
    encoder = models.Transformer(str(plain), max_seq_length=128)
    steps = [encoder, models.Pooling(hidden, pooling_mode=pooling)] + [models.Normalize()] * normalised
    SentenceTransformer(modules=steps, device="cpu").save(str(folder / "model"))
    return folder / "model"


def texts_of(seed, count):
    source = random.Random(seed)
    word = lambda: "".join(source.choices(LETTERS, k=source.randint(1, 5)))
    return ["", *(" ".join(word() for _ in range(source.choice([1, 5, 20, 60, 200]))) + "." for _ in range(count))]


def check(arguments, seed, pooling, normalised):
    texts = texts_of(seed, arguments.texts)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        model = folder_of(Path(folder), seed, arguments.sizes, pooling, normalised)
        expected = SentenceTransformer(str(model), device="cpu").encode(texts, convert_to_tensor=True)
        more = ["--option", "text_embeddings.truncate=true", "--device", arguments.device]
        more += ["--dtype", arguments.dtype] if arguments.dtype else []
        command = [arguments.galley, "predict", "text_embeddings", "--weights", str(model), *more, "-"]
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        ended = subprocess.run(command, input="".join(lines), capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
    got = torch.tensor([json.loads(line) for line in ended.stdout.splitlines()])
    assert got.shape == expected.shape, (got.shape, expected.shape)
    cosine = torch.nn.functional.cosine_similarity(got.double(), expected.double()).min().item()
    length = (got.norm(dim=1) / expected.norm(dim=1) - 1).abs().max().item()
    apart = torch.nn.functional.cosine_similarity(expected[1:].double(), expected[:-1].double()).min().item()
    return cosine, length, apart


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galley", default="target/release/galley", help="the program")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times [default: 1]")
    parser.add_argument("--texts", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs=3, default=[384, 6, 12], help="hidden size, layers, heads")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the cosine and of a vector's length")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="what galley computes in [default: its own]")
    parser.add_argument("--dir", help="where to put folders of weights")
    arguments = parser.parse_args()
    print("| pooling | normalised | seed | 1 - least cosine | lengths off | least cosine of neighbours | |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    failed = 0
    for pooling in ["mean", "cls"]:
        for normalised in [True, False]:
            for seed in arguments.seed or [1]:
                cosine, length, apart = check(arguments, seed, pooling, normalised)
                good = max(1 - cosine, length) <= arguments.tolerance
                failed += not good
                verdict = "" if good else "**off**"
                said = "yes" if normalised else "no"
                print(f"| {pooling} | {said} | {seed} | {1 - cosine:.1e} | {length:.1e} | {apart:.3f} | {verdict} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
