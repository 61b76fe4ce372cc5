"""What the distributions contain and what `import despina` gives."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tarfile
import zipfile

import despina
import pytest

PARTS = ("schema", "engine", "backends", "frontends")


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """Both distributions, built once with the build backend itself, so that nothing is downloaded."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL, timeout=120)
    return folder


def sources(checkout, *parts):
    """Paths of the parts' tracked kinds of files, relative to the checkout."""
    return {
        str(path.relative_to(checkout))
        for part in parts
        for path in (checkout / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix in {".py", ".proto", ".binpb", ".html"}
    }


def test_wheel_holds_the_package_and_nothing_else(built, checkout):
    """Goal: the wheel has every module under `despina/`, the type marker, the licence, and no tests."""
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"despina/__init__.py", "despina/py.typed"} <= names
    missing = {f"despina/{name}" for name in sources(checkout, *PARTS)} - names
    assert not missing
    strangers = {
        name for name in names if not name.startswith(("despina/", f"despina-{despina.__version__}.dist-info/"))
    }
    assert not strangers
    assert not [name for name in names if name.startswith(("despina/tests", "despina/examples", "despina/fuzz"))]
    assert any(name.endswith("LICENSE") for name in names)


def test_source_distribution_can_run_the_tests(built, checkout):
    """Goal: the sdist has the package, its tests, the build hook and the licence, and no environment or cache."""
    (sdist,) = built.glob("*.tar.gz")
    prefix = f"despina-{despina.__version__}/"
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(prefix) for name in archive.getnames()}
    assert {"pyproject.toml", "editable.py", "Makefile", "README.md", "LICENSE", "tests/test_packaging.py"} <= names
    assert not sources(checkout, *PARTS) - names
    assert not [name for name in names if name.startswith((".venv", ".editable", ".git/"))]


def packages():
    return ["despina", *(f"despina.{part}" for part in PARTS)] + [
        module.name
        for part in PARTS
        for module in pkgutil.walk_packages(
            importlib.import_module(f"despina.{part}").__path__, f"despina.{part}.", onerror=lambda name: None
        )
        if module.ispkg and "generated" not in module.name
    ]


@pytest.mark.parametrize("name", packages())
def test_exported_names_exist(name):
    """Goal: every package can be imported and has every name it promises in `__all__`."""
    package = importlib.import_module(name)
    promised = list(getattr(package, "__all__", ()))
    assert len(promised) == len(set(promised))
    assert [word for word in promised if not hasattr(package, word)] == []


def test_importing_despina_brings_no_framework():
    """Goal: frameworks and frontends are paid for when used; a fresh interpreter shows what an import drags in."""
    heavy = "{'onnxruntime', 'torch', 'openvino', 'tensorrt', 'cupy', 'hypercorn', 'rich'}"
    code = f"import despina, sys; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
