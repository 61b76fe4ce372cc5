"""Shows what the histories of this run have reached."""

from tests.simulation.mix import shown
from tests.simulation.played import PLAYED, reached


def pytest_terminal_summary(terminalreporter):
    if PLAYED:
        terminalreporter.section(f"{len(PLAYED)} simulated histories")
        terminalreporter.line(shown(reached()))
