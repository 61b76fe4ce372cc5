"""Where instances live: cores of their threads, nodes of their memory, and what is wrong with a policy."""

import os
import threading

import pytest
from despina.engine.port.binding import bind
from despina.engine.port.host_policy import HostPolicy
from despina.engine.port.settings import EngineSettings
from despina.schema.fault import Internal, InvalidArgument

from tests.fakes import SCALAR_IO, answer, request, touch, write_model

CORES = sorted(os.sched_getaffinity(0))
ONE = f"{CORES[-1]}-{CORES[-1]}"


def in_group(repository, *groups, name="m", more=""):
    text = "".join(f"instance_group [{{ count: 1 {group} }}]\n" for group in groups)
    return write_model(repository, name, config=f'backend: "fake"\nmax_batch_size: 8\n{SCALAR_IO}{text}{more}')


@pytest.fixture
def cores(backend):
    """Instance -> the cores of the threads that execute it."""
    found = {}
    backend.asynchronous = False

    def execute(batch):
        found[backend.executed[-1].instance] = sorted(os.sched_getaffinity(0))
        answer(batch)

    backend.execute_sync = execute
    return found


@pytest.mark.parametrize(
    ("group", "policy"),
    [
        ('kind: KIND_CPU host_policy: "mine"', "mine"),
        ("kind: KIND_CPU", "cpu"),
        ("kind: KIND_MODEL", "model"),
    ],
)
async def test_an_instance_runs_on_its_cores(repository, opened, cores, group, policy):
    """Goal: the thread that opens and executes it is bound; no other one is. By name, or by kind without a name."""
    in_group(repository, group)
    async with opened(host_policy={policy: {"cpu-cores": ONE}}) as engine:
        await engine.infer_request(request())
        assert sorted(os.sched_getaffinity(0)) == CORES
    assert list(cores.values()) == [CORES[-1:]]


async def test_other_policies_bind_nothing(repository, opened, cores):
    in_group(repository, 'kind: KIND_CPU host_policy: "unknown"')
    async with opened(host_policy={"cpu": {"cpu-cores": ONE}, "gpu_0": {"numa-node": "x"}}) as engine:
        await engine.infer_request(request())
    assert list(cores.values()) == [CORES]


async def test_a_bound_instance_never_executes_on_the_trio_thread(repository, opened, backend, cores):
    """Goal: what is cheap and movable stays on its own thread all the same."""
    backend.movable = True
    in_group(
        repository, "kind: KIND_CPU", more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }'
    )
    threads = set()
    inner = backend.execute_sync
    backend.execute_sync = lambda batch: (threads.add(threading.get_ident()), inner(batch))
    async with opened(host_policy={"cpu": {"cpu-cores": ONE}}) as engine:
        for _ in range(20):
            await engine.infer_request(request())
    assert threading.get_ident() not in threads
    assert list(cores.values()) == [CORES[-1:]]


async def test_instances_move_without_a_reload(repository, opened, backend, cores):
    path = in_group(repository, 'kind: KIND_CPU host_policy: "unknown"')
    async with opened(
        host_policy={"mine": {"cpu-cores": ONE}}, model_control_mode="explicit", load_model="m"
    ) as engine:
        in_group(repository, 'kind: KIND_CPU host_policy: "mine"')
        touch(path / "config.pbtxt", 2)
        await engine.load("m")
        await engine.infer_request(request())
    assert list(cores.values()) == [CORES[-1:]]
    assert backend.opened == [("m", 1)]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cpu-cores": "x-y"}, "Invalid argument: Parsing 'cpu-cores' value: Can't parse 'x' to integer"),
        ({"cpu-cores": "-1-1"}, "Invalid argument: Parsing 'cpu-cores' value: Can't parse '' to integer"),
        (
            {"cpu-cores": "1"},
            "Invalid argument: host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-<upper_cpu_core_id>'. "
            "Got 1",
        ),
        ({"cpu-cores": "1-0"}, "Internal: Unable to set NUMA thread affinity: Invalid argument"),
        ({"cpu-cores": "60000-999999999"}, "Internal: Unable to set NUMA thread affinity: Invalid argument"),
        ({"numa-node": "x"}, "Invalid argument: Parsing 'numa-node' value: Can't parse 'x' to integer"),
    ],
)
async def test_bad_values_fail_the_loads_of_who_needs_them(repository, opened, backend, settings, text):
    backend.asynchronous = False
    in_group(repository, 'kind: KIND_CPU host_policy: "bad"')
    in_group(repository, "kind: KIND_CPU", name="other")
    async with opened(host_policy={"bad": settings}, model_control_mode="explicit") as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        assert f"UNAVAILABLE state: {text};\n" in caught.value.message
        await engine.load("other")
    assert backend.instances_open == 0


def test_memory_of_a_node():
    """Goal: a node that is there is taken, one that is not is refused by the kernel or by us."""
    said = []

    def on_a_thread():
        for node in ("0", "700", "4096"):
            try:
                bind(HostPolicy(name="n", numa_node=node))
                said.append("bound")
            except Internal as fault:
                said.append(fault.message)

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()
    assert said[0] == "bound" or said[0].startswith("Unable to set NUMA memory policy: "), said
    assert all(text.startswith("Unable to set NUMA memory policy: ") for text in said[1:]), said


def test_unknown_settings_are_refused_at_the_start():
    with pytest.raises(
        ValueError, match="Unsupported host policy setting 'b' is specified, supported settings are 'numa"
    ):
        EngineSettings(model_repository="/models", host_policy={"a": {"b": "c"}})
