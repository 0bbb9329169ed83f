"""The benchmark for GPUs, on this machine's processors and in small."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, quality

PARAMETERS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "flux": {
        "transformer": 11_891_178_560,
        "vae": 83_819_683,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
    },
}
"""How many numbers the published weights have."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the compiler
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", gpu.ARCHITECTURES)
def test_every_contestant_renders(name: str, tmp_path: Path) -> None:
    lines = list(gpu.measure(name, torch.device("cpu"), tmp_path, short=True))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [(row[0], row[1]) for row in rows[1:6]] == [
        ("stock pipeline", "1"),
        ("stock pipeline", "2"),
        ("stock pipeline, compiled", "1"),
        ("stock pipeline, compiled", "2"),
        ("worker of MoMALisa", "2"),
    ], lines
    assert all(float(row[2]) > 0 for row in rows[1:6])
    assert "A frame takes 0.0 ×" not in lines[0]
    assert "÷ the fastest stock form" in [row[0] for row in rows]


def test_each_architecture_has_a_place_in_the_document() -> None:
    page = quality.PAGE.read_text()
    for name in gpu.ARCHITECTURES:
        assert f"<!-- bench-gpu-{name} -->" in page


def test_without_a_gpu_only_the_short_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench-gpu", "sd15"])
    monkeypatch.setattr(gpu, "best_device", lambda: "cpu")
    with pytest.raises(SystemExit, match="needs a GPU"):
        gpu.main()


@pytest.mark.parametrize("name", gpu.ARCHITECTURES)
def test_architectures_are_as_large_as_the_published_ones(name: str) -> None:
    made = gpu.ARCHITECTURES[name].make(torch.device("meta"))
    sizes = {
        part: sum(weights.numel() for weights in module.parameters())
        for part, module in made.components.items()
        if isinstance(module, torch.nn.Module)
    }
    assert sizes == PARAMETERS[name]
