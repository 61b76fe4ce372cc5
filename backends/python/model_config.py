"""`pb_utils.ModelConfig`: what `auto_complete_config` fills in, with every conflict refused in the protocol's words."""

from __future__ import annotations

import json
from typing import Any

_INPUT = ("name", "data_type", "dims", "optional")
_OUTPUT = ("name", "data_type", "dims")


class ModelConfig:
    """A configuration as a dict of its JSON form, and the changes that a model may make to it."""

    def __init__(self, model_config: str) -> None:
        self._model_config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Raises ValueError where it would lower what is configured."""
        configured = self._model_config.get("max_batch_size", 0)
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in auto-complete-config function for model "
                f"'{self._name}' specified max_batch_size {max_batch_size}"
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Raises ValueError where another scheduler is configured; keeps dynamic batching as it is configured."""
        for choice in ("sequence_batching", "ensemble_scheduling"):
            if choice in self._model_config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{choice}', but auto-complete-config function for "
                    f"model '{self._name}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._model_config.setdefault("dynamic_batching", {})

    def add_input(self, input: dict[str, Any]) -> None:  # noqa: A002  the name that models pass
        """Raises ValueError for missing or other properties, and where a configured input of that name differs."""
        self._add("input", input, _INPUT)

    def add_output(self, output: dict[str, Any]) -> None:
        self._add("output", output, _OUTPUT)

    def set_model_transaction_policy(self, transaction_policy_dict: dict[str, Any]) -> None:
        """Raises ValueError for other properties than `decoupled` and where it would change what is configured."""
        for key in transaction_policy_dict:
            if key != "decoupled":
                raise ValueError(
                    f"model transaction property in auto-complete-config function for model '{self._name}' contains "
                    "property other than 'decoupled'."
                )
        if "decoupled" not in transaction_policy_dict:
            return
        policy = self._model_config.setdefault("model_transaction_policy", {})
        wanted = transaction_policy_dict["decoupled"]
        if "decoupled" in policy and policy["decoupled"] != wanted:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{self._name}', which is "
                f"already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = wanted

    @property
    def _name(self) -> str:
        return str(self._model_config.get("name", ""))

    def _add(self, role: str, given: dict[str, Any], allowed: tuple[str, ...]) -> None:
        suffix = f"in auto-complete-config function for model '{self._name}'"
        if any(key not in allowed for key in given):
            listed = ", ".join(f"'{key}'" for key in allowed[:-1])
            # `name` may be missing too; the reference says so only after this.
            raise ValueError(
                f"{role} '{given.get('name', '')}' {suffix} contains property other than {listed} and '{allowed[-1]}'."
            )
        if "name" not in given:
            raise ValueError(f"{role} {suffix} is missing 'name' property.")
        name = given["name"]
        for key in ("data_type", "dims"):
            if key not in given:
                raise ValueError(f"{role} '{name}' {suffix} is missing '{key}' property.")
        tensors = self._model_config.setdefault(role, [])
        for configured in tensors:
            if configured["name"] == name:
                self._check_same(role, configured, given)
                return
        tensors.append(dict(given))

    def _check_same(self, role: str, configured: dict[str, Any], given: dict[str, Any]) -> None:
        name = given["name"]
        if configured["data_type"] != given["data_type"]:
            raise ValueError(
                f"unable to load model '{self._name}', configuration expects datatype {configured['data_type']} for "
                f"{role} '{name}', model provides {given['data_type']}"
            )
        if list(configured["dims"]) != list(given["dims"]):
            raise ValueError(
                f"model '{self._name}', tensor '{name}': the model expects dims {given['dims']} but the model "
                f"configuration specifies dims {configured['dims']}"
            )
        if role == "input" and bool(configured.get("optional", False)) != bool(given.get("optional", False)):
            raise ValueError(
                f"model '{self._name}', tensor '{name}': the model expects optional {given.get('optional', False)} but "
                f"the model configuration specifies optional {configured.get('optional', False)}"
            )
