"""A clock that can be set: libfaketime, loaded into a program, reads the offset of its clock from a file."""

import shutil
from pathlib import Path

from momalisa.settings import ROOT

FOLDERS = [ROOT / ".venv" / "lib", *Path("/usr").glob("lib*/faketime"), *Path("/usr/lib").glob("*/faketime")]
LIBRARY = next((file for folder in FOLDERS if (file := folder / "libfaketime.so.1").exists()), None)


class Clock:
    """The clock of programs that run with `variables`."""

    def __init__(self, folder: Path) -> None:
        """Create a clock without an offset.

        Args:
            folder: a folder that those programs can read as any user.
        """
        assert LIBRARY
        self.hours = 0
        """The offset."""
        self._file = folder / "clock"
        library = folder / LIBRARY.name
        shutil.copy(LIBRARY, library)
        library.chmod(0o755)
        self.step(0)
        self.variables = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1",
            "DONT_FAKE_MONOTONIC": "1",  # a monotonic clock does not step
        }

    def step(self, hours: int) -> None:
        """Set the offset, at once for every program."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{hours * 3600:+d}\n")
        new.chmod(0o644)
        new.rename(self._file)
        self.hours = hours
