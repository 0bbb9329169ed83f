"""The denoiser compiled for one shape of batch: made once on a machine, then loaded by its workers in a moment.

PyTorch's ahead-of-time compiler writes a package with kernels for this very processor, shape, number of threads and
weights. The first process makes it while the others wait; only making it needs a C++ compiler.
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

from momalisa.telemetry.logging import logger

log = logger(__name__)

NAMES = ("sample", "timestep", "encoder_hidden_states", "added_cond_kwargs")
"""The arguments of a denoiser that hold tensors, the last one in a dictionary or not at all."""


def compile_for(unet: Any, call: dict[str, Any], folder: Path) -> bool:
    """Have a denoiser answer calls that look like one with compiled code; all other calls go the usual way.

    Returns False, and leaves the denoiser as it is, if it cannot be compiled; the log says why.

    Args:
        unet: the denoiser, a part of a pipeline of diffusers.
        call: the arguments of a call of it, by name.
        folder: where packages are kept, shared by all workers of a machine.
    """
    try:
        run = _load(_package(unet, call, folder), unet.device)
    except Exception as error:  # noqa: BLE001 - whatever it is, the denoiser works without
        log.warning("not compiled", reason=f"{type(error).__name__}: {error}".splitlines()[0])
        return False
    usual, form = unet.forward, _form(call)

    def forward(sample: Any, timestep: Any, **named: Any) -> Any:
        seen = {"sample": sample, "timestep": timestep, **named}
        return (run(*_inputs(seen)),) if _form(seen) == form else usual(sample, timestep, **named)

    unet.forward = forward
    return True


def _load(package: Path, device: torch.device) -> Callable[..., torch.Tensor]:
    """Return what was compiled: a function of `_inputs`."""
    return AlignedCode(package) if device.type == "cpu" else aoti_load_package(str(package))


class AlignedCode:
    """Compiled code for a CPU, whose weights begin where cache lines do.

    PyTorch's own loader puts them wherever `malloc` does (`RAII_cpuMalloc` in its `aoti_runtime/model_base.h`), by
    chance in the middle of cache lines. Each of the tiles that AMX multiplies then takes two lines a row.
    """

    def __init__(self, package: Path) -> None:
        with zipfile.ZipFile(package) as files, tempfile.TemporaryDirectory() as folder:
            [library] = (name for name in files.namelist() if name.endswith(".so"))
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(files.extract(library, folder), 1)
        found = self._runner.extract_constants_map(False)  # those in use
        names = self._runner.get_constant_names_to_original_fqns()
        self.weights = {name: _moved(found[original]) for name, original in names.items()}
        """By the name that the code has for them, which uses them here: they must live as long as it does."""
        self._runner.update_constant_buffer(
            self.weights, use_inactive=False, validate_full_updates=True, user_managed=True
        )

    def __call__(self, *inputs: Any) -> torch.Tensor:
        """Return what the code makes of the tensors in `inputs`."""
        tensors = filter(torch.is_tensor, torch.utils._pytree.tree_leaves(inputs))
        predicted: torch.Tensor = self._runner.run(list(tensors))[0]
        return predicted


def _moved(weights: torch.Tensor) -> torch.Tensor:
    """Return weights laid out as they were, in memory of PyTorch's own, which begins where a cache line does."""
    if weights.layout != torch.strided:  # as oneDNN has packed them
        return weights.clone()
    return torch.empty_strided(weights.shape, weights.stride(), dtype=weights.dtype).copy_(weights)


class _Denoiser(torch.nn.Module):
    """The denoiser as a function of tensors alone, without the hooks around it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Any, timestep: Any, states: Any, added: Any) -> torch.Tensor:
        named = {"encoder_hidden_states": states, "added_cond_kwargs": added, "return_dict": False}
        predicted: torch.Tensor = self.unet.forward(sample, timestep, **named)[0]
        return predicted


def _package(unet: Any, call: dict[str, Any], folder: Path) -> Path:
    """Return the compiled package of a denoiser, which is made unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"{_key(unet, call)}.pt2"
    with package.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            get_cpp_compiler()  # or it would be missed after a minute of work
            log.info("compiling the denoiser")
            started = time.monotonic()
            new = package.with_suffix(".new.pt2")
            with torch.no_grad():
                exported = torch.export.export(_Denoiser(unet), _inputs(call))
                aoti_compile_and_package(exported, package_path=str(new), inductor_configs={"freezing": True})
            new.rename(package)
            log.info("compiled the denoiser", seconds=round(time.monotonic() - started))
    return package


def _key(unet: Any, call: dict[str, Any]) -> str:
    """Return what a package depends on, in hexadecimal digits."""
    device = unet.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else dict(torch.cpu.get_capabilities())
    attention = sorted({type(processor).__qualname__ for processor in unet.attn_processors.values()})
    facts = [torch.__version__, processor, torch.get_num_threads(), _form(call), dict(unet.config), attention]
    key = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode())
    for name, weights in unet.state_dict().items():
        key.update(name.encode())
        key.update(weights.contiguous().flatten().view(torch.uint8).cpu().numpy())
    return key.hexdigest()[:32]


def _form(call: dict[str, Any]) -> list[object]:
    """Return all about a call but its numbers: the shapes and types of the tensors, and what else is asked for."""
    tensors = torch.utils._pytree.tree_flatten([call.get(name) for name in NAMES])[0]
    shapes = [(tuple(each.shape), str(each.dtype)) if torch.is_tensor(each) else each for each in tensors]
    return [
        *shapes,
        *sorted((name, value) for name, value in call.items() if name not in NAMES and value is not None),
    ]


def _inputs(call: dict[str, Any]) -> tuple[Any, ...]:
    """Return the tensors of a call, laid out plainly, as compiled code takes for granted."""
    plain = torch.utils._pytree.tree_map_only(
        torch.Tensor, torch.Tensor.contiguous, [call.get(name) for name in NAMES]
    )
    return tuple(plain)
