"""The browser of tests, screenshots and measurements: the system's Chromium, or else Playwright's own."""

import os
from pathlib import Path
from typing import Any

SYSTEM = Path("/usr/bin/chromium")


def launch_options() -> dict[str, Any]:
    """Return the options of Playwright's `launch`."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    arguments = [*quiet, "--no-sandbox"] if os.geteuid() == 0 else quiet
    found = {"executable_path": str(SYSTEM)} if SYSTEM.exists() else {}
    return {**found, "args": arguments}
