"""The import rules of docs/architecture.md."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from momalisa.settings import ROOT

SOURCES = sorted(path for folder in ("momalisa", "api", "worker") for path in (ROOT / folder).rglob("*.py"))


READERS = {"environ", "environb", "getenv", "getenvb"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("momalisa", {"fastapi", "starlette", "torch", "diffusers", "api", "worker"}),
        ("api", {"torch", "diffusers", "worker"}),
        ("worker", {"fastapi", "starlette", "api"}),
    ],
)
def test_imports_point_inward(folder: str, forbidden: set[str]) -> None:
    found = {
        (path.name, name)
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in forbidden
    }
    assert not found


def test_only_the_rendering_imports_torch() -> None:
    users = {
        path.parent for path in SOURCES for name in imports(path) if name.split(".")[0] in {"torch", "diffusers"}
    }
    assert users == {ROOT / "worker" / "rendering"}


def test_no_test_module_imports_another() -> None:
    found = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in imports(path)
        if name.startswith("tests.") and ".test_" in name
    }
    assert not found, "move what they share to a module of its own"


def package_of(module: str) -> str:
    """Return the package of a module, or the module itself if it is in no subpackage."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", ["momalisa", "api", "worker"])
def test_packages_do_not_import_each_other_in_a_circle(package: str) -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        for name in imports(path):
            if (
                name.startswith(f"{package}.")
                and module.startswith(f"{package}.")
                and package_of(name) != package_of(module)
            ):
                graph.setdefault(package_of(module), set()).add(package_of(name))
    assert len(graph) > 5
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_a_package_of_momalisa_imports_only_packages_above_it_in_the_table() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text()
    packages = re.findall(r"^\| `momalisa/(\w+)/` \|", table, re.MULTILINE)
    assert set(packages) == {path.parent.name for path in (ROOT / "momalisa").glob("*/__init__.py")}
    for path in (ROOT / "momalisa").glob("*/*.py"):
        for name in imports(path):
            package, imported, *_ = (*name.split("."), "")
            if package == "momalisa" and imported in packages:
                assert packages.index(imported) <= packages.index(path.parent.name), (path, name)


@pytest.mark.parametrize("module", ["api.app", "worker.tasks"])
def test_importing_the_api_or_the_tasks_leaves_torch_out(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in READERS)
        or (isinstance(node, ast.alias) and node.name in READERS)
        or (isinstance(node, ast.keyword) and node.arg == "envvar")
    }
    assert readers == {"settings.py"}
