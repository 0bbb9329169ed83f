"""One render worker for each GPU of a machine; the program that lists them is a stand-in."""

from pathlib import Path

import pytest

from momalisa.local import gpus
from momalisa.local.processes import Child
from momalisa.local.stack import LocalStack
from momalisa.settings import settings


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo GPU-{name}\n" for name in "abc"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("CUDA_VISIBLE_DEVICES", "DEVICE", "WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Child, "start", lambda _: None)
    monkeypatch.setattr(LocalStack, "_until_ready", lambda *_: None)
    settings.cache_clear()


def devices(folder: Path, workers: int | None = None) -> list[str | None]:
    """Return which GPU each render worker of a system sees."""
    system = LocalStack(folder, workers=workers)
    (folder / "logs").mkdir(exist_ok=True)
    system._start_parts()
    return [
        child.variables.get("CUDA_VISIBLE_DEVICES")
        for name, child in system.children.items()
        if name.startswith("render-")
    ]


def test_each_gpu_has_a_worker(tmp_path: Path) -> None:
    assert devices(tmp_path) == ["GPU-a", "GPU-b", "GPU-c"]
    assert devices(tmp_path, workers=4) == ["GPU-a", "GPU-b", "GPU-c", "GPU-a"]


@pytest.mark.parametrize(("given", "seen"), [("1,2", ["1", "2"]), ("", []), ("-1", [])])
def test_only_gpus_that_are_visible_here_count(
    monkeypatch: pytest.MonkeyPatch, given: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible() == seen


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_workers_on_another_device_are_not_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("DEVICE", device)
    settings.cache_clear()
    assert devices(tmp_path) == [None, None]


def test_a_driver_that_does_not_work_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert gpus.visible() == []
