"""What pages make of text that handlers wrote, and how much of it they show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventproc.api.html import plain, ticks
from eventproc.api.run_page import ATTEMPTS, BEGINNING, END, output
from eventproc.model import LogChunk


def chunks(*texts: str, attempt: int = 1) -> list[LogChunk]:
    return [LogChunk(run_id=1, attempt=attempt, stream="stdout", at_us=0, text=text) for text in texts]


def test_controls_and_turned_directions_become_visible():
    assert plain("a\r\nb\rc\td") == "a\nb\nc\td"
    assert plain("\x1b[31m \u202eliame\u202c \u2028 \ud800") == "\\x1b[31m \\u202eliame\\u202c \\u2028 \\ud800"
    assert plain("日本語 שלום\u200f ملف\u200e") == "日本語 שלום\u200f ملف\u200e"


def test_backticks_become_code_and_nothing_else_becomes_markup():
    assert ticks('`a<b>` and "c"') == "<code>a&lt;b&gt;</code> and &#34;c&#34;"
    assert ticks("one ` alone") == "one ` alone"


@given(st.lists(st.integers(1, 3 * END // 2), max_size=8))
def test_output_is_shown_from_its_beginning_and_up_to_its_end(sizes):
    whole = "".join(chr(97 + n % 26) * size for n, size in enumerate(sizes))
    found = output(iter(chunks(*(chr(97 + n % 26) * size for n, size in enumerate(sizes)))))
    if not sizes:
        assert found == []
        return
    [part] = found
    end = "".join(part.end)
    assert len(part.beginning) + part.left_out + len(end) == len(whole)
    assert whole.startswith(part.beginning)
    assert whole.endswith(end)
    assert (len(part.beginning), len(end)) == (
        min(BEGINNING, len(whole)),
        min(END, max(0, len(whole) - BEGINNING)),
    )


def test_the_latest_attempts_are_shown_each_by_itself():
    tried = [chunk for attempt in range(1, 10) for chunk in chunks("a", f"{attempt}", attempt=attempt)]
    found = output(iter(tried))
    assert [(part.attempt, part.beginning) for part in found] == [(n, f"a{n}") for n in range(10 - ATTEMPTS, 10)]
