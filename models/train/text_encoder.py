"""The second step: a small text encoder that puts prompts where a sentence encoder puts their meaning.

A word that no caption holds thus lands near its kin, and is painted as such.
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
"""What a token never reaches beyond. Source: Radford et al., CLIP, 2021."""

BATCH = 512

BUCKETS = 20
"""Batches of about the same length are drawn from as many batches' phrases."""

CHOICE, SHARPNESS = 0.3, 20.0
"""Weight of which labels a phrase is like, and how much the most alike ones count."""

BORROWED = 0.5
"""Share of what a word says that comes from the word it borrows from."""

PLAN = Plan(steps=2500, rate=1e-3, falling=0.9, memory=0.995)


def tokenizer(names: Sequence[str], sizes: Sizes, work: Path) -> Any:
    """Return a tokenizer whose tokens are the words of names, as far as they go."""
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
    """Return a text encoder that knows nothing."""
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
    """A text encoder, and what maps its pooled state onto the meanings of the teacher."""

    def __init__(self, encoder: Any, meanings: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mapped = torch.nn.Linear(encoder.config.hidden_size, meanings, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return meanings of length 1, shape (phrases, meanings)."""
        mapped = self.mapped(self.encoder(tokens).pooler_output)
        return torch.nn.functional.normalize(mapped.float(), dim=-1)


@torch.no_grad()
def prime(student: Student, tokens: Any) -> None:
    """Let each token that is a word begin with what the teacher means by it, as far as its width holds it."""
    words = whole_words(tokens)
    meanings = teacher.embed(list(words))
    axes = torch.linalg.svd(meanings, full_matrices=False).Vh[: student.mapped.in_features]
    embedding = student.encoder.get_input_embeddings().weight
    embedding[list(words.values())] = meanings @ axes.T
    student.mapped.weight.copy_(axes.T)


def whole_words(tokens: Any) -> dict[str, int]:
    """Return the words that are tokens, with the number of each."""
    vocabulary = tokens.get_vocab().items()
    return {token.removesuffix(WORD_END): number for token, number in vocabulary if WORD.fullmatch(token)}


@torch.no_grad()
def lend(encoder: Any, tokens: Any, names: Sequence[str], prompts: Mapping[str, Sequence[str]]) -> None:
    """Let each word that no prompt holds borrow from one that does, for the thing that is closest to it.

    Its own embedding is one that the denoiser never saw, and would be painted as a mixture of several things.

    Args:
        encoder: the text encoder, which knows what words mean.
        tokens: its tokenizer.
        names: what may be asked for; those that are one token, and in no prompt, borrow.
        prompts: for each label, what the denoiser learns to answer with its pictures.
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
    """Phrases as tokens with the meaning of each, in batches of about the same length."""

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
        """Numbers in a meaning."""
        return self._meanings.shape[1]

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of tokens and of meanings."""
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
        phrases: to learn the meanings of.
        prompts: for each label that it must distinguish, the prompts for its pictures.
        folder: the pipeline.
        work: where the training keeps its state.
        sizes: of the text encoder.
        plan: how long and how fast.
    """
    torch.manual_seed(2)
    tokens = tokenizer(names, sizes, work)
    lessons = Phrases(phrases, tokens)
    student = Student(untrained(tokens, sizes), lessons.width)
    prime(student, tokens)
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
    lend(student.encoder, tokens, names, prompts)
    tokens.save_pretrained(folder / "tokenizer")
    save(student.encoder, folder / "text_encoder")


def save(encoder: Any, folder: Path) -> None:
    """Write a text encoder in half precision, to be read in single."""
    encoder.half().save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
