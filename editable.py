"""Build hook: in an editable install, `import despina` finds this checkout; a wheel has the native library inside, and
the modules on a request's way as machine code beside their sources.

Without compilers or Python's headers the wheel is pure Python, and the build says what is missing. With
DESPINA_REQUIRE_NATIVE=1 that is an error.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableHook(BuildHookInterface[Any]):
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            link = Path(self.root, ".editable", "despina")
            if not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to("..", target_is_directory=True)
        elif self.target_name == "wheel":
            sys.path.insert(0, self.root)
            self._folder = tempfile.TemporaryDirectory()
            tag = "cp311-abi3" if self._add_native(build_data) else None
            if self._add_compiled(build_data):
                tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
                tag = f"{tag}-{tag}"
            if tag is not None:
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["tag"] = f"{tag}-{platform}"
                build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def _add_native(self, build_data: dict[str, Any]) -> bool:
        from native.build import CannotBuild, build

        built = self._made() / "built"
        try:
            build(built, version=self.metadata.version, for_this_python=False)
        except CannotBuild as problem:
            self._do_without("the native library and its C API", problem)
            return False
        build_data["force_include"][str(built)] = "native/built"  # below the package, as all sources
        return True

    def _add_compiled(self, build_data: dict[str, Any]) -> bool:
        from native.build import CannotBuild
        from native.compiled import compile_modules

        made = self._made() / "compiled"
        try:
            modules = compile_modules(Path(self.root), made)
        except CannotBuild as problem:
            self._do_without("compiled modules, and slower for that", problem)
            return False
        for module in modules:
            build_data["force_include"][str(module)] = str(module.relative_to(made / "despina"))
        return True

    def _made(self) -> Path:
        assert self._folder is not None, "made before anything is built"
        return Path(self._folder.name)

    def _do_without(self, what: str, problem: Exception) -> None:
        if os.environ.get("DESPINA_REQUIRE_NATIVE") == "1":
            raise problem
        self.app.display_warning(f"The wheel is without {what}: {problem}")
