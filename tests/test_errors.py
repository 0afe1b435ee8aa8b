"""The message of an error that user input raises."""

import pytest

from speakerverif.errors import LONGEST_MESSAGE, InputError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.wav: René, 名前, ı, \ttabs", "a.wav: René, 名前, ı, \ttabs"),
        ("\x1b[2Ja", r"\x1b[2Ja"),
        ("a\rb\x07\x85", r"a\rb\x07\x85"),
        ("\udce9.wav", r"\udce9.wav"),
        ("abc\u202egpj.wav", r"abc\u202egpj.wav"),
        ("line\u2028separator", r"line\u2028separator"),
    ],
)
def test_what_could_disturb_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert str(InputError(text)) == shown


def test_the_middle_of_a_long_message_is_left_out() -> None:
    text = str(InputError("list.tsv:3: " + "x" * 10**6 + ": expected a number"))
    assert len(text) < LONGEST_MESSAGE + 50
    assert text.startswith("list.tsv:3: xxx") and text.endswith("xxx: expected a number")
    assert "[... 996,031 characters ...]" in text
