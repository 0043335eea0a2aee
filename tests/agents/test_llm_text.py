"""Text from tokens as they come."""

from hypothesis import given
from hypothesis import strategies as st

from agents.llm.text import TextStream


def _decode(ids):
    return bytes(ids).decode("utf-8", "replace")


def _fed(text: str, stop=()) -> tuple[TextStream, list[str]]:
    stream, pieces = TextStream(_decode, stop), []
    for token in text.encode():
        pieces.append(stream.feed(token))
        if stream.stopped:
            break
    else:
        pieces.append(stream.finish())
    return stream, pieces


@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text(text):
    stream, pieces = _fed(text)
    assert "".join(pieces) == stream.text == text


@given(st.text(alphabet="abé", max_size=30), st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3))
def test_nothing_from_a_stop_string_on_is_let_out(text, stop):
    stream, pieces = _fed(text, stop)
    wanted = next((text[:place] for place in range(len(text) + 1) if any(text[:place].endswith(s) for s in stop)), None)
    if wanted is None:
        assert "".join(pieces) == text and not stream.stopped
    else:
        assert stream.stopped
        assert "".join(pieces) == stream.text
        assert wanted.startswith(stream.text) and any(wanted[len(stream.text) :].startswith(s) for s in stop)


def test_no_half_character_is_handed_over():
    assert _fed("aé🎉b")[1] == ["a", "", "é", "", "", "", "🎉", "b", ""]


def test_bytes_that_are_no_character_do_not_block_what_follows():
    stream = TextStream(_decode)
    pieces = [stream.feed(token) for token in b"\xff" * 9 + b"abc"]
    assert "".join(pieces).endswith("abc")


def test_text_is_handed_over_as_soon_as_it_is_no_stop_string():
    stream = TextStream(_decode, ["\nQ:"])
    assert [stream.feed(token) for token in b"A\nB"] == ["A", "", "\nB"]
