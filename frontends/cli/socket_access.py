"""Who may connect to a Unix socket: the mode and the owner of its file."""

from __future__ import annotations

import grp
import os
import pwd
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.frozen
class SocketAccess:
    """As given on the command line; empty leaves what the umask and the process make of it."""

    mode: str = ""
    owner: str = ""

    def apply(self, path: str) -> None:
        """Raises OSError. Nobody has got in before: the socket does not listen yet."""
        if self.owner:
            os.chown(path, *ids_of(self.owner))
        if self.mode:
            os.chmod(path, int(self.mode, 8))


def socket_mode(text: str) -> str:
    """Octal, as for chmod: 660."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError(f"a mode is three octal digits, such as 660, got {text}")
    return text


def socket_owner(text: str) -> str:
    """USER, USER:GROUP or :GROUP, by name or number, as for chown."""
    if not text.strip(":"):
        raise ValueError(f"an owner is USER, USER:GROUP or :GROUP, got {text}")
    ids_of(text)
    return text


def ids_of(owner: str) -> tuple[int, int]:
    """The numbers of a user and a group; -1 for what is not named. Raises ValueError for names that nobody has."""
    user, _, group = owner.partition(":")
    try:
        return (
            _number(user, lambda: pwd.getpwnam(user).pw_uid),
            _number(group, lambda: grp.getgrnam(group).gr_gid),
        )
    except (KeyError, ValueError):
        raise ValueError(f"no such user or group: {owner}") from None


def _number(text: str, look_up: Callable[[], int]) -> int:
    if not text:
        return -1
    return int(text) if text.isascii() and text.isdigit() else look_up()
