"""The GPUs of this machine, without torch."""

import shutil
import subprocess

from momalisa.settings import environment, settings

SECONDS = 20


def visible() -> list[str]:
    """Return the GPUs of NVIDIA that workers are spread over, each as CUDA_VISIBLE_DEVICES names it.

    There are none if DEVICE names a certain one, such as `cuda:1`: a worker that sees a single GPU has no second.
    """
    if settings().device not in {None, "", "cuda"} or settings().renderer == "vertex":
        return []
    given = environment().get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [each.strip() for each in given.split(",") if each.strip() not in {"", "-1", "NoDevFiles"}]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)  # noqa: S603
    except (subprocess.SubprocessError, OSError):  # a driver that does not work, so workers use the CPU
        return []
    return listed.stdout.split()
