"""The API over model configurations: read, complete, normalise, validate, write.

config.pbtxt ── parse_config ──┐
                               ├─ complete_names ─ normalise ─ validate [─ validate_io]
JSON ── config_from_json ──────┘        │
                                        └─ the backend completes ─ accept_completion ─ validate ─ validate_io
                                                                        │
config_to_json ◄── normalise_instance_groups ─ validate_instance_groups ◄
"""

from __future__ import annotations

from .config.backend_names import ModelListing, check_directory_name, complete_names
from .config.collecting import collected, refuse_all
from .config.file_names import validate_file_names
from .config.instance_groups import normalise_instance_groups, validate_instance_groups
from .config.normal_form import accept_completion, normalise, scheduling_choice, shape_text
from .config.sequence_states import validate_states
from .config.tensors import validate_io
from .config.validation import config_warnings, validate
from .config_json import config_to_json
from .config_json_reader import config_from_json
from .pbtxt import Complaint, ConfigFault, parse_config

__all__ = [
    "Complaint",
    "ConfigFault",
    "ModelListing",
    "accept_completion",
    "check_directory_name",
    "collected",
    "complete_names",
    "config_from_json",
    "config_to_json",
    "config_warnings",
    "normalise",
    "normalise_instance_groups",
    "parse_config",
    "refuse_all",
    "scheduling_choice",
    "shape_text",
    "validate",
    "validate_file_names",
    "validate_instance_groups",
    "validate_io",
    "validate_states",
]
