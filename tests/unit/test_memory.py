"""A process keeps freed memory, as its page faults show."""

import platform
import subprocess
import sys

import pytest

from momalisa.settings import ROOT

KEPT = """
import resource
from worker.rendering.malloc import keep_memory
keep_memory()
size = 2**28  # 128 pages at least, however large the system makes them
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"\\1" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_for_later_blocks() -> None:
    out = subprocess.run([sys.executable, "-c", KEPT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, second = map(int, out.split())
    assert first > 100
    assert second < first / 10
