"""Compiled denoisers, and models where there is no compiler."""

import ctypes
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from momalisa.domain.spec import WalkSpec
from momalisa.settings import settings
from tests.pictures import HALF_PRECISION_MEAN, difference, mean_difference
from tests.tiny_pipelines import saved
from worker.rendering.compiled import AlignedCode
from worker.rendering.pipeline import Renderer

CACHE_LINE = 64
"""Bytes."""

MakeSpec = Callable[..., WalkSpec]


def with_small_denoiser(folder: Path) -> str:
    """The bundled model with a small untrained denoiser, which compiles in seconds."""
    torch.manual_seed(7)
    denoiser = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=256,
        attention_head_dim=4,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(settings().model, unet=denoiser, low_cpu_mem_usage=False)
    pipeline.save_pretrained(folder)
    return str(folder)


def address(weights: torch.Tensor) -> int:
    """Return the address of weights; for weights packed by oneDNN only PyTorch's C interface tells it."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    content = ctypes.pythonapi.PyCapsule_GetPointer
    content.restype, content.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    handle = ctypes.c_void_p(content(torch._C._aoti.unsafe_alloc_void_ptr_from_tensor(weights), None))
    found = ctypes.c_void_p()
    assert library.aoti_torch_get_data_ptr(handle, ctypes.byref(found)) == 0
    library.aoti_torch_delete_tensor_object(handle)
    assert found.value
    return found.value


@pytest.mark.skipif(sys.platform != "linux", reason="compiled packages are looked into as they are on Linux")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler on this machine")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the compiler
def test_a_compiled_denoiser_makes_the_same_pictures_and_is_compiled_once(spec: MakeSpec, tmp_path: Path) -> None:
    model = with_small_denoiser(tmp_path / "model")
    plain = Renderer(model, batch_size=2)
    usual = spec(width=64, height=64)
    made = set()
    for _ in range(2):
        compiled = Renderer(model, batch_size=2)
        compiled.compile(64, tmp_path / "compiled")
        [package] = (tmp_path / "compiled").glob("*.pt2")
        made.add(package.stat().st_mtime_ns)
        first = compiled.render(usual, [0.0, 0.5, 1.0]).pictures
        assert difference(first, compiled.render(usual, [0.0, 0.5, 1.0]).pictures) == 0
        assert mean_difference(first, plain.render(usual, [0.0, 0.5, 1.0]).pictures) < HALF_PRECISION_MEAN
    assert len(made) == 1
    loaded = [AlignedCode(package) for _ in range(4)]  # each allocates in another state of memory
    assert {address(weights) % CACHE_LINE for code in loaded for weights in code.weights.values()} == {0}
    for other in (spec(), spec(width=64, height=64, guidance=1.0)):  # another size, or half as many rows
        assert difference(compiled.render(other, [0.0]).pictures, plain.render(other, [0.0]).pictures) == 0


@pytest.mark.parametrize("name", ["stable_diffusion", "flux"])
def test_without_a_compiler_unets_and_transformers_render_uncompiled(
    name: str, spec: MakeSpec, tmp_path: Path
) -> None:
    renderer = Renderer(saved(name, tmp_path), batch_size=2, dtype="float32", device="cpu")
    with inductor.patch({"cpp.cxx": ("nowhere-c++",)}):
        assert not renderer.compile(64, tmp_path / "compiled")
    assert list((tmp_path / "compiled").glob("*.pt2")) == []
    assert all(module._compiled_call_impl is None for module in renderer.denoiser.modules())
    assert renderer.render(spec(width=64, height=64), [0.0]).flags == (None,)
