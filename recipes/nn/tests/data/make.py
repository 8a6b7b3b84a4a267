"""Writes sequences.safetensors: what transformers and torch say of small networks with random weights.

python3 -m venv .venv && .venv/bin/pip install torch transformers safetensors && .venv/bin/python make.py

Weights and inputs are a function of name, shape and seed, as `galley_core::synthetic` makes them.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

SEED = 3002
GAMMA = 0x9E37_79B9_7F4A_7C15
LENGTHS = (9, 70)


def raw24(name, count):
    """Numbers below 2^24: SplitMix64 of a hash of the name."""
    key = 0xCBF2_9CE4_8422_2325
    for byte in name.encode():
        key = (key ^ byte) * 0x100_0000_01B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(key ^ SEED) + np.arange(count, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        z ^= z >> np.uint64(31)
    return z >> np.uint64(40)


def uniform(name, count):
    return raw24(name, count).astype(np.float32) * np.float32(2**-23) - np.float32(1)


def tensor(name, shape):
    """As `galley_core::synthetic::tensor`, of which only what these networks need."""
    last, offset = name.rsplit(".")[-1], None
    if last.startswith("bias"):
        scale = 0.1
    elif len(shape) == 1:
        scale, offset = 0.1, 1.0
    elif "embeddings." in name:
        scale = (0.005 if "token_type" in name else 0.05) * math.sqrt(3)
    else:
        gain = 2.0 if ".query." in name or ".key." in name else 0.25 if "attention.output.dense." in name else 1.0
        scale = math.sqrt(3 * gain / math.prod(shape[1:]))
    values = uniform(name, math.prod(shape)) * np.float32(scale)
    return torch.from_numpy(values if offset is None else values + np.float32(offset)).reshape(shape)


def filled(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensor(name, tuple(parameter.shape)))
    return model.eval()


def ids(name, length, vocabulary):
    numbers = raw24(name, length) % np.uint64(vocabulary)
    return torch.from_numpy(numbers.astype(np.int64))[None]


def main():
    gpt2 = filled(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=80, n_embd=24, n_layer=2, n_head=3)))
    bert = filled(
        BertModel(
            BertConfig(
                vocab_size=50,
                max_position_embeddings=80,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=3,
                intermediate_size=40,
            )
        )
    )
    lstms = {
        "lstm": torch.nn.LSTM(6, 20, 3, batch_first=True),
        "bilstm": torch.nn.LSTM(6, 10, 2, batch_first=True, bidirectional=True),
    }
    out = {}
    with torch.no_grad():
        for length in LENGTHS:
            tokens = ids(f"ids.{length}", length, 50)
            features = gpt2.transformer(tokens).last_hidden_state[0]
            # Rows that are far apart, and the last, which has seen all.
            rows = torch.tensor(sorted({0, length // 2, length - 1}))
            out[f"gpt2.features.{length}"] = features[rows]
            out[f"gpt2.logits.{length}"] = gpt2(tokens).logits[0, -1]
            result = bert(tokens)
            out[f"bert.features.{length}"] = result.last_hidden_state[0, rows]
            out[f"bert.pooled.{length}"] = result.pooler_output[0]
        for name, lstm in lstms.items():
            filled(lstm)
            for length in LENGTHS:
                x = torch.from_numpy(uniform(f"x.{length}", length * 6)).reshape(1, length, 6)
                output, (h, c) = lstm(x)
                out[f"{name}.output.{length}"] = output[0, torch.tensor([0, length // 2, length - 1])]
                out[f"{name}.h.{length}"], out[f"{name}.c.{length}"] = h[:, 0], c[:, 0]
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("sequences.safetensors"))
    save_file({name: value.contiguous().clone() for name, value in out.items()}, path)


if __name__ == "__main__":
    main()
