"""What a renderer does where memory is short, and on other devices than this machine's processors."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch

from momalisa.domain.content import content_hashes
from momalisa.domain.spec import WalkSpec
from tests.pictures import difference
from tests.stand_ins import Never
from tests.tiny_pipelines import saved
from worker.rendering import memory
from worker.rendering.batch import RenderRequest, render_batch
from worker.rendering.layers import best_device, fastest_dtype
from worker.rendering.pipeline import Renderer

MakeSpec = Callable[..., WalkSpec]

POSITIONS = [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved("stable_diffusion", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def walk(spec: MakeSpec) -> MakeSpec:
    def make(**changes: Any) -> WalkSpec:
        return spec(**{"steps": 1, "guidance": 1.0, "width": 64, "height": 64, **changes})

    return make


@pytest.fixture
def renderer(model: str) -> Renderer:
    return Renderer(model, batch_size=8, dtype="float32", device="cpu")


def limit_memory(renderer: Renderer, rows: int, error: Exception) -> list[int]:
    """Have the denoiser run out of memory for more than `rows` pictures; return the rows that it is asked for."""
    asked: list[int] = []

    def allocate(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        asked.append(len(inputs[0]))
        if len(inputs[0]) > rows:
            raise error

    renderer.denoiser.register_forward_pre_hook(allocate)
    return asked


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_batch_that_memory_does_not_suffice_for_is_halved_for_good(
    renderer: Renderer, model: str, walk: MakeSpec, error: Exception
) -> None:
    asked = limit_memory(renderer, 2, error)
    rendering = renderer.render(walk(), POSITIONS)
    assert asked == [8, 4, 2, 2, 2]
    assert rendering.batch_size == 2
    small = Renderer(model, batch_size=2, dtype="float32", device="cpu").render(walk(), POSITIONS)
    assert difference(rendering.pictures, small.pictures) == 0
    asked.clear()
    renderer.render(walk(), POSITIONS)
    renderer.render(walk(width=128, height=128), POSITIONS[:1])
    assert asked == [2, 2, 2, 1]


def test_a_single_frame_that_memory_does_not_suffice_for_fails(renderer: Renderer, walk: MakeSpec) -> None:
    asked = limit_memory(renderer, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        renderer.render(walk(), POSITIONS)
    assert asked == [8, 4, 2, 1]


def test_memory_that_runs_out_in_the_decoder_halves_only_what_is_decoded(
    renderer: Renderer, walk: MakeSpec
) -> None:
    renderer.warm_up(64)
    latents = renderer._decoded[0].numpy()[:5] * np.arange(1, 6, dtype=np.float32)[:, None, None, None]
    pairs = renderer.decode(walk(), latents, batch_size=2)
    asked: list[int] = []

    def allocate(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        asked.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = renderer.pipeline.vae.decoder.register_forward_pre_hook(allocate)
    decoded = renderer.decode(walk(), latents)
    assert asked == [8, 4, 2, 2, 2]
    assert (decoded.batch_size, renderer.batch_that_fits(walk(), 8, decoded=True)) == (2, 2)
    assert renderer.batch_that_fits(walk(), 8) == 8
    assert difference(decoded.pictures, pairs.pictures) == 0
    assert len(np.unique(decoded.pictures, axis=0)) == 5
    handle.remove()


def test_another_error_does_not_halve_the_batch(renderer: Renderer, walk: MakeSpec) -> None:
    asked = limit_memory(renderer, 0, RuntimeError("an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        renderer.render(walk(), POSITIONS)
    assert asked == [8]


def test_a_frame_of_a_halved_batch_has_another_content_hash(renderer: Renderer, walk: MakeSpec) -> None:
    def hashes() -> tuple[str, ...]:
        wanted = RenderRequest(
            walk_id=UUID(int=1),
            secret="",
            model="m",
            spec=walk(),
            positions=(0.5,),
            to_upload=frozenset(),
            batch_size=8,
        )
        return render_batch(renderer, wanted, Never()).content_hashes

    made_with = renderer.made_with.model_dump_json()
    assert hashes() == content_hashes(walk(), [0.5], made_with, 8)
    limit_memory(renderer, 4, torch.OutOfMemoryError("CUDA out of memory"))
    renderer.render(walk(), POSITIONS)
    assert hashes() == content_hashes(walk(), [0.5], made_with, 4)


def test_large_frames_are_decoded_one_by_one_and_the_largest_in_tiles(renderer: Renderer) -> None:
    vae = renderer.pipeline.vae
    shapes: list[tuple[int, ...]] = []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))

    def decoded(width: int, height: int) -> list[tuple[int, ...]]:
        shapes.clear()
        memory.fit_decoder(vae, width * height)
        with torch.inference_mode():
            vae.decode(torch.zeros(2, 4, height // 8, width // 8))
        return shapes

    assert decoded(64, 64) == [(2, 4, 8, 8)]
    assert decoded(512, 512) == [(1, 4, 64, 64)] * 2
    assert len(decoded(1056, 1024)) > 2
    assert {rows for rows, *_ in shapes} == {1}
    assert decoded(64, 64) == [(2, 4, 8, 8)]


def test_a_model_that_waits_in_the_memory_of_the_machine_makes_the_same_pictures(
    renderer: Renderer, model: str, walk: MakeSpec
) -> None:
    waiting = Renderer(model, batch_size=8, dtype="float32", device="cpu", offload="model")
    assert waiting.revision == renderer.revision
    for ordered in (walk(), walk(guidance=4.0, steps=2)):
        expected = renderer.render(ordered, POSITIONS).pictures
        assert difference(waiting.render(ordered, POSITIONS).pictures, expected) == 0
    assert hasattr(waiting.denoiser, "_hf_hook")


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_device_is_the_fastest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == device


@pytest.mark.parametrize(("denoiser", "dtype"), [("unet", torch.float16), ("transformer", torch.bfloat16)])
def test_transformers_never_compute_in_float16_by_themselves(denoiser: Any, dtype: torch.dtype) -> None:
    for device in ("cuda", "mps"):
        assert fastest_dtype(torch.device(device), denoiser) == dtype


@pytest.mark.parametrize("name", ["stable_diffusion", "sana"])
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # inside samplers
def test_no_float64_is_handed_to_the_device_since_mps_has_none(
    name: str, tmp_path: Path, walk: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(saved(name, tmp_path), batch_size=2, dtype="float32", device="cpu")
    kind: Any = type(renderer.pipeline)
    original, calls = kind.__call__, []

    @wraps(original)
    def called(pipeline: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        return original(pipeline, **arguments)

    monkeypatch.setattr(kind, "__call__", called)
    noise: list[torch.dtype] = []
    renderer.denoiser.register_forward_pre_hook(lambda _, inputs: noise.extend(each.dtype for each in inputs[:1]))
    renderer.render(walk(interpolation="slerp", guidance=4.0, seed_to=8), POSITIONS[1:3])
    [arguments] = calls
    given = [each for each in arguments.values() if torch.is_tensor(each)]
    assert {each.dtype for each in given} == {torch.float32}
    assert {each.device.type for each in arguments["generator"]} == {"cpu"}, "other devices draw other noise"
    assert torch.float64 not in noise
