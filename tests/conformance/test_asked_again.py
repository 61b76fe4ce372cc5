"""Asking a server again until it has said all that is recorded."""

from tests.conformance.servers import ASKED_MAX, asked_again

RECORDED = {"story": {"first": 1, "second": 2}, "other": 3}


def asking(answers):
    """Gives one answer after the other, or raises it."""
    left = iter(answers)

    def ask(folder):
        assert not list(folder.iterdir())
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def test_each_part_was_said_once(tmp_path):
    """Goal: parts that were right at different times count, failures do not, and what is right is not asked again."""
    ask = asking(
        [
            {"story": {"first": 1, "second": 0}, "other": 0},
            OSError("it has died"),
            {"story": {"first": 0, "second": 2}, "other": 0},
            {"story": {"first": 0, "second": 0}, "other": 3},
        ]
    )
    assert asked_again(ask, RECORDED, tmp_path) == RECORDED


def test_what_was_never_said(tmp_path):
    """Goal: a part that always differs, is missing, or should not be there is seen."""
    for index, answer in enumerate(
        (
            {"story": {"first": 1, "second": 0}, "other": 3},
            {"story": {"first": 1}, "other": 3},
            {"story": {"first": 1, "second": 2}, "other": 3, "more": 4},
            {"story": 5, "other": 3},
        )
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert asked_again(asking([answer] * ASKED_MAX), RECORDED, folder) == answer
