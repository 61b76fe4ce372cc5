"""All of the walk: `python -m tests.walk`. It makes fresh environments, fetches packages, and takes minutes.

nginx and Prometheus are those on the PATH, or what DESPINA_NGINX and DESPINA_PROMETHEUS name.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.walk import operator, readme, service_manager
from tests.walk.served import served
from tests.walk.shown import first_minutes
from tests.walk.walking import Walk

CHECKOUT = Path(__file__).resolve().parents[2]
BASE_BYTES_MAX = 60_000_000
RESIDENT_BYTES_MAX = 110_000_000
STARTS = 5
THREE = ("addsub", "magika", "silero_vad")


def main() -> int:
    walk = Walk()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a person's Python keeps what it has compiled
    with tempfile.TemporaryDirectory(prefix="walk") as name:
        folder = Path(name)
        copy = readme.copied(CHECKOUT, folder)
        walk.chapter("Somebody reads the README")
        with walk.step("make serve and what follows can be tried here"):
            readme.two_commands(walk, copy)
        walk.chapter("Somebody installs it by pip")
        programs = readme.fresh_venv(folder / "fresh")
        with walk.step("pip install .: what it takes beside numpy and onnxruntime"):
            readme.installed(programs, ["."], copy)
            _base_install(walk, programs)
        with walk.step("pip install .[cpu]"):
            readme.installed(programs, [".[cpu]"], copy)
        despina = programs / "despina"
        models = folder / "models"
        models.mkdir()
        for model in THREE:
            (models / model).symlink_to(copy / "examples" / "models" / model)
        first_minutes(walk, despina, models, folder)
        with walk.step("start to ready, memory and stop, with three ONNX models"):
            _figures(walk, despina, models, folder)
        walk.chapter("Somebody operates it")
        operator.ends_under_load(walk, despina, models, folder)
        operator.replaced_behind_nginx(walk, despina, models, folder)
        options = ("--model-control-mode=explicit", "--load-model=*")
        with served(despina, models, folder / "watched", *options) as server:
            operator.rotated(walk, server)
            operator.scraped(walk, server, folder / "prometheus")
        service_manager.notified(walk, despina, models, folder / "notified")
        service_manager.bitten(walk, despina, folder / "bitten")
    return walk.close()


def _base_install(walk: Walk, programs: Path) -> None:
    (packages,) = programs.parent.glob("lib/python*/site-packages")
    left_out = ("numpy", "onnxruntime", "pip", "setuptools", "pkg_resources", "_distutils_hack")
    sizes = {
        entry.name: sum(file.stat().st_size for file in [entry, *entry.rglob("*")] if file.is_file())
        for entry in packages.iterdir()
        if not entry.name.startswith(left_out)
    }
    total = sum(sizes.values())
    walk.note(f"{total / 1e6:.1f} MB in {len(sizes)} entries")
    assert total <= BASE_BYTES_MAX, sorted(sizes.items(), key=lambda item: -item[1])[:10]


def _figures(walk: Walk, despina: Path, models: Path, folder: Path) -> None:
    starts, stops, resident = [], [], 0
    for turn in range(STARTS):
        began = time.monotonic()
        with served(despina, models, folder / f"start{turn}") as server:
            server.get("/v2/health/ready")
            starts.append(time.monotonic() - began)
            pages = int(Path(f"/proc/{server.child.pid}/statm").read_text().split()[1])
            resident = pages * os.sysconf("SC_PAGE_SIZE")
            began = time.monotonic()
            assert server.terminate() == 0
            stops.append(time.monotonic() - began)
    walk.note(f"ready after {min(starts):.2f} s, gone after {min(stops):.2f} s (the best of {STARTS})")
    walk.note(f"resident: {resident / 1e6:.0f} MB")
    assert resident <= RESIDENT_BYTES_MAX


if __name__ == "__main__":
    sys.exit(main())
