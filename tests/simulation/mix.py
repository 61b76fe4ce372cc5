"""What histories have reached: how often each kind of thing has happened, by `group: kind`."""

from __future__ import annotations

from collections import Counter, defaultdict

WANTED = {
    "executions": (
        "awaited",
        "thread",
        "inline at once",
        "inline in a pass",
        "inline by its task",
        "inline, handed over by a thread or timer",
        "warm-up",
    ),
    "ahead": ("handed over", "not handed over", "executed", "taken back"),
    "batches": ("delay", "eager", "full", "preferred", "shape", "single"),
    "orders": ("arrival", "newest first", "turns of callers", "turns of callers, newest first"),
    "sequences": (
        "begun",
        "gone on with",
        "states found",
        "places of nobody",
        "executed again",
        "silent",
        "never begun",
        "taken along by who left",
        "lost with their instance",
        "too long in the backlog",
    ),
    "turns": ("at once", "waited for", "for nothing"),
    "callers": (
        "answered",
        "left while queued",
        "left while executing",
        "late while queued",
        "late while executing",
        "DeadlineExceeded",
        "ExecutorDied",
        "InvalidArgument",
        "ModelFailure",
        "NotFound",
        "NotReady",
        "QueueFull",
        "QueueTimeout",
        "ShuttingDown",
        "Unavailable",
    ),
    "streams": ("answers", "ended", "left", "waits of senders"),
    "ensembles": ("answered", "faults", "answers", "ends of streams"),
    "instances": ("died", "died inline", "restarted", "stay down", "threads abandoned", "changed without a reload"),
    "loads": (
        "reload",
        "unload",
        "back after an unload",
        "InvalidArgument",
        "Internal",
        "ShuttingDown",
        "waited for",
        "waited for, in vain",
        "evicted",
    ),
}
"""What a sufficient number of histories must have reached: the simulation says nothing about what it does not reach."""


def missing(mix: Counter[str]) -> list[str]:
    """What was never reached."""
    return [f"{group}: {kind}" for group, kinds in WANTED.items() for kind in kinds if not mix.get(f"{group}: {kind}")]


def shown(mix: Counter[str]) -> str:
    """One line for each group, most frequent first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, count in mix.most_common():
        group, kind = key.split(": ")
        groups[group].append(f"{kind} {count:,}")
    return "\n".join(f"  {group:<11} {'; '.join(kinds)}" for group, kinds in sorted(groups.items()))
