"""The engine's one cache, as its models use it: it never raises and never makes a request wait for long.

    look ──small, in memory: now──────────────▶ found(key, answer, ns)
      └──▶ workers over a bounded channel ─────▶ found, within the cache's time limit; or without an answer
    keep ──▶ now, or by the workers; dropped where too much waits

| what the cache does             | what follows                                                                      |
|---------------------------------|-----------------------------------------------------------------------------------|
| raises, or takes too long       | a miss; it is left alone for a second, doubled with each time in a row up to 30   |
| returns what it was not given   | a miss; the entry is replaced                                                     |
| has no room                     | nothing                                                                           |

Everything is for the trio thread; workers make keys of large inputs in threads.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ...observe.status import ActorStatus
from .entry import decode, encode, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....schema.inference import InferenceResponse
    from ...port.cache import CacheFill, MemoryCache, RemoteCache, ResponseCache
    from .entry import Answer

    Found = Callable[[str, Answer | None, int], None]
    """Told the key, the answer if there is one, and how many ns it took. Without a key there was no look."""

log = logging.getLogger("despina.engine.model.cache")

KEY_BYTES_NOW_MAX: Final = 512 * 1024
"""Inputs whose key is made on the trio thread, which takes some 0.5 ms at most."""
KEYS_MAX: Final = 2
"""Threads that make keys of larger ones."""
WAITING_MAX: Final = 4096
"""Look-ups and entries that wait for a worker: what comes then is not looked up, or not kept."""
KEEP_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of entries that wait to be handed over to a cache elsewhere."""
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 30.0


@attrs.define(eq=False)
class _Look:
    key: str
    """Empty until a thread has made it."""
    key_of: Callable[[], str]
    found: Found
    began_s: float
    began_ns: int


@attrs.define(eq=False)
class _Keep:
    key: str
    entry: bytes
    kept: Callable[[int], None]


class Keeper:
    """See the module's table. `run` has the workers; before and after it, nothing is looked up that takes any."""

    def __init__(self, cache: ResponseCache, name: str) -> None:
        self.name = name
        self.lookups = self.hits = self.lookup_ns = self.insertion_ns = 0
        self.failures = 0
        """Calls of the cache that raised or took too long, and entries that were not as they were kept."""
        self.dropped = 0
        """Answers that were not kept: too large, too much waited, or the cache was left alone."""
        self._memory: MemoryCache | None = None
        self._remote: RemoteCache | None = None
        if hasattr(cache, "lookup_now"):
            self._memory = cache  # type: ignore[assignment]  # has what only that one has
        else:
            self._remote = cache
        self._send, self._take = trio.open_memory_channel[_Look | _Keep](WAITING_MAX)
        self._keep_bytes = 0
        self._running = False
        self._down_until = 0.0
        """In seconds of trio's clock; 0 while the cache is well."""
        self._backoff_s = BACKOFF_MIN_S
        self._loads = 0

    @property
    def fill(self) -> CacheFill | None:
        """How full the cache is; None of one elsewhere."""
        return None if self._memory is None else self._memory.fill()

    @property
    def misses(self) -> int:
        return self.lookups - self.hits

    def generation(self, fingerprint: Callable[[], str]) -> str:
        """What tells one load of a model from another, for its keys: a number in memory, so that each begins anew;
        elsewhere what the model is made of, so that engines share answers, and one that starts again finds its own.
        From any thread."""
        if self._memory is None:
            return fingerprint()
        self._loads += 1
        return str(self._loads)

    def status(self) -> ActorStatus:
        """What it does now."""
        waiting = self._send.statistics().current_buffer_used
        down = self._down_until > trio.current_time()
        return ActorStatus(
            name="response cache",
            doing="left alone" if down else f"{self.name}: {self.hits} hits of {self.lookups} look-ups",
            depth=waiting,
            bound=WAITING_MAX,
            oldest_s=0.0,
            facts={"failures": self.failures, "dropped": self.dropped},
        )

    # --- For models

    def look(self, size: int, key_of: Callable[[], str], found: Found) -> None:
        """Looks up an answer. `found` is told, maybe before this returns, unless the engine stops before. `key_of`
        makes the key of `size` bytes of inputs; if it raises, there is no look."""
        look = _Look("", key_of, found, trio.current_time(), time.monotonic_ns())
        small = size <= KEY_BYTES_NOW_MAX
        if (self._memory is None or not small) and (self._is_down() or not self._running or self._waits_too_much()):
            found("", None, 0)
            return
        if small:
            try:
                look.key = key_of()
            except Exception:  # inputs that cannot be read: executing them says why
                found("", None, 0)
                return
        if self._memory is not None and small:
            self._told(look, look.key, self._look_now(look.key))
        else:
            self._send.send_nowait(look)

    def keep(self, key: str, response: InferenceResponse, kept: Callable[[int], None]) -> None:
        """Keeps an answer: copied before this returns. `kept` is told how many ns it took, unless there was one
        already."""
        began = time.monotonic_ns()
        try:
            size = sum(len(tensor.memory()) for tensor in response.outputs)
            entry = encode(response) if size <= self._room() else None
        except Exception as problem:
            log.debug("an answer that cannot be kept: %s: %s", type(problem).__name__, problem)
            return
        if entry is None:
            self.dropped += 1
        elif self._memory is None:
            self._keep_bytes += len(entry)
            self._send.send_nowait(_Keep(key, entry, kept))
            return
        if self._memory is not None:
            try:
                new = entry is None or self._memory.insert_now(key, entry)
            except Exception as problem:
                self._failed(problem)
                return
            if new:
                spent = time.monotonic_ns() - began
                self.insertion_ns += spent
                kept(spent)

    def _room(self) -> int:
        """Bytes that an answer may have to be handed over now."""
        if self._memory is not None:
            return self._memory.fill().byte_size
        if self._is_down() or not self._running or self._waits_too_much():
            return -1
        return KEEP_BYTES_MAX - self._keep_bytes

    # --- The workers

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until it is cancelled, then lets the cache go."""
        remote = self._remote
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(KEYS_MAX if remote is None else remote.calls_max):
                    nursery.start_soon(self._work)
                self._running = True
                task_status.started()
        finally:
            self._running = False
            if remote is not None:
                with trio.move_on_after(remote.timeout_s, shield=True):  # it may hang as much as any other call
                    try:
                        await remote.close()
                    except Exception as problem:
                        log.warning("closing the response cache failed: %s: %s", type(problem).__name__, problem)

    async def _work(self) -> None:
        while True:
            item = await self._take.receive()
            try:
                if isinstance(item, _Look):
                    await self._look_up(item)
                else:
                    await self._hand_over(item)
            except Exception:  # a bug of ours, in who is told
                log.exception("the response cache: who waited for it failed")

    async def _look_up(self, look: _Look) -> None:
        key, answer = "", None
        limit_s = float("inf") if self._remote is None else self._remote.timeout_s
        try:
            if look.began_s + limit_s > trio.current_time() and not self._is_down():
                with trio.fail_after(look.began_s + limit_s - trio.current_time()):
                    made = look.key or await trio.to_thread.run_sync(look.key_of, abandon_on_cancel=True)
                    answer = self._look_now(made) if self._remote is None else await self._look_elsewhere(made)
                    key = made
        except Exception as problem:
            if self._remote is not None and (look.key or isinstance(problem, trio.TooSlowError)):
                self._failed(problem)
        self._told(look, key, answer)

    def _look_now(self, key: str) -> Answer | None:
        assert self._memory is not None, "a cache in the process"
        try:
            entry = self._memory.lookup_now(key)
            return None if entry is None else decode(entry)
        except Exception as problem:
            self._failed(problem)
            return None

    async def _look_elsewhere(self, key: str) -> Answer | None:
        assert self._remote is not None, "a cache elsewhere"
        sealed = await self._remote.lookup(key)
        self._is_well()
        if sealed is None:
            return None
        try:
            return decode(unseal(key, sealed))
        except Exception as problem:
            self.failures += 1
            log.warning("the response cache has returned what it was not given: %s", problem)
            return None

    async def _hand_over(self, keep: _Keep) -> None:
        remote = self._remote
        assert remote is not None, "memory takes entries at once"
        self._keep_bytes -= len(keep.entry)
        if self._is_down():
            self.dropped += 1
            return
        began = time.monotonic_ns()
        try:
            with trio.fail_after(remote.timeout_s):
                new = await remote.insert(keep.key, seal(keep.key, keep.entry))
            self._is_well()
        except Exception as problem:
            self._failed(problem)
            return
        if new:
            spent = time.monotonic_ns() - began
            self.insertion_ns += spent
            keep.kept(spent)

    # --- Inside

    def _told(self, look: _Look, key: str, answer: Answer | None) -> None:
        spent = time.monotonic_ns() - look.began_ns
        if key:
            self.lookups += 1
            self.hits += answer is not None
            self.lookup_ns += spent
        look.found(key, answer, spent)

    def _waits_too_much(self) -> bool:
        return self._send.statistics().current_buffer_used >= WAITING_MAX

    def _is_down(self) -> bool:
        return self._down_until > trio.current_time()

    def _is_well(self) -> None:
        if self._down_until:
            log.info("the response cache answers again")
            self._down_until, self._backoff_s = 0.0, BACKOFF_MIN_S

    def _failed(self, problem: Exception) -> None:
        self.failures += 1
        said = f"{type(problem).__name__}: {problem}"
        if isinstance(problem, trio.TooSlowError):
            said = "it did not answer in time"
        if self._remote is None:
            log.warning("the response cache failed: %s", said)
        elif not self._is_down():
            self._down_until = trio.current_time() + self._backoff_s
            log.warning("the response cache failed and is left alone for %g s: %s", self._backoff_s, said)
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
