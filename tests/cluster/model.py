"""Writes a tiny Qwen3 model: real files that a real engine loads in no time, and nothing to download.

The weights are random, from a fixed seed. What comes out is nonsense, but valid text: only the rows of
printable ASCII in the output matrix are set, so the other tokens, the end of text among them, lose.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache import ensure
from log import Log

NAME = "tiny-qwen3"

RECIPE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
"""What decides the model: this module, as it was when it was loaded."""

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 128, 256, 2, 4, 2, 32
CONTEXT = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 256 + len(SPECIAL)
PAD, END = 256, 258

CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def install_model(state: Path, cache: Path, log: Log) -> Path:
    """Have the model in `<state>/models/tiny-qwen3`, readable by every user, and return that path."""
    made = cache / "models" / NAME
    target = state / "models" / NAME
    with log.step(f"model {NAME}") as step:
        if ensure(made, RECIPE, ("config.json", "model.safetensors", "tokenizer.json"), write_model):
            step.cached(str(target))
        target.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            if not file.name.startswith("."):
                shutil.copyfile(file, target / file.name)
                (target / file.name).chmod(0o644)
        # hostPath mounts it into pods of any user.
        for directory in (target, target.parent):
            directory.chmod(0o755)
    return target


def write_model(directory: Path) -> None:
    """Write the files of a Hugging Face model into `directory`."""
    (directory / "model.safetensors").write_bytes(_safetensors())
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    for name, content in {
        "config.json": _config(),
        "generation_config.json": {"eos_token_id": END, "pad_token_id": PAD},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL[END - 256],
            "pad_token": SPECIAL[PAD - 256],
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    }.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": "bfloat16",
        "eos_token_id": END,
        "pad_token_id": PAD,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "initializer_range": 0.02,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def _safetensors() -> bytes:
    """All weights in the safetensors format: length of the header, header, the tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape, content in _tensors(random.Random(0)):
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(content)],
        }
        body += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _tensors(source: random.Random) -> Iterator[tuple[str, list[int], bytes]]:
    """Name, shape and content of every tensor of the model."""
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN], _normal(source, VOCABULARY * HIDDEN, 1.0)
    query, key = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    matrices = {
        "self_attn.q_proj": (query, HIDDEN),
        "self_attn.k_proj": (key, HIDDEN),
        "self_attn.v_proj": (key, HIDDEN),
        "self_attn.o_proj": (HIDDEN, query),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    norms = {
        "input_layernorm": HIDDEN,
        "post_attention_layernorm": HIDDEN,
        "self_attn.q_norm": HEAD_DIM,
        "self_attn.k_norm": HEAD_DIM,
    }
    for layer in range(LAYERS):
        for name, (rows, columns) in matrices.items():
            weights = _normal(source, rows * columns, columns**-0.5)
            yield f"model.layers.{layer}.{name}.weight", [rows, columns], weights
        for name, size in norms.items():
            yield f"model.layers.{layer}.{name}.weight", [size], _bfloat16([1.0] * size)
    yield "model.norm.weight", [HIDDEN], _bfloat16([1.0] * HIDDEN)
    yield "lm_head.weight", [VOCABULARY, HIDDEN], b"".join(_output_rows(source))


def _output_rows(source: random.Random) -> Iterator[bytes]:
    """The output matrix: a row of zeros for each token that must not come out."""
    printable = {token for token, byte in enumerate(_bytes_in_order()) if 32 <= byte < 127}
    for token in range(VOCABULARY):
        yield _normal(source, HIDDEN, 1.0) if token in printable else bytes(2 * HIDDEN)


def _normal(source: random.Random, count: int, deviation: float) -> bytes:
    return _bfloat16([source.gauss(0.0, deviation) for _ in range(count)])


def _bfloat16(values: list[float]) -> bytes:
    """Numbers as bfloat16: the upper halves of their 32-bit forms."""
    wide = struct.pack(f"<{len(values)}f", *values)
    return b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))


def _tokenizer() -> dict[str, Any]:
    """A byte-level BPE tokenizer without merges: one token a byte."""
    names = dict(zip(_bytes_in_order(), _byte_names(), strict=True))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + at, "content": text, **flags} for at, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: token for token, name in enumerate(names.values())},
            "merges": [],
        },
    }


def _bytes_in_order() -> list[int]:
    """All bytes, first those that stand for themselves in a byte-level vocabulary."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return themselves + [byte for byte in range(256) if byte not in themselves]


def _byte_names() -> list[str]:
    """The characters that a byte-level vocabulary writes the bytes as, in the order of `_bytes_in_order`."""
    themselves = _bytes_in_order()[:188]
    return [chr(byte) for byte in themselves] + [chr(256 + at) for at in range(256 - len(themselves))]
