"""Build hook: in an editable install, `import despina` finds this checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        link = Path(self.root, ".editable", "despina")
        if version == "editable" and not link.is_symlink():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to("..", target_is_directory=True)
