"""What the distributions contain and what `import despina` gives."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

import despina
import pytest
from despina.native.compiled import MODULES
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PARTS = ("schema", "engine", "native", "backends", "frontends")


def sources(checkout, *parts):
    """Paths of the parts' tracked kinds of files, relative to the checkout."""
    return {
        str(path.relative_to(checkout))
        for part in parts
        for path in (checkout / part).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix in {".py", ".proto", ".binpb", ".html", ".cc", ".h", ".tsv", ".map"}
    }


def test_wheel_holds_the_package_and_nothing_else(distributions, checkout):
    """Goal: the wheel has every module under `despina/`, the type marker, the licence, and no tests."""
    (wheel,) = distributions.glob("*.whl")
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


def test_source_distribution_can_run_the_tests(distributions, checkout):
    """Goal: the sdist has the package, its tests, the build hook and the licence, and no environment or cache."""
    (sdist,) = distributions.glob("*.tar.gz")
    prefix = f"despina-{despina.__version__}/"
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(prefix) for name in archive.getnames()}
    assert {"pyproject.toml", "editable.py", "Makefile", "README.md", "LICENSE", "tests/test_packaging.py"} <= names
    assert not sources(checkout, *PARTS) - names
    assert not [name for name in names if name.startswith((".venv", ".editable", ".git/"))]


def test_extras_that_are_named_are_there(checkout):
    """Goal: who follows an error's or a page's `pip install 'despina[x]'` gets something, and all-cpu is all of it."""
    with (checkout / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    pages = [path for part in PARTS for path in (checkout / part).rglob("*") if path.suffix in {".py", ".md"}]
    texts = [path.read_text() for path in [checkout / "README.md", checkout / "Makefile", *pages]]
    named = {name for text in texts for group in re.findall(r"despina\[([\w,-]+)\]", text) for name in group.split(",")}
    assert named
    assert not named - extras.keys()
    (everything,) = extras["all-cpu"]
    frameworks = {"onnx", "openvino", "tensorflow", "torch", "trees"}
    assert set(re.findall(r"\w+", everything)) - {"despina"} == frameworks


def test_wheel_has_what_can_be_compiled(distributions):
    """Goal: with compilers the wheel is one for this platform and this Python, else for all."""
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    library = "despina/native/built/lib/libtritonserver.so"
    compiled = {name.partition(".")[0] for name in names if name.endswith(sysconfig.get_config_var("EXT_SUFFIX"))}
    if compiled:
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        assert f"-{python}-{python}-" in wheel.name
        assert compiled == {"despina/compiled__mypyc", *(f"despina/{module}" for module in MODULES)}
        assert library in names
        assert "despina/native/built/include/triton/core/tritonserver.h" in names
    else:
        assert wheel.name.endswith("-py3-none-any.whl")


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
    frameworks = "'onnxruntime', 'torch', 'openvino', 'tensorflow', 'tensorrt', 'cupy', 'xgboost', 'sklearn'"
    heavy = f"{{{frameworks}, 'hypercorn', 'rich'}}"
    code = f"import despina, sys; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_server_begins_without_what_it_does_not_use():
    """Goal: start and memory are not spent on libraries that one door, one verb or one kind of model needs. Method: a
    fresh interpreter imports what `despina serve` does; to see what brought one, run it with `-X importtime`."""
    spared = "{'asyncio', 'h2', 'hypercorn', 'grpclib.server', 'rich', 'onnxruntime', 'opentelemetry', 'obstore'}"
    code = (
        f"import despina.frontends.cli.serve, sys; brought = {spared} & set(sys.modules); assert not brought, brought"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


NOT_COUNTED = {"numpy", "onnxruntime"}
OWN_BYTES_MAX = 60_000_000


def test_a_base_install_stays_small(distributions):
    """Goal: beside numpy and onnxruntime, `pip install despina` takes 60 MB at most, with all that comes with it."""
    wanted, sizes = ["despina"], {}
    while wanted:
        name = wanted.pop()
        if name in sizes or name in NOT_COUNTED:
            continue
        distribution = importlib.metadata.distribution(name)
        files = [distribution.locate_file(file) for file in distribution.files or ()]
        # Byte code is counted by twice its source: it is written by the installer, or by the first import.
        sizes[name] = sum(
            path.stat().st_size * (2 if path.suffix == ".py" else 1)
            for path in files
            if path.suffix != ".pyc" and path.is_file()
        )
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(canonicalize_name(requirement.name))
    (wheel,) = distributions.glob("*.whl")
    sizes["despina"] = sum(
        file.file_size * (2 if file.filename.endswith(".py") else 1) for file in zipfile.ZipFile(wheel).infolist()
    )
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    assert sum(sizes.values()) <= OWN_BYTES_MAX, largest
    assert {"trio", "rich", "hypercorn"} <= sizes.keys()  # they were found
