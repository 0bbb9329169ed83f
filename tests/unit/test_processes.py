"""What a process of the system may ask of the machine."""

import platform
import subprocess
import sys

import pytest

from momalisa.settings import ROOT

KEPT = """
import resource, numpy
from momalisa.processes import keep_memory
keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(128 * 2**20, numpy.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_that_is_freed_is_kept_for_what_comes_next() -> None:
    told = subprocess.run([sys.executable, "-c", KEPT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, second = map(int, told.split())
    assert first > 100
    assert second < first / 10
