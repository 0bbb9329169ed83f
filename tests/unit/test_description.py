"""What a model can do is read from its configuration, without torch and without weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from momalisa import description
from momalisa.description import describe
from momalisa.domain.families import FAMILIES
from momalisa.errors import ModelError
from momalisa.location import locate, weighted
from momalisa.settings import BUNDLED_MODEL, settings

MakeModel = Callable[..., Path]

SD_VAE = {"block_out_channels": [128, 256, 512, 512]}
EULER = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "IMAGE_SIZE", "MAX_SIZE", "DEFAULT_STEPS", "DEFAULT_GUIDANCE", "LORAS"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    description.of_settings.cache_clear()


@pytest.fixture
def make(tmp_path: Path) -> MakeModel:
    """Write the configuration of a model, as its folder on the Hub has it."""

    def write(
        kind: str = "StableDiffusionPipeline",
        sampler: str = "PNDMScheduler",
        *,
        denoiser: dict[str, Any] | None = None,
        vae: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        tokens: int = 77,
        card: str | None = None,
        own: dict[str, Any] | None = None,
        **index: Any,
    ) -> Path:
        part = "unet" if kind.startswith(("StableDiffusionP", "StableDiffusionX", "Latent")) else "transformer"
        files = {
            "model_index.json": {
                "_class_name": kind,
                "scheduler": ["diffusers", sampler],
                part: ["diffusers", "X"],
                **index,
            },
            f"{part}/config.json": denoiser or {"sample_size": 64},
            "vae/config.json": vae or SD_VAE,
            "scheduler/scheduler_config.json": scheduler or {},
            "tokenizer/tokenizer_config.json": {"model_max_length": tokens},
        }
        if own is not None:
            files["momalisa.json"] = own
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content))
        if card is not None:
            (tmp_path / "README.md").write_text(card)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, (512, 20, 7.5, 8)),
        ({"denoiser": {"sample_size": 96}}, (768, 20, 7.5, 8)),
        ({"kind": "StableDiffusionXLPipeline", "denoiser": {"sample_size": 128}}, (1024, 30, 5, 8)),
        ({"kind": "StableDiffusion3Pipeline", "denoiser": {"sample_size": 128}}, (1024, 28, 7, 16)),
        ({"kind": "FluxPipeline", "denoiser": {"guidance_embeds": True}}, (1024, 28, 3.5, 16)),
        (
            {
                "kind": "SanaPipeline",
                "denoiser": {"sample_size": 32},
                "vae": {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]},
            },
            (1024, 20, 4.5, 32),
        ),
        ({"kind": "PixArtSigmaPipeline", "denoiser": {"sample_size": 128}}, (1024, 20, 4.5, 8)),
        ({"denoiser": {"sample_size": [64, 96]}}, (768, 20, 7.5, 8)),
    ],
)
def test_size_steps_and_guidance_are_those_of_the_family_and_its_configuration(
    make: MakeModel, model: dict[str, Any], expected: tuple[int, int, float, int]
) -> None:
    found = describe("m", make(**model))
    assert (found.size, found.steps, found.guidance, found.multiple) == expected
    assert found.max_size == min(2 * found.size, 2048)


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        (  # SDXL-Turbo
            "sdxl-turbo",
            {"kind": "StableDiffusionXLPipeline", "sampler": "EulerAncestralDiscreteScheduler", "scheduler": EULER},
            (4, 0),
        ),
        ("my-merge", {"sampler": "EulerDiscreteScheduler", "scheduler": EULER}, (4, 0)),  # SD-Turbo
        ("SDXL-Lightning-8step", {"kind": "StableDiffusionXLPipeline"}, (8, 0)),
        (  # zero terminal SNR, which also has trailing steps
            "noob",
            {"sampler": "EulerDiscreteScheduler", "scheduler": {**EULER, "prediction_type": "v_prediction"}},
            (20, 7.5),
        ),
        ("dreamshaper", {"sampler": "LCMScheduler"}, (4, 1)),
        ("lcm", {"kind": "LatentConsistencyModelPipeline", "sampler": "LCMScheduler"}, (4, 8.5)),
        ("schnell", {"kind": "FluxPipeline", "denoiser": {"guidance_embeds": False}}, (4, 0)),
        ("klein", {"kind": "Flux2KleinPipeline", "is_distilled": True}, (4, 1)),
        ("klein-base", {"kind": "Flux2KleinPipeline", "is_distilled": False}, (30, 4)),
        ("calculus", {}, (20, 7.5)),
    ],
)
def test_a_distilled_model_needs_few_steps_and_no_guidance(
    make: MakeModel, name: str, model: dict[str, Any], expected: tuple[float, float]
) -> None:
    found = describe(name, make(**model))
    assert (found.steps, found.guidance) == expected


def test_a_lora_may_distill_a_model(make: MakeModel) -> None:
    found = describe("sdxl", make("StableDiffusionXLPipeline"), ["pixel-art", "sdxl_lightning_2step_lora"])
    assert (found.steps, found.guidance) == (2, 0)


@pytest.mark.parametrize(
    ("model", "some"),
    [
        ({}, True),
        ({"sampler": "EulerAncestralDiscreteScheduler"}, True),
        ({"sampler": "LCMScheduler"}, False),
        ({"sampler": "EDMDPMSolverMultistepScheduler"}, False),
        ({"sampler": "DPMSolverMultistepScheduler", "scheduler": {"use_flow_sigmas": True}}, False),
        ({"kind": "FluxPipeline", "sampler": "FlowMatchEulerDiscreteScheduler"}, False),
    ],
)
def test_a_model_takes_other_samplers_unless_it_was_made_for_its_own(
    make: MakeModel, model: dict[str, Any], some: bool
) -> None:
    assert bool(describe("m", make(**model)).schedulers) == some


def test_it_says_how_many_tokens_it_reads_and_whether_it_reads_a_negative_prompt(make: MakeModel) -> None:
    sd, flux = describe("m", make(tokens=77)), describe("m", make("FluxPipeline"))
    assert (sd.tokens, sd.negative_above) == (77, 1)
    assert (flux.tokens, flux.negative_above) == (512, None)
    assert describe("m", make(tokens=10**30)).tokens is None


@pytest.mark.parametrize(
    ("card", "about"),
    [
        (
            "---\nlicense: mit\n---\n# Mini\n\nIt paints [one](x.md) *thing*\non white.\n\nMore.",
            "It paints one thing on white.",
        ),
        (
            "---\ninstance_prompt: 'a photo of sks dog'\n---\n# Dog",
            "It was trained on pictures of “a photo of sks dog”: say so in the prompt.",
        ),
        (
            "# A\n\n![x](y.png)\n\n<p>x</p>\n\n```py\nCode\n```\n\n| a | b |\n\nWords.\n\nReal words here.",
            "Real words here.",
        ),
        ("", ""),
        (None, ""),
    ],
)
def test_what_it_was_trained_for_is_what_its_card_says(make: MakeModel, card: str | None, about: str) -> None:
    assert describe("m", make(card=card)).about == about


def test_a_long_card_is_cut_at_a_word(make: MakeModel) -> None:
    about = describe("m", make(card="Word " * 200)).about
    assert len(about) <= 300
    assert about.endswith("Word…")


def test_its_own_file_overrides_what_is_guessed_and_the_settings_override_that(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(own={"steps": 12, "guidance": 3.5, "size": 640})
    found = describe("m", folder)
    assert (found.size, found.max_size, found.steps, found.guidance) == (640, 1280, 12, 3.5)
    monkeypatch.setenv("IMAGE_SIZE", "256")
    monkeypatch.setenv("DEFAULT_STEPS", "5")
    monkeypatch.setenv("DEFAULT_GUIDANCE", "1")
    monkeypatch.setenv("MAX_SIZE", "320")
    settings.cache_clear()
    found = describe("m", folder)
    assert (found.size, found.max_size, found.steps, found.guidance) == (256, 320, 5, 1)


def test_the_embedded_model_is_described_by_its_own_files() -> None:
    found = description.of_settings()
    assert found == describe("momalisa-mini", Path(BUNDLED_MODEL))
    assert (found.size, found.max_size, found.steps, found.guidance, found.tokens) == (128, 256, 8, 2, 32)
    assert found.about.startswith("It paints one thing on white, in the manner of 3D emoji.")
    assert found.coherent_size == 128
    assert len(set(found.subjects)) == len(found.subjects) > 1000


def test_of_a_model_that_is_elsewhere_nothing_is_known_but_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL", "someone/sdxl")
    monkeypatch.setenv("IMAGE_SIZE", "1024")
    settings.cache_clear()
    found = description.of_settings()
    assert (found.name, found.size, found.max_size, found.steps) == ("someone/sdxl", 1024, 2048, 20)


def test_what_the_api_offers_never_fails_for_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "/elsewhere/sdxl")
    monkeypatch.setenv("MAX_SIZE", "256")
    settings.cache_clear()
    found = description.of_settings()
    assert (found.size, found.max_size) == (256, 256)
    reported = found.model_copy(update={"size": 512, "max_size": 1024})
    assert description.as_settings_have_it(reported) == reported


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"stepz": 4}, "momalisa.json sets stepz, which a model does not have."),
        ({"steps": 0}, "momalisa.json: steps: Input should be greater than or equal to 1."),
        ({"size": 4096}, "momalisa.json: size: Input should be less than or equal to 2048."),
    ],
)
def test_a_wrong_file_of_its_own_is_refused(make: MakeModel, own: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        describe("m", make(own=own))
    assert str(refused.value).endswith(sentence)


def test_a_size_that_the_model_cannot_have_is_refused(make: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "520")
    settings.cache_clear()
    with pytest.raises(ModelError, match="IMAGE_SIZE must be a multiple of 32 for m, got 520"):
        describe("m", make("SanaPipeline"))
    monkeypatch.setenv("IMAGE_SIZE", "")
    monkeypatch.setenv("MAX_SIZE", "256")
    settings.cache_clear()
    with pytest.raises(ModelError, match=r"The size of m, 512, is larger than MAX_SIZE \(256\)"):
        describe("m", make())


def test_another_kind_of_pipeline_is_refused_and_those_supported_are_named(make: MakeModel) -> None:
    folder = make("StableDiffusionInpaintPipeline")
    with pytest.raises(ModelError) as refused:
        describe("m", folder)
    assert str(refused.value).startswith(
        f"StableDiffusionInpaintPipeline of '{folder}' cannot render walks. Supported are "
    )
    assert all(kind in str(refused.value) for kind in FAMILIES)


@pytest.mark.parametrize(
    ("text", "hub", "revision", "file", "name"),
    [
        (BUNDLED_MODEL, None, None, None, "momalisa-mini"),
        ("/models/sdxl", None, None, None, "sdxl"),
        ("/models/juggernaut.v9.safetensors", None, None, None, "juggernaut.v9"),
        ("stabilityai/sdxl", "stabilityai/sdxl", None, None, "stabilityai/sdxl"),
        ("stabilityai/sdxl@fp16", "stabilityai/sdxl", "fp16", None, "stabilityai/sdxl@fp16"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3", None, "a/b@refs/pr/3"),
        ("a/b/c.safetensors", "a/b", None, "c.safetensors", "a/b/c.safetensors"),
        ("models/x.safetensors", None, None, None, "x"),
        ("sdxl", None, None, None, "sdxl"),
        ("~/sdxl", None, None, None, "sdxl"),
    ],
)
def test_where_a_model_lies(text: str, hub: str | None, revision: str | None, file: str | None, name: str) -> None:
    place = locate(text)
    assert (place.hub, place.revision, place.file, place.name) == (hub, revision, file, name)
    assert (place.path is None) == (hub is not None)


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [("/l/pixel.safetensors:0.8", "pixel", 0.8), ("/l/pixel.safetensors", "pixel", 1), ("a/b:-0.5", "a/b", -0.5)],
)
def test_a_lora_has_a_weight_after_its_colon(text: str, name: str, weight: float) -> None:
    place, found = weighted(text)
    assert (place.name, found) == (name, weight)


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf"])
def test_the_weight_of_a_lora_is_finite(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    monkeypatch.setenv("LORAS", f"/l/pixel.safetensors:{weight}")
    settings.cache_clear()
    with pytest.raises(ValidationError, match="must be a finite number, got /l/pixel"):
        settings()


def test_loras_are_a_part_of_the_name_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "/models/sdxl")
    monkeypatch.setenv("LORAS", "/l/pixel.safetensors:0.8, /l/ink.safetensors")
    settings.cache_clear()
    assert settings().model_name == "sdxl+pixel:0.8+ink"
