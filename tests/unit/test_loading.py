"""Models as they lie on people's disks: those that load, and what is said of those that do not."""

import inspect
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_model, single_file_utils
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from momalisa.domain.families import FAMILIES
from momalisa.domain.spec import WalkSpec
from momalisa.errors import ModelError
from tests import tiny
from tests.broken_models import POINTER
from tests.tiny_pipelines import MAKERS, saved
from worker.process.startup import explain
from worker.rendering import single_file
from worker.rendering.additions import NONE, Additions
from worker.rendering.pipeline import Renderer

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
INDEX = "model_index.json"
Act = Callable[[Path], object]

ANYTHING = "a folder, a .safetensors file, or a name on the Hub (owner/name)"
TITLES = [family.title for family in FAMILIES.values()]
KINDS = f"text-to-image pipelines of {', '.join(TITLES[:-1])} and {TITLES[-1]} ({', '.join(sorted(FAMILIES))})"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, which no test may change."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


def load(model: Path | str, additions: Additions = NONE) -> Renderer:
    return Renderer(str(model), batch_size=1, dtype="float32", additions=additions)


def render(renderer: Renderer, prompt: str = "a giraffe") -> NDArray[np.uint8]:
    spec = WalkSpec(
        prompts=(prompt, prompt),
        frames=2,
        seed=7,
        negative_prompt="",
        steps=2,
        guidance=4,
        width=64,
        height=64,
        fps=1,
    )
    picture: NDArray[np.uint8] = renderer.render(spec, [0.0]).pictures[0]
    return picture


def weights(renderer: Renderer) -> dict[str, torch.Tensor]:
    parts = {name: part for name, part in renderer.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}


def assert_same(loaded: Renderer, expected: Renderer) -> None:
    """Check that weights are equal, and pictures but for rounding.

    Kernels round by how weights are aligned in memory, which depends on the files that they are read from.
    """
    torch.testing.assert_close(weights(loaded), weights(expected), rtol=0, atol=0)
    np.testing.assert_allclose(render(loaded).astype(int), render(expected), rtol=0, atol=1)


def said(model: Path | str, additions: Additions = NONE) -> str:
    """Return what is said of a model that cannot be loaded."""
    with pytest.raises(ModelError) as refused:
        load(model, additions)
    return explain(refused.value)


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def _shards(model: Path) -> None:
    """Split the weights of the denoiser into two files, and lose one."""
    tensors = load_file(model / UNET)
    names = sorted(tensors)
    half = len(names) // 2
    stem = "diffusion_pytorch_model"
    files = {f"{stem}-00001-of-00002.safetensors": names[:half], f"{stem}-00002-of-00002.safetensors": names[half:]}
    for file, some in files.items():
        save_file({name: tensors[name] for name in some}, model / "unet" / file, {"format": "pt"})
    listed = {name: file for file, some in files.items() for name in some}
    (model / "unet" / f"{stem}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": listed})
    )
    (model / UNET).unlink()


BROKEN: dict[str, tuple[Act | list[Act], str]] = {
    "inpainting": (
        lambda m: tiny.change(m / INDEX, _class_name="StableDiffusionInpaintPipeline"),
        "StableDiffusionInpaintPipeline of '{m}' cannot render walks. Supported are {kinds}.",
    ),
    "another family": (
        lambda m: tiny.change(m / INDEX, _class_name="KandinskyV22Pipeline"),
        "KandinskyV22Pipeline of '{m}' cannot render walks. Supported are {kinds}.",
    ),
    "no index": (
        lambda m: (m / INDEX).unlink(),
        "{m} has no model_index.json, so it is not a pipeline of diffusers.",
    ),
    "an index that is not JSON": (
        lambda m: (m / INDEX).write_text('{"_class_name": '),
        "{index} is not valid JSON: Expecting value: line 1 column 17 (char 16).",
    ),
    "no folder of a part": (
        lambda m: shutil.rmtree(m / "tokenizer"),
        "{m} has no folder tokenizer, which its model_index.json names.",
    ),
    "no safety checker": (
        lambda m: tiny.change(m / INDEX, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]),
        "{m} has no folder safety_checker, which its model_index.json names; set it to [null, null] there to "
        "render without it.",
    ),
    "no vocabulary": (
        lambda m: (m / "tokenizer/tokenizer.json").unlink(),
        "{m}/tokenizer has no vocabulary: it needs tokenizer.json, or vocab.json and merges.txt, or spiece.model.",
    ),
    "no weights": (
        lambda m: (m / UNET).unlink(),
        "{m}/unet has no weights: it needs a .safetensors file beside its config.json.",
    ),
    "no configuration": (
        lambda m: (m / "vae/config.json").unlink(),
        "{m}/vae has weights, but no config.json.",
    ),
    "a configuration that is not JSON": (
        lambda m: (m / "vae/config.json").write_text("{,}"),
        "{m}/vae/config.json is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1).",
    ),
    "a pointer of Git LFS": (
        lambda m: (m / TEXT).write_text(POINTER),
        "{text} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder.",
    ),
    "a pointer for a vocabulary": (
        lambda m: (m / "tokenizer/tokenizer.json").write_text(POINTER),
        "{m}/tokenizer/tokenizer.json is a pointer of Git LFS and not the file itself: run `git lfs pull` in its "
        "folder.",
    ),
    "a file cut off": (
        lambda m: os.truncate(m / UNET, (m / UNET).stat().st_size - 1000),
        "{unet} is incomplete: it has {less} bytes, not {whole}. Download or copy it again.",
    ),
    "a text encoder cut off in its header": (
        lambda m: os.truncate(m / TEXT, 500),
        "{text} is cut off within its header, after 500 bytes: download or copy it again.",
    ),
    "bytes too many": (
        lambda m: (m / UNET).write_bytes((m / UNET).read_bytes() + b"\0" * 1000),
        "{unet} is damaged: it has {more} bytes, not {whole}. Download or copy it again.",
    ),
    "an empty file": (
        lambda m: (m / UNET).write_bytes(b""),
        "{unet} is empty.",
    ),
    "a web page": (
        lambda m: (m / UNET).write_text("<!DOCTYPE html><title>Sign in</title>"),
        "{unet} is a web page: download the file itself, with a token if its site asks for one.",
    ),
    "a pickle by another name": (
        lambda m: torch.save({"weight": torch.zeros(2)}, m / UNET),
        "{unet} is a pickle, whatever its name says: use the safetensors of the model.",
    ),
    "garbage": (
        lambda m: (m / UNET).write_bytes(b"\7" * 5000),
        "{unet} is not a safetensors file, or its beginning is damaged.",
    ),
    "tensors missing": (
        lambda m: rewrite(m / UNET, lambda t: [t.pop(name) for name in sorted(t)[::2]]),
        "{unet} lacks {half} of {count} tensors of UNet2DConditionModel, such as "
        "conv_in.bias and conv_norm_out.bias.",
    ),
    "tensors of the text encoder missing": (
        lambda m: rewrite(m / TEXT, lambda t: t.pop("embeddings.token_embedding.weight")),
        "{text} lacks 1 of 52 tensors of CLIPTextModel, such as embeddings.token_embedding.weight.",
    ),
    "foreign tensors": (
        lambda m: rewrite(m / UNET, lambda t: t.update({"controlnet.weight": torch.zeros(2)})),
        "{unet} has 1 tensors that UNet2DConditionModel does not have, such as controlnet.weight.",
    ),
    "other shapes": (
        lambda m: tiny.change(m / "unet/config.json", cross_attention_dim=24),
        "{unet} does not fit its configuration: {key} has the shape 16 × 32, and "
        "UNet2DConditionModel needs 16 × 24; so have 7 more tensors another shape.",
    ),
    "an unknown class of a part": (
        lambda m: tiny.change(m / INDEX, unet=["diffusers", "UNet9DModel"]),
        "The class UNet9DModel of {m}/unet is not one of diffusers {diffusers}.",
    ),
    "a shard missing": (
        [_shards, lambda m: (m / "unet/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()],
        "{m}/unet lacks diffusion_pytorch_model-00002-of-00002.safetensors, which "
        "diffusion_pytorch_model.safetensors.index.json names.",
    ),
    "the list of shards missing": (
        [_shards, lambda m: (m / "unet/diffusion_pytorch_model.safetensors.index.json").unlink()],
        "{m}/unet has its weights in several files, but no diffusion_pytorch_model.safetensors.index.json that "
        "lists them.",
    ),
    "only pickles": (
        [
            lambda m: torch.save(load_file(m / UNET), m / "unet/diffusion_pytorch_model.bin"),
            lambda m: (m / UNET).unlink(),
        ],
        "{m}/unet has its weights only as pickles (diffusion_pytorch_model.bin), which can run any code: use a "
        "model with safetensors, or set ALLOW_PICKLE if you trust its author.",
    ),
    "a part and not a model": (
        [lambda m: (m / "unet/config.json").rename(m / "config.json"), lambda m: (m / INDEX).unlink()],
        "{m} has no model_index.json, so it is not a pipeline of diffusers: it holds a UNet2DConditionModel; name "
        "the folder above it.",
    ),
    "a folder of a LoRA": (
        lambda m: (m / INDEX).rename(m / "pytorch_lora_weights.safetensors"),
        "{m} has no model_index.json, so it is not a pipeline of diffusers: it holds a LoRA; name it in LORAS, and "
        "the model that it is for in MODEL.",
    ),
    "a folder with a file": (
        lambda m: (m / INDEX).rename(m / "dream.safetensors"),
        "{m} has no model_index.json, so it is not a pipeline of diffusers; if dream.safetensors is a whole model, "
        "name that file.",
    ),
    "a folder around the model": (
        [lambda m: (m / "inner").mkdir(), lambda m: (m / INDEX).rename(m / "inner" / INDEX)],
        "{m} has no model_index.json, so it is not a pipeline of diffusers; {m}/inner is one.",
    ),
}
"""Ways to break a model, and what is said of it."""


def break_model(model: Path, way: str) -> str:
    """Break a model, and return what is said of it."""
    acts, sentence = BROKEN[way]
    for act in acts if isinstance(acts, list) else [acts]:
        act(model)
    return sentence


@pytest.mark.parametrize("way", BROKEN)
def test_what_is_wrong_with_a_model_is_said_in_one_sentence(way: str, model: Path, tmp_path: Path) -> None:
    broken = tiny.copy(model, tmp_path / "broken")
    count, whole = len(load_file(broken / UNET)), (broken / UNET).stat().st_size
    sentence = break_model(broken, way)
    assert said(broken) == sentence.format(
        m=broken,
        unet=broken / UNET,
        text=broken / TEXT,
        index=broken / INDEX,
        kinds=KINDS,
        count=count,
        half=(count + 1) // 2,
        whole=f"{whole:,}",
        less=f"{whole - 1000:,}",
        more=f"{whole + 1000:,}",
        key="down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        diffusers=diffusers.__version__,
    )


def test_a_sampler_whose_noise_no_seed_decides_is_refused(model: Path, tmp_path: Path) -> None:
    noisy = tiny.copy(model, tmp_path / "noisy")
    tiny.change(noisy / INDEX, scheduler=["diffusers", "DPMSolverSDEScheduler"])
    assert said(noisy).startswith(
        f"The scheduler DPMSolverSDEScheduler of '{noisy}' is unknown, or draws noise that no seed decides; a walk "
        "needs one of DDIMScheduler, "
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/no/such", f"There is no folder /no/such: a model is {ANYTHING}."),
        ("sdxl", f"There is no folder sdxl: a model is {ANYTHING}."),
        ("/no/such.safetensors", "MODEL: there is no file /no/such.safetensors."),
        ("/no/such.ckpt", "MODEL: there is no file /no/such.ckpt."),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, sentence: str) -> None:
    assert said(name) == sentence


def test_a_model_whose_files_have_a_variant_loads_as_the_same_model(model: Path, tmp_path: Path) -> None:
    variant = tiny.stable_diffusion(tmp_path / "fp16", variant="fp16")
    assert (variant / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert load(variant).revision == load(model).revision


def test_a_model_in_several_files_loads_as_the_same_model(model: Path, tmp_path: Path) -> None:
    sharded = tiny.copy(model, tmp_path / "sharded")
    _shards(sharded)
    assert load(sharded).revision == load(model).revision


def test_pickles_are_read_where_they_are_allowed(model: Path, tmp_path: Path) -> None:
    pickled = tiny.copy(model, tmp_path / "pickled")
    break_model(pickled, "only pickles")
    assert load(pickled, Additions(allow_pickle=True)).revision == load(model).revision


@pytest.fixture(scope="session")
def file(model: Path) -> Path:
    """The same model as one file, with a folder of the same name that holds its configuration."""
    configuration = tiny.copy(model, model.parent / "dream")
    for weights in configuration.rglob("*.safetensors"):
        weights.unlink()
    return tiny.single_file(model, model.parent / "dream.safetensors")


def test_a_single_file_with_a_configuration_beside_it_renders_the_same(model: Path, file: Path) -> None:
    assert_same(load(file), load(model))


def without_weights(model: str, parts: Sequence[str]) -> Path:
    """Take weights of some parts away, and return the folder."""
    for part in parts:
        for weights in (Path(model) / part).glob("*.safetensors"):
            weights.unlink()
    return Path(model)


def test_stable_diffusion_3_as_one_file_with_all_parts_renders_the_same(tmp_path: Path) -> None:
    pipeline = MAKERS["stable_diffusion_3"]()
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        torch.nn.init.eye_(encoder.text_projection.weight)  # as diffusers takes it to be, which such files lack
    model = str(tmp_path / "stable_diffusion_3")
    pipeline.save_pretrained(model)
    expected = load(model)
    file = tiny.stable_diffusion_3_file(Path(model), tmp_path / "stable_diffusion_3.safetensors")
    without_weights(model, ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"])
    assert_same(load(file), expected)


def test_flux_as_one_file_is_its_transformer_and_the_other_parts_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = "convert_flux_transformer_checkpoint_to_diffusers"
    known = dict(vars(single_file_utils))
    code = inspect.getsource(known[convert])
    assert code.count("inner_dim = 3072") == 1
    exec(code.replace("inner_dim = 3072", "inner_dim = 32"), known)  # noqa: S102 - diffusers knows the real width only
    ways: Any = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(ways, "checkpoint_mapping_fn", known[convert])
    model = saved("schnell", tmp_path)
    expected = load(model)
    file = tiny.flux_file(Path(model), tmp_path / "schnell.safetensors")
    vae = tiny.copy(Path(model) / "vae", tmp_path / "vae")
    without_weights(model, ["transformer"])
    assert_same(load(file), expected)
    without_weights(model, ["vae"])
    assert said(file) == f"{file} has no AutoencoderKL: name one in VAE, or put its weights into {model}/vae."
    assert_same(load(file, Additions(vae=str(vae))), expected)
    without_weights(model, ["text_encoder_2"])
    lacking = f"{file} has no T5EncoderModel: put its weights into {model}/text_encoder_2."
    assert said(file, Additions(vae=str(vae))) == lacking


def test_a_single_file_that_lacks_tensors_is_refused(file: Path, tmp_path: Path) -> None:
    tiny.copy(file.with_suffix(""), tmp_path / "dream")
    broken = Path(shutil.copy(file, tmp_path))
    rewrite(broken, lambda t: [t.pop(f"model.diffusion_model.out.2.{part}") for part in ("weight", "bias")])
    count = len(load(file).pipeline.unet.state_dict())
    lacking = "tensors of UNet2DConditionModel, such as conv_out.bias and conv_out.weight."
    assert said(broken) == f"{broken} lacks 2 of {count} {lacking}"


def test_loras_change_pictures_by_their_weight(model: Path, tmp_path: Path) -> None:
    lora = tiny.lora(model, tmp_path / "ink.safetensors")
    plain = load(model)
    inked, faint, none = (load(model, Additions(loras=(f"{lora}:{weight}",))) for weight in (1, 0.5, 0))
    assert len({renderer.revision for renderer in (plain, inked, faint)}) == 3
    assert not np.array_equal(render(inked), render(plain))
    assert not np.array_equal(render(inked), render(faint))
    assert np.array_equal(render(none), render(plain))


def test_another_decoder_renders_other_pictures(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    tiny.autoencoder(seed=8).save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    renderers = [load(model, Additions(vae=str(place))) for place in (folder, weights)]
    assert renderers[0].revision == renderers[1].revision != load(model).revision
    assert np.array_equal(render(renderers[0]), render(renderers[1]))
    assert not np.array_equal(render(renderers[0]), render(load(model)))


def test_a_textual_inversion_is_a_word_by_the_name_of_its_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "sketchy.safetensors"
    save_file({"emb_params": torch.ones(2, tiny.WIDTH)}, file)
    plain, taught = load(model), load(model, Additions(textual_inversions=(str(file),)))
    assert taught.revision != plain.revision
    assert np.array_equal(render(taught), render(plain))
    assert not np.array_equal(render(taught, "a sketchy giraffe"), render(plain, "a sketchy giraffe"))


FIRST = "model.diffusion_model.input_blocks.0.0.weight"
"""The first tensor of a denoiser, as Stable Diffusion's authors named it."""


def test_a_common_model_that_is_one_file_needs_neither_a_configuration_nor_the_hub(tmp_path: Path) -> None:
    parts: Any = diffusers  # which has no types
    signs = {
        "v1": "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "xl_base": "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
    }
    published = {"v1": (859_520_964, 123_060_480), "xl_base": (2_567_463_684, 123_060_480)}
    for kind, sign in signs.items():
        file = tmp_path / f"{kind}.safetensors"
        save_file(
            {sign: torch.zeros(1), "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1, 4, 3, 3)}, file
        )
        folder = single_file.configuration(file)
        assert folder.parts[-2:] == ("known", kind)
        with torch.device("meta"):
            unet = parts.UNet2DConditionModel.from_config(parts.UNet2DConditionModel.load_config(folder / "unet"))
            text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        sizes = tuple(sum(each.numel() for each in part.parameters()) for part in (unet, text))
        assert sizes == published[kind]
        ids = CLIPTokenizer.from_pretrained(folder / "tokenizer")("a giraffe").input_ids
        assert ids == [49406, 320, 22826, 49407]


ZEROS = torch.zeros(2, 2)

OTHER_FILES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a LoRA": (
        {"unet.to_q.lora_A.weight": ZEROS},
        "{f} is a LoRA: name it in LORAS, and the model that it is for in MODEL.",
    ),
    "an old LoRA": (
        {"lora_unet_down.lora_up.weight": ZEROS},
        "{f} is a LoRA: name it in LORAS, and the model that it is for in MODEL.",
    ),
    "a textual inversion": ({"emb_params": ZEROS}, "{f} is a textual inversion: name it in TEXTUAL_INVERSIONS."),
    "a ControlNet": ({"control_model.time_embed.0.weight": ZEROS}, "{f} is a ControlNet, which walks cannot use."),
    "an inpainting model": (
        {FIRST: torch.zeros(4, 9, 3, 3)},
        "{f} is of the kind inpainting, which cannot render walks.",
    ),
    "anything else": (
        {"encoder.layer.0.weight": ZEROS},
        "{f} holds no model that is known: it may be a part of one, or of an unknown family.",
    ),
}
"""Files that are no model, and what is said of them."""


@pytest.mark.parametrize("what", OTHER_FILES)
def test_a_file_that_is_no_model_is_called_what_it_is(what: str, tmp_path: Path) -> None:
    file, (tensors, sentence) = tmp_path / "x.safetensors", OTHER_FILES[what]
    save_file(tensors, file)
    assert said(file) == sentence.format(f=file)


def test_a_pickle_without_a_configuration_beside_it_is_called_one(tmp_path: Path) -> None:
    file = tmp_path / "dream.ckpt"
    file.write_bytes(b"PK\x03\x04")
    assert said(file, Additions(allow_pickle=True)) == (
        f"{file} is a pickle, whose architecture cannot be read without running it: use its .safetensors file, or "
        "set ALLOW_PICKLE and put a folder dream with its model_index.json, configurations and tokenizers "
        "beside it."
    )


def test_additions_that_are_for_other_models_are_refused(model: Path, tmp_path: Path) -> None:
    def saved(name: str, tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, tmp_path / name)
        return str(tmp_path / name)

    wide = saved("wide.safetensors", {"emb_params": torch.ones(1, 768)})
    other = saved("other.safetensors", {"encoder.weight": ZEROS})
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    tiny.autoencoder(16).save_pretrained(tmp_path / "vae16")
    weights = tmp_path / "vae16/diffusion_pytorch_model.safetensors"
    refused = {
        f"LORAS: {other} is not a LoRA.": Additions(loras=(other,)),
        "LORAS: there is no file /no/lora.safetensors.": Additions(loras=("/no/lora.safetensors:0.5",)),
        f"LORAS: {model} has no .safetensors file.": Additions(loras=(str(model),)),
        f"VAE: {other} is no autoencoder: it has no decoder.": Additions(vae=other),
        "VAE: there is no folder or file /no/vae.": Additions(vae="/no/vae"),
    }
    refused[f"VAE: {weights} is for models of another family: it decodes 16 channels, and the model makes 4."] = (
        Additions(vae=str(tmp_path / "vae16"))
    )
    refused[
        f"TEXTUAL_INVERSIONS: {tmp_path / 'x.pt'} is a pickle, which can run any code: use a .safetensors file, or "
        "set ALLOW_PICKLE if you trust its author."
    ] = Additions(textual_inversions=(str(tmp_path / "x.pt"),))
    assert {said(model, additions): additions for additions in refused.values()} == refused
    assert said(model, Additions(textual_inversions=(wide,))).startswith(
        f"TEXTUAL_INVERSIONS: {wide} is not for StableDiffusionPipeline: "
    )
    foreign = saved(
        "foreign.safetensors",
        {f"unet.mid_block.nowhere.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"},
    )
    assert said(model, Additions(loras=(foreign,))).startswith(
        f"LORAS: {foreign} is not for StableDiffusionPipeline"
    )
