"""Errors inside the groups that nurseries raise."""

from __future__ import annotations


def single(error: BaseException) -> BaseException:
    """The error inside, when there is just one; else the groups as they are."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return error if isinstance(inner, BaseExceptionGroup) else inner


def first(error: Exception) -> Exception:
    """The first real error inside."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
