"""Writes the folder of a small random encoder, and embeddings.json: what the sentence-transformers library makes of texts.

python3 -m venv .venv && .venv/bin/pip install sentence-transformers && .venv/bin/python make.py
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

FOLDER = Path(__file__).parent
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat ran on mat ##s ##ning river sea . , ?".split()
TEXTS = [
    "",
    "The cat sat on the mat.",
    "Dogs ran, a cat sat",
    "the river, the sea, the river, the sea",
    "unknown words ? the sea",
]
LONG = "the cat sat on a mat . " * 4


def write(folder, pooling, normalised):
    """A folder as the library saves it, less what neither side reads."""
    modules = ["Transformer", "Pooling"] + ["Normalize"] * normalised
    paths = ["", "1_Pooling", "2_Normalize"]
    save(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{name}"}
            for i, name in enumerate(modules)
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    save(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": 16,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )


def save(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def main():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.3,
        architectures=["BertModel"],
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    state = {name: value.clone() for name, value in model.state_dict().items() if "position_ids" not in name}
    save_file(state, FOLDER / "model.safetensors", metadata={"format": "pt"})
    save(FOLDER / "config.json", {**config.to_diff_dict(), "layer_norm_eps": config.layer_norm_eps})
    save(FOLDER / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    save(FOLDER / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    (FOLDER / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    golden = {"texts": TEXTS, "long": LONG}
    for pooling, normalised in [("mean", True), ("cls", False)]:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for file in FOLDER.iterdir():
                if file.suffix in (".json", ".txt", ".safetensors") and file.name != "embeddings.json":
                    (folder / file.name).write_bytes(file.read_bytes())
            write(folder, pooling, normalised)
            library = SentenceTransformer(str(folder), device="cpu")
            vectors = library.encode(TEXTS + [LONG])
            golden[pooling] = [[float(f"{x:.8g}") for x in vector] for vector in vectors]
    write(FOLDER, "mean", True)
    (FOLDER / "embeddings.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
