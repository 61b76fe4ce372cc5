"""The cache in a Redis server, which several engines may share and which outlives them.

One string for each answer, under `despina:<key>`. How much is kept, and for how long, is the server's own policy
(`maxmemory`).

The client blocks, so each call has one of a few threads of its own. A call that is given up holds its thread until
the socket's limit ends it, or `close` does: meanwhile others may find none, who count as too late.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis import Redis

log = logging.getLogger("despina.backends.caches.redis")

PREFIX: Final = "despina:"
SETTINGS: Final = (
    *("host", "port", "user", "password", "db", "connect_timeout", "socket_timeout", "pool_size", "wait_timeout"),
    *("tls_enabled", "cert", "key", "cacert", "cacert_dir", "sni"),
)
WAIT_MS: Final = 1000
"""How long one call may take where no `socket_timeout` says it."""
POOL_SIZE: Final = 4
"""Calls at a time where `pool_size` does not say it."""


class RedisCache:
    """A client and its threads."""

    def __init__(self, client: Redis, refusal: type[Exception], *, calls_max: int, timeout_s: float) -> None:
        """`refusal` is how the client says that the server has refused a command."""
        self._refusal = refusal
        self.calls_max = calls_max
        self.timeout_s = timeout_s
        self._client = client
        self._threads = trio.CapacityLimiter(calls_max)

    async def lookup(self, key: str) -> bytes | None:
        """None also where something of another kind stands under the key."""
        found: bytes | None = await self._call(self._client.get, PREFIX + key)
        return found

    async def insert(self, key: str, entry: bytes) -> bool:
        """Whatever was there is replaced: it may have been damaged. False where the server takes nothing, because it is
        full for one: it may well go on answering."""
        return bool(await self._call(self._client.set, PREFIX + key, entry))

    async def close(self) -> None:
        self._client.connection_pool.disconnect()  # does not wait for anybody: it ends calls that were given up

    async def _call(self, call: Callable[..., Any], *arguments: object) -> Any:
        return await trio.to_thread.run_sync(
            partial(self._asked, call, *arguments), abandon_on_cancel=True, limiter=self._threads
        )

    def _asked(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except self._refusal as refusal:  # of this command; the server is well
            log.debug("Redis has refused a command: %s", refusal)
            return None


def open_redis(settings: Mapping[str, str]) -> RedisCache:
    """The entry point. Needs `host` and `port`. Raises InvalidArgument, and Internal where no server answers."""
    unknown = sorted({*settings} - {*SETTINGS})
    if unknown:
        raise _bad(f"unknown setting '{unknown[0]}'; there are {', '.join(SETTINGS)}")
    missing = [name for name in ("host", "port") if not settings.get(name)]
    if missing:
        raise _bad(f"config didn't contain a valid '{missing[0]}' field.")
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise _bad("the package 'redis' is not installed; pip install 'despina[redis]' brings it") from error
    pool_size = _number(settings, "pool_size", POOL_SIZE, least=1)
    timeout_s = (_number(settings, "socket_timeout", 0) or _number(settings, "wait_timeout", WAIT_MS) or WAIT_MS) / 1000
    client = redis.Redis(
        host=settings["host"],
        port=_number(settings, "port", 0, least=1),
        db=_number(settings, "db", 0),
        username=settings.get("user") or os.environ.get("TRITONCACHE_REDIS_USERNAME") or None,
        password=settings.get("password") or os.environ.get("TRITONCACHE_REDIS_PASSWORD") or None,
        socket_timeout=timeout_s,
        socket_connect_timeout=(_number(settings, "connect_timeout", 0) / 1000) or timeout_s,
        max_connections=pool_size + 1,
        retry=Retry(NoBackoff(), 1),  # a connection that the server has closed meanwhile is opened anew
        **_tls(settings),
    )
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        client.close()
        raise Internal(f"Failed to ping Redis server. {type(error).__name__}: {error}") from error
    return RedisCache(client, redis.ResponseError, calls_max=pool_size, timeout_s=timeout_s)


def _tls(settings: Mapping[str, str]) -> dict[str, Any]:
    enabled = settings.get("tls_enabled", "false").lower()
    if enabled not in ("true", "false", "1", "0"):
        raise _bad(f"'tls_enabled' must be true or false, got '{settings['tls_enabled']}'")
    if enabled in ("false", "0"):
        return {}
    if settings.get("sni"):
        raise _bad("'sni' is not supported: the server is named as 'host' says")
    names = {"cert": "ssl_certfile", "key": "ssl_keyfile", "cacert": "ssl_ca_certs", "cacert_dir": "ssl_ca_path"}
    return {"ssl": True, **{theirs: settings[ours] for ours, theirs in names.items() if settings.get(ours)}}


def _number(settings: Mapping[str, str], name: str, default: int, *, least: int = 0) -> int:
    text = settings.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise _bad(f"'{name}' must be a number of at least {least}, got '{text}'")
    return int(text)


def _bad(text: str) -> InvalidArgument:
    return InvalidArgument(f"Failed to initialize RedisCache: {text}")
