"""The denoiser, compiled for one batch shape: once per machine, then loaded by its workers within a second.

PyTorch's ahead-of-time compiler writes a package with kernels for this processor, shape, number of threads and
weights. The first worker compiles it while the others wait; only that needs a C++ compiler.

That is for UNets. Of transformers, which are larger and take prompts of many lengths, only the blocks that they
repeat are compiled, when they are first used.
"""

import fcntl
import hashlib
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch._inductor.cpp_builder import get_cpp_compiler

from momalisa.settings import set_default_environment
from momalisa.telemetry.logging import logger

log = logger(__name__)

NAMES = ("sample", "timestep", "encoder_hidden_states", "added_cond_kwargs")
"""The arguments of a denoiser that hold tensors; the last one is a dictionary or None."""


def compile_for(unet: Any, call: dict[str, Any], folder: Path) -> bool:
    """Make a denoiser use compiled code for calls with the same shapes as `call`, and eager code for all others.

    Returns False and leaves the denoiser as it is if it cannot be compiled; the log gives the reason.

    Args:
        unet: the denoiser of a diffusers pipeline.
        call: the arguments of an example call, by name.
        folder: the cache of packages, shared by all workers of a machine.
    """
    try:
        run = _load(_package(unet, call, folder), unet.device)
    except Exception as error:  # noqa: BLE001 - the denoiser works without it
        log.warning("denoiser not compiled", reason=f"{type(error).__name__}: {error}".splitlines()[0])
        return False
    eager, shapes = unet.forward, _shapes(call)

    def forward(sample: Any, timestep: Any, **named: Any) -> Any:
        given = {"sample": sample, "timestep": timestep, **named}
        return (run(*_inputs(given)),) if _shapes(given) == shapes else eager(sample, timestep, **named)

    unet.forward = forward
    return True


def compile_blocks(denoiser: Any, folder: Path, render: Callable[[], object]) -> bool:
    """Have a transformer compile the blocks that it repeats, once for all shapes.

    Returns False, and leaves it as it is, if it has none or they cannot be compiled; the log gives the reason.

    Args:
        denoiser: a part of a pipeline of diffusers.
        folder: the cache of compiled code, shared by all workers of a machine.
        render: renders something, for which the blocks are compiled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    set_default_environment(TORCHINDUCTOR_CACHE_DIR=str(folder))
    started = time.monotonic()
    try:
        if denoiser.device.type == "cpu":
            get_cpp_compiler()
        # For all shapes: code for one shape only would depend on which came first.
        denoiser.compile_repeated_blocks(dynamic=True)
        render()
    except Exception as error:  # noqa: BLE001 - whatever it is, the denoiser works without
        for module in denoiser.modules():
            module._compiled_call_impl = None
        log.warning("denoiser not compiled", reason=f"{type(error).__name__}: {error}".splitlines()[0])
        return False
    log.info("denoiser compiled", seconds=round(time.monotonic() - started))
    return True


def _load(package: Path, device: torch.device) -> Callable[..., torch.Tensor]:
    """Return the compiled code, a function of `_inputs`."""
    return AlignedCode(package) if device.type == "cpu" else aoti_load_package(str(package))


class AlignedCode:
    """Compiled code for a CPU, with its weights aligned to cache lines.

    PyTorch's own loader puts them where `malloc` does (`RAII_cpuMalloc` in `aoti_runtime/model_base.h`), possibly
    in the middle of cache lines. Then each row of the tiles that AMX multiplies spans two lines.
    """

    def __init__(self, package: Path) -> None:
        with zipfile.ZipFile(package) as files, tempfile.TemporaryDirectory() as folder:
            [library] = (name for name in files.namelist() if name.endswith(".so"))
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(files.extract(library, folder), 1)
        found = self._runner.extract_constants_map(False)  # the active ones
        names = self._runner.get_constant_names_to_original_fqns()
        self.weights = {name: _moved(found[original]) for name, original in names.items()}
        """By their names in the code. It reads them from here, so they must live as long as it does."""
        self._runner.update_constant_buffer(
            self.weights, use_inactive=False, validate_full_updates=True, user_managed=True
        )

    def __call__(self, *inputs: Any) -> torch.Tensor:
        """Run the code on the tensors in `inputs`."""
        tensors = filter(torch.is_tensor, torch.utils._pytree.tree_leaves(inputs))
        predicted: torch.Tensor = self._runner.run(list(tensors))[0]
        return predicted


def _moved(weights: torch.Tensor) -> torch.Tensor:
    """Return a copy of weights with the same layout, in PyTorch's own memory, aligned to cache lines."""
    if weights.layout != torch.strided:  # packed by oneDNN
        return weights.clone()
    return torch.empty_strided(weights.shape, weights.stride(), dtype=weights.dtype).copy_(weights)


class _Denoiser(torch.nn.Module):
    """The denoiser as a function of tensors only, without its hooks."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Any, timestep: Any, states: Any, added: Any) -> torch.Tensor:
        named = {"encoder_hidden_states": states, "added_cond_kwargs": added, "return_dict": False}
        predicted: torch.Tensor = self.unet.forward(sample, timestep, **named)[0]
        return predicted


def _package(unet: Any, call: dict[str, Any], folder: Path) -> Path:
    """Return the compiled package of a denoiser, and compile it unless it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"{_key(unet, call)}.pt2"
    with package.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            get_cpp_compiler()  # fails now if there is none, rather than after a minute
            log.info("compiling the denoiser")
            started = time.monotonic()
            new = package.with_suffix(".new.pt2")
            with torch.no_grad():
                exported = torch.export.export(_Denoiser(unet), _inputs(call))
                aoti_compile_and_package(exported, package_path=str(new), inductor_configs={"freezing": True})
            new.rename(package)
            log.info("denoiser compiled", seconds=round(time.monotonic() - started))
    return package


def _key(unet: Any, call: dict[str, Any]) -> str:
    """Return the hexadecimal hash of everything that a package depends on."""
    device = unet.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else dict(torch.cpu.get_capabilities())
    attention = sorted({type(processor).__qualname__ for processor in unet.attn_processors.values()})
    facts = [torch.__version__, processor, torch.get_num_threads(), _shapes(call), dict(unet.config), attention]
    key = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode())
    for name, weights in unet.state_dict().items():
        key.update(name.encode())
        key.update(weights.contiguous().flatten().view(torch.uint8).cpu().numpy())
    return key.hexdigest()[:32]


def _shapes(call: dict[str, Any]) -> list[object]:
    """Return the shapes and types of the tensors of a call, and its other arguments."""
    tensors = torch.utils._pytree.tree_flatten([call.get(name) for name in NAMES])[0]
    known = [(tuple(each.shape), str(each.dtype)) if torch.is_tensor(each) else each for each in tensors]
    return [
        *known,
        *sorted((name, value) for name, value in call.items() if name not in NAMES and value is not None),
    ]


def _inputs(call: dict[str, Any]) -> tuple[Any, ...]:
    """Return the tensors of a call as contiguous tensors, which compiled code requires."""
    plain = torch.utils._pytree.tree_map_only(
        torch.Tensor, torch.Tensor.contiguous, [call.get(name) for name in NAMES]
    )
    return tuple(plain)
