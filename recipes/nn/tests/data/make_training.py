"""Writes training.safetensors: what transformers and torch make of small networks in five steps of training, without dropout.

python3 -m venv .venv && .venv/bin/pip install torch transformers safetensors && .venv/bin/python make_training.py

Networks, weights and inputs are those of make.py, with a linear layer as SuperBench has it.
"""

import sys
from pathlib import Path

import torch
from make import filled, ids, uniform
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

BATCH, LENGTH, CLASSES, STEPS = 3, 20, 5, 5


class Network(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        nothing = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
        if kind == "bert":
            self.bert = BertModel(BertConfig(vocab_size=50, max_position_embeddings=80, **sizes, **nothing))
        elif kind == "gpt2":
            nothing = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
            self.gpt2 = GPT2Model(GPT2Config(vocab_size=50, n_positions=80, n_embd=24, n_layer=2, n_head=3, **nothing))
        else:
            self.lstm = torch.nn.LSTM(6, 20, 3, batch_first=True)
        self.kind = kind
        self.linear = torch.nn.Linear(20 if kind == "lstm" else 24, CLASSES)

    def forward(self, x):
        if self.kind == "bert":
            return self.linear(self.bert(x).pooler_output)
        if self.kind == "gpt2":
            return self.linear(self.gpt2(x).last_hidden_state)[:, -1]
        return self.linear(self.lstm(x)[0][:, -1])


def main():
    out = {}
    for kind in ("bert", "gpt2", "lstm"):
        model = filled(Network(kind)).train()
        if kind == "lstm":
            x = torch.from_numpy(uniform("x", BATCH * LENGTH * 6)).reshape(BATCH, LENGTH, 6)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        else:
            x = ids("ids", BATCH * LENGTH, 50).reshape(BATCH, LENGTH)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        labels = torch.arange(BATCH) * 2 % CLASSES
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        out[f"{kind}.losses"] = torch.tensor(losses, dtype=torch.float64)
        for name, parameter in model.named_parameters():
            norms = [parameter.grad.double().norm(), parameter.detach().double().norm()]
            out[f"{kind}.{name}"] = torch.stack(norms)
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("training.safetensors"))
    save_file(out, path)


if __name__ == "__main__":
    main()
