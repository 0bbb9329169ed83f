"""The second step: a small text encoder, which learns the embeddings of a sentence encoder.

So a word that is in no caption is placed near its synonyms, and painted like them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.train import teacher
from models.train.loop import Plan, batch_size, device, half_precision, train
from models.train.sizes import TOKENS, Sizes

WORD_END = "</w>"

WORD = re.compile(rf"[a-z]{{2,}}{WORD_END}")
"""A token that is a whole word."""

START, END = "<|startoftext|>", "<|endoftext|>"

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""The pattern by which text is split before tokens are merged. Source: Radford et al., CLIP, 2021."""

BATCH = 512

BUCKETS = 20
"""Batches of phrases of about the same length are drawn from this many batches' phrases."""

CHOICE, SHARPNESS = 0.3, 20.0
"""Weight of the label loss, and inverse temperature of its softmax."""

BORROWED = 0.5
"""Share of a borrowing word's embedding that comes from the other word."""

PLAN = Plan(steps=2500, rate=1e-3, falling=0.9, memory=0.995)


def tokenizer(names: Sequence[str], sizes: Sizes, work: Path) -> Any:
    """Return a tokenizer whose tokens are the words of names, in the order of the names, up to its size."""
    tokens = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix=WORD_END))
    tokens.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokens.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary,
        special_tokens=[START, END],
        end_of_word_suffix=WORD_END,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(names, trainer)
    work.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = tokens.model.save(str(work))
    return CLIPTokenizer(
        vocabulary,
        merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=TOKENS,
    )


def untrained(tokens: Any, sizes: Sizes) -> Any:
    """Return an untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=sizes.text_width,
            intermediate_size=2 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=max(sizes.text_width // 64, 1),
            max_position_embeddings=TOKENS,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            hidden_act="gelu",
        )
    )


class Student(torch.nn.Module):
    """A text encoder, and a projection of its pooled state onto the teacher's embeddings."""

    def __init__(self, encoder: Any, meanings: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mapped = torch.nn.Linear(encoder.config.hidden_size, meanings, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings of length 1, shape (phrases, width)."""
        mapped = self.mapped(self.encoder(tokens).pooler_output)
        return torch.nn.functional.normalize(mapped.float(), dim=-1)


@torch.no_grad()
def initialize_embeddings(student: Student, tokens: Any) -> None:
    """Initialize each token that is a word with the teacher's embedding, reduced to the width by principal axes."""
    words = whole_words(tokens)
    meanings = teacher.embed(list(words))
    axes = torch.linalg.svd(meanings, full_matrices=False).Vh[: student.mapped.in_features]
    embedding = student.encoder.get_input_embeddings().weight
    embedding[list(words.values())] = meanings @ axes.T
    student.mapped.weight.copy_(axes.T)


def whole_words(tokens: Any) -> dict[str, int]:
    """Return the words that are tokens, with their indices."""
    vocabulary = tokens.get_vocab().items()
    return {token.removesuffix(WORD_END): number for token, number in vocabulary if WORD.fullmatch(token)}


@torch.no_grad()
def borrow_embeddings(
    encoder: Any, tokens: Any, names: Sequence[str], prompts: Mapping[str, Sequence[str]]
) -> None:
    """Mix the embedding of each word that is in no prompt with that of the closest name that is in one.

    The denoiser has never seen its own embedding, and would paint a mixture of several things.

    Args:
        encoder: the trained text encoder.
        tokens: its tokenizer.
        names: of things; those that are a single token, and in no prompt, borrow.
        prompts: captions by label.
    """
    words = whole_words(tokens)
    heard = {number for said in prompts.values() for prompt in tokens(list(said)).input_ids for number in prompt}
    unheard = [name for name in names if name in words and words[name] not in heard]
    lenders = {label: [prompt for prompt in said if prompt in words] for label, said in prompts.items()}
    labels = [label for label, its in lenders.items() if its]
    spoken = sorted({name for its in lenders.values() for name in its})
    sense = dict(zip(spoken, teacher.embed(spoken), strict=True))
    meanings = teacher.embed(unheard)
    closest = (meanings @ teacher.embed(labels).T).argmax(dim=1).tolist()
    embedding = encoder.get_input_embeddings().weight
    for word, meaning, index in zip(unheard, meanings, closest, strict=True):
        lender = max(lenders[labels[index]], key=lambda name: float(sense[name] @ meaning))
        embedding[words[word]] = torch.lerp(embedding[words[word]], embedding[words[lender]], BORROWED)


class Phrases:
    """Tokenized phrases with the teacher's embeddings, in batches of about the same length."""

    def __init__(self, phrases: Sequence[str], tokens: Any) -> None:
        padded = tokens(
            list(phrases), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        self._tokens = padded.input_ids.to(device(), torch.int32)
        self._lengths = padded.attention_mask.sum(1).to(device())
        self._meanings = teacher.embed(phrases).to(device())
        self._batch = batch_size(BATCH)

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return self._meanings.shape[1]

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of tokens and embeddings."""
        some = torch.randint(len(self._tokens), (BUCKETS * self._batch,), device=device())
        some = some[self._lengths[some].argsort()]
        start = int(torch.randint(BUCKETS, (), device=device())) * self._batch
        rows = some[start : start + self._batch]
        return self._tokens[rows, : int(self._lengths[rows].max())].long(), self._meanings[rows]


def run(
    names: Sequence[str],
    phrases: Sequence[str],
    prompts: Mapping[str, Sequence[str]],
    folder: Path,
    work: Path,
    sizes: Sizes,
    plan: Plan,
) -> None:
    """Train the tokenizer and the text encoder of a pipeline.

    Args:
        names: whose words become tokens.
        phrases: the training phrases.
        prompts: captions by label.
        folder: the pipeline.
        work: the folder of checkpoints.
        sizes: of the text encoder.
        plan: the schedule.
    """
    torch.manual_seed(2)
    tokens = tokenizer(names, sizes, work)
    lessons = Phrases(phrases, tokens)
    student = Student(untrained(tokens, sizes), lessons.width)
    initialize_embeddings(student, tokens)
    student.to(device())
    anchors = teacher.embed(list(prompts)).to(device()) * SHARPNESS

    def loss(progress: float) -> torch.Tensor:  # noqa: ARG001
        ids, meanings = lessons.draw()
        with half_precision():
            said = student(ids)
        apart: torch.Tensor = 1 - (said * meanings).sum(-1).mean()
        chosen, right = ((vectors @ anchors.T).log_softmax(-1) for vectors in (said, meanings))
        likeness = torch.nn.functional.kl_div(chosen, right, reduction="batchmean", log_target=True)
        return apart + CHOICE * likeness

    train(student, loss, plan, work / "text_encoder.pt")
    borrow_embeddings(student.encoder, tokens, names, prompts)
    tokens.save_pretrained(folder / "tokenizer")
    save(student.encoder, folder / "text_encoder")


def save(encoder: Any, folder: Path) -> None:
    """Write a text encoder in half precision, to be loaded in single precision."""
    encoder.half().save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
