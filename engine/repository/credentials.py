"""Who the server is to a cloud: from the environment, or from the file that it names. Blocking file access.

TRITON_CLOUD_CREDENTIAL_PATH = {"s3": {"": {...}, "s3://bucket/path": {...}}, "gs": {...}, "as": {...}}
The longest beginning of the location that is listed there wins; "" fits every one.

| cloud | environment                                                  | file                                     |
|-------|--------------------------------------------------------------|------------------------------------------|
| s3    | AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, | key_id, secret_key, session_token,       |
|       | AWS_DEFAULT_REGION, AWS_PROFILE, AWS_ENDPOINT_URL            | region, profile                          |
| gs    | GOOGLE_APPLICATION_CREDENTIALS                               | a path                                   |
| as    | AZURE_STORAGE_ACCOUNT, _KEY, _AUTH_TYPE, _CLIENT_ID          | account_str, account_key, auth_type, ... |
"""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .locations import CloudLocation

FILE = "TRITON_CLOUD_CREDENTIAL_PATH"
DEFAULT_REGION = "us-east-1"

_ENVIRONMENT = {
    "s3": {
        "key_id": "AWS_ACCESS_KEY_ID",
        "secret_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
        "region": "AWS_DEFAULT_REGION",
        "profile": "AWS_PROFILE",
    },
    "as": {
        "account_str": "AZURE_STORAGE_ACCOUNT",
        "account_key": "AZURE_STORAGE_KEY",
        "auth_type": "AZURE_STORAGE_AUTH_TYPE",
        "client_id": "AZURE_STORAGE_CLIENT_ID",
    },
}


def options(location: CloudLocation, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the client of that cloud is to be told of who we are. Raises InvalidArgument for what cannot be read."""
    if location.scheme == "gs":
        return _gs(_of_file(location, environment), environment)
    given = _of_file(location, environment)
    if given is None:
        names = _ENVIRONMENT[location.scheme]
        given = {field: environment[name] for field, name in names.items() if environment.get(name)}
    elif not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise InvalidArgument(f"{FILE}: the credential for '{location.text}' is no object of strings")
    return _s3(location, given, environment) if location.scheme == "s3" else _as(location, given)


def _of_file(location: CloudLocation, environment: Mapping[str, str]) -> Any:
    """What the file says of the location; None without a file."""
    path = environment.get(FILE)
    if not path:
        return None
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{FILE} names '{path}', which is no JSON file that can be read: {error}") from error
    listed = content.get(location.scheme, {}) if isinstance(content, dict) else {}
    fitting = [start for start in listed if location.text.startswith(start)] if isinstance(listed, dict) else []
    if not fitting:
        raise InvalidArgument(
            f"{FILE} has no credential that fits '{location.text}': neither a beginning of it nor '' is listed in "
            f"'{location.scheme}' of '{path}'"
        )
    return listed[max(fitting, key=len)]


def _s3(location: CloudLocation, given: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Any]:
    if not (given.get("key_id") and given.get("secret_key")):
        profile = given.get("profile") or environment.get("AWS_PROFILE") or "default"
        given = {**_profile(profile, environment, needed="profile" in given), **given}
    found: dict[str, Any] = {"region": given.get("region") or environment.get("AWS_REGION") or DEFAULT_REGION}
    if given.get("key_id") and given.get("secret_key"):
        found["access_key_id"] = given["key_id"]
        found["secret_access_key"] = given["secret_key"]
        if given.get("session_token"):
            found["session_token"] = given["session_token"]
    endpoint = location.endpoint or environment.get("AWS_ENDPOINT_URL", "")
    if endpoint:
        found["endpoint"] = endpoint
    return found


def _profile(name: str, environment: Mapping[str, str], *, needed: bool) -> dict[str, str]:
    """The keys of a profile in the files of the AWS command line. Raises InvalidArgument if a needed one is missing."""
    home = Path(environment.get("HOME") or "/nonexistent") / ".aws"
    files = (
        (environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", name),
        (environment.get("AWS_CONFIG_FILE") or home / "config", name if name == "default" else f"profile {name}"),
    )
    found: dict[str, str] = {}
    there = False
    for path, section in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (OSError, configparser.Error, UnicodeDecodeError) as error:
            raise InvalidArgument(f"the AWS profiles in '{path}' cannot be read: {error}") from error
        there = there or parser.has_section(section)
        for field, option in (
            ("key_id", "aws_access_key_id"),
            ("secret_key", "aws_secret_access_key"),
            ("session_token", "aws_session_token"),
            ("region", "region"),
        ):
            if parser.has_option(section, option):
                found.setdefault(field, parser.get(section, option))
    if needed and not there:
        raise InvalidArgument(f"the AWS profile '{name}' is in none of {', '.join(str(path) for path, _ in files)}")
    return found


def _gs(given: Any, environment: Mapping[str, str]) -> dict[str, Any]:
    path = environment.get("GOOGLE_APPLICATION_CREDENTIALS") if given is None else given
    if not path:
        return {}
    try:
        kind = json.loads(Path(path).read_bytes()).get("type", "")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"the Google credential '{path}' is no JSON file that can be read: {error}") from error
    return {"application_credentials" if kind == "authorized_user" else "service_account": str(path)}


def _as(location: CloudLocation, given: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"account_name": location.account or given.get("account_str", "")}
    kind = given.get("auth_type", "")
    if kind not in ("", "managed_identity", "default"):
        raise InvalidArgument(
            f"the Azure authentication '{kind}' for '{location.text}' is none of 'managed_identity' and 'default'"
        )
    if location.endpoint:
        found["endpoint"] = location.endpoint
    if kind:
        if given.get("client_id"):
            found["client_id"] = given["client_id"]
    elif given.get("account_key"):
        found["account_key"] = given["account_key"]
    else:
        found["skip_signature"] = True
    return found
