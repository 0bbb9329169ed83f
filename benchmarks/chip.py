"""How fast a processor or a GPU computes."""

import time

import torch

DATA_SHEETS = {
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
"""Operations per second in half precision (dense) by NVIDIA's data sheets, by the name of the GPU in CUDA."""

SIDE, TRIES = 4096, 5
"""Size of the matrices that measure the speed of others, and number of products."""


def name(device: torch.device) -> str:
    """Return what a device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronize(device: torch.device) -> None:
    """Wait until a device has computed what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def peak(device: torch.device) -> tuple[float, str]:
    """Return how many operations per second a device is capable of in half precision, and where that is from."""
    if (chip := name(device)) in DATA_SHEETS:
        return DATA_SHEETS[chip], "by its data sheet"
    side = SIDE if device.type != "cpu" else SIDE // 8
    return product_rate(device, torch.bfloat16, side), "measured in a large matrix product"


def product_rate(device: torch.device, dtype: torch.dtype, side: int = SIDE) -> float:
    """Return the operations per second of the fastest of TRIES products of large matrices."""
    matrix = torch.randn(side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(TRIES):
        synchronize(device)
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
