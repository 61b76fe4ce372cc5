"""Build hook: in an editable install, `import despina` finds this checkout; a wheel has the native library inside.

Without a C++ compiler or Python's headers the wheel is pure Python, and the build says what is missing. With
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
            self._add_native(build_data)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def _add_native(self, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        from native.build import CannotBuild, build

        self._folder = tempfile.TemporaryDirectory()
        built = Path(self._folder.name, "built")
        try:
            build(built, version=self.metadata.version, for_this_python=False)
        except CannotBuild as problem:
            if os.environ.get("DESPINA_REQUIRE_NATIVE") == "1":
                raise
            self.app.display_warning(f"The wheel is without the native library and its C API: {problem}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["pure_python"] = False
        build_data["force_include"][str(built)] = "native/built"  # below the package, as all sources
