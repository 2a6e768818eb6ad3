"""Progress bars in terminals and notebooks only."""

import io

import pytest
from rich.console import Console

from hdeepinsight import _progress
from hdeepinsight._progress import progress, progress_visible, progress_wanted, tracked


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """What a terminal shows."""
    shown = io.StringIO()

    def console(**_):
        return Console(file=shown, force_terminal=True, width=120)

    monkeypatch.setattr(_progress, "Console", console)
    return shown


def test_nothing_is_shown_without_a_terminal(capfd):
    assert not progress_visible()
    with progress("Annotating", total=10, unit="cells") as advance:
        advance(10)
    assert list(tracked([(slice(0, 5), 1)], "Annotating", 5)) == [(slice(0, 5), 1)]
    assert capfd.readouterr() == ("", "")


def test_terminal_shows_progress(screen):
    blocks = [(slice(0, 1_000), "a"), (slice(1_000, 2_000), "b")]
    assert list(tracked(blocks, "Annotating", 2_000)) == blocks
    assert "Annotating" in screen.getvalue()
    assert "/2,000 cells" in screen.getvalue()


def test_steps_within_steps_share_a_display(screen):
    with progress("Adapting the model"), progress("Adapting", 200, "steps") as advance:
        advance(200)
    assert "Adapting the model" in screen.getvalue()
    assert "/200 steps" in screen.getvalue()


def test_progress_can_be_switched_off(screen):
    with progress_wanted(False), progress_wanted(True), progress("Annotating"):
        assert not progress_visible()
    assert screen.getvalue() == ""
    assert progress_visible()


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_without_widgets_is_not_filled_with_warnings(monkeypatch, recwarn, installed):
    shown = io.StringIO()
    console = Console(file=shown, force_jupyter=True, force_terminal=False)
    monkeypatch.setattr(_progress, "Console", lambda **_: console)
    monkeypatch.setattr(_progress, "find_spec", lambda _: installed or None)
    assert progress_visible() == installed
    if not installed:
        with progress("Annotating"):
            pass
        assert (shown.getvalue(), len(recwarn)) == ("", 0)
