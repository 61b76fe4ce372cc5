"""Models that are cheap but bound to their threads: the trio thread waits for them, and never long."""

import threading
import time

import despina
import pytest
import trio
from despina.engine.execute import inline
from despina.engine.execute.cost import LEAVE_S, SAMPLES_MIN
from despina.engine.port.mailbox import Mailbox, mailbox

from tests.fakes import answer, request, value_of, write_model

POSTS = 2000


class TestMailbox:
    async def test_calls_come_through_the_loop(self):
        """Goal: in the order of their posting, with one wake-up for all that come before it."""
        made, woken = [], []

        class Token:
            def run_sync_soon(self, call):
                woken.append(call)

        box = Mailbox(Token())
        for number in range(5):
            box.post(made.append, number)
        assert (made, len(woken)) == ([], 1)
        woken[0]()
        assert made == [0, 1, 2, 3, 4]
        box.post(made.append, 5)
        assert len(woken) == 2

    async def test_what_is_waited_for_wakes_no_loop(self):
        made = []
        box = mailbox()
        thread = threading.Thread(target=lambda: box.post(made.append, 1))
        thread.start()
        assert box.attend(10)
        assert made == [1]
        thread.join()
        assert not box.attend(0.001)

    async def test_one_for_each_run(self):
        assert mailbox() is mailbox()

    async def test_nothing_is_left_behind(self):
        """Goal: threads post while the trio thread attends, or stops attending, or is in its loop: each call is made
        once, in its thread's order."""
        box = mailbox()
        made = {number: [] for number in range(3)}

        def work(number):
            for index in range(POSTS):
                box.post(made[number].append, index)
                if index % 7 == number:
                    time.sleep(0)

        threads = [threading.Thread(target=work, args=(number,)) for number in made]
        for thread in threads:
            thread.start()
        with trio.fail_after(30):
            while any(thread.is_alive() for thread in threads):
                box.attend(0.00005)
                await trio.lowlevel.checkpoint()
            while any(len(calls) < POSTS for calls in made.values()):
                await trio.lowlevel.checkpoint()
        assert all(calls == list(range(POSTS)) for calls in made.values())

    async def test_a_call_is_made_in_the_place_of_one_who_sleeps(self):
        """Goal: on the thread that brings it; who sleeps is not woken, nor goes on before it is over."""
        made, log = [], []
        box = mailbox()
        begun, go_on = threading.Event(), threading.Event()

        def call():
            begun.set()
            assert go_on.wait(30)
            made.append(threading.current_thread())
            log.append("made")
            return True

        def work():
            while not box.make_here(call):
                time.sleep(0.001)

        assert not box.make_here(made.append, 1)
        thread = threading.Thread(target=work)
        thread.start()
        threading.Thread(target=lambda: (begun.wait(30), time.sleep(0.05), go_on.set())).start()
        while not begun.is_set():
            assert not box.attend(0.02)
        log.append("awake")
        thread.join()
        assert made == [thread]
        assert log == ["made", "awake"]

    async def test_no_call_is_made_in_its_place_before_those_that_wait(self):
        made = []
        box = mailbox()

        def work():
            box.post(made.append, "posted")
            if not box.make_here(lambda: made.append("made") or True):
                box.post(made.append, "posted, too")

        thread = threading.Thread(target=work)
        thread.start()
        while len(made) < 2:
            box.attend(0.05)
        thread.join()
        assert made[0] == "posted"

    def test_after_the_end(self):
        """Goal: who posts when all is over hears of it."""
        kept = trio.run(self._leave_a_mailbox)
        with pytest.raises(trio.RunFinishedError):
            kept.post(print)

    async def _leave_a_mailbox(self):
        return mailbox()


@pytest.fixture
def cheap(repository, backend):
    """A backend on threads that may not move, and its models `m` and `n`."""
    backend.asynchronous, backend.movable = False, False
    for name in ("m", "n"):
        write_model(repository, name, more="dynamic_batching {}")
    return backend


async def learned(engine, *names):
    """Until it is known that the models are cheap."""
    for name in names:
        for _ in range(SAMPLES_MIN):
            await engine.infer_request(request(name))
        model = engine.model(name)
        model._feed.cost.inline = True  # on a busy machine the wall clock may say otherwise
        with trio.fail_after(10):
            while not model.scheduler.idle:  # noqa: ASYNC110  a thread puts itself there
                await trio.sleep(0.001)


async def test_answered_within_the_pass(cheap, opened):
    """Goal: requests of one pass share a batch, executed on the model's own thread, and are answered by its end."""
    where, answered = set(), []

    def behave(batch):
        where.add(threading.current_thread().name)
        answer(batch)

    cheap.execute_sync = behave
    async with opened() as engine:
        await learned(engine, "m", "n")
        inline_s, inline.ATTEND_S = inline.ATTEND_S, 10
        try:
            cheap.executed.clear()
            engine.inline.begin_pass()
            for name in ("m", "n", "m", "m"):
                engine.model(name).submit(request(name), answered.append)
            assert answered == []
            engine.inline.end_pass()
        finally:
            inline.ATTEND_S = inline_s
        assert len(answered) == 4
        assert sorted(one.size for one in cheap.executed) == [1, 3]
    assert where == {"despina/m_0_0", "despina/n_0_0"}


async def test_callers_in_process(cheap, opened):
    async with opened() as engine:
        await learned(engine, "m")
        async with trio.open_nursery() as nursery:

            async def call(value):
                for _ in range(20):
                    assert value_of(await engine.infer_request(request(value=value))) == value

            for value in range(4):
                nursery.start_soon(call, value)


async def test_one_that_takes_longer_than_thought(cheap, opened):
    """Goal: the pass ends without it, others go on, it is answered when it is done; and twice in a row is enough to be
    waited for no more."""
    gate = threading.Event()

    def behave(batch):
        assert gate.wait(30)
        answer(batch)

    async with opened() as engine:
        await learned(engine, "m", "n")
        cheap.execute_sync = behave
        model = engine.model("m")
        for _ in range(3):
            gate.clear()
            answered = trio.Event()
            engine.inline.begin_pass()
            model.submit(request("m"), lambda _, done=answered: done.set())
            engine.inline.end_pass()
            assert not answered.is_set()
            threading.Timer(0.02, gate.set).start()
            with trio.fail_after(10):
                await answered.wait()
        assert not model._feed.cost.inline
        assert model._feed.cost.cost_s >= LEAVE_S


async def test_one_that_dies_meanwhile(cheap, opened):
    """Goal: whoever is waited for may end in any way; its callers hear of it, and the next are served."""
    async with opened() as engine:
        await learned(engine, "m")

        def behave(batch):
            raise SystemExit(3)

        cheap.execute_sync = behave
        with pytest.raises(despina.Fault, match="SystemExit: 3"):
            await engine.infer_request(request())
        cheap.execute_sync = answer
        assert value_of(await engine.infer_request(request(value=3))) == 3


async def test_unloaded_while_it_is_waited_for(cheap, opened):
    answered = []
    async with opened(model_control_mode="explicit", load_model=["m", "n"]) as engine:
        await learned(engine, "m")
        async with trio.open_nursery() as nursery:
            engine.inline.begin_pass()
            for _ in range(5):
                engine.model("m").submit(request("m"), answered.append)
            nursery.start_soon(engine.unload, "m")
            engine.inline.end_pass()
        assert len(answered) == 5
        assert not engine.is_model_ready("m")
