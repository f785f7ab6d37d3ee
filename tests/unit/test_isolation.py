"""Texts of others have no effect on the text around them, whatever controls of direction they have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from email_integration.admin.isolation import isolated, isolated_text, whole_addresses

BEGIN, END = "\u2066\u2067\u2068", "\u2069"
#: Among them an override, and each character that ends a paragraph and with it all isolates.
CHARACTERS = st.sampled_from(["a", "\u0634", "\u202e", "\u202c", *BEGIN, END, "\n", "\u2029", "\x1c"])


def lowest_and_last_depth(text: str) -> tuple[int, int]:
    depths = [0]
    for character in text:
        depths.append(depths[-1] + (character in BEGIN) - (character == END))
    return min(depths), depths[-1]


@given(st.text(CHARACTERS))
def test_a_text_cannot_end_its_own_isolation_or_begin_one_of_what_follows(text: str) -> None:
    inner = str(isolated(text)).removeprefix("<bdi>").removesuffix("</bdi>")
    assert lowest_and_last_depth(inner) == (0, 0)
    assert not {"\n", "\u2029", "\x1c"} & set(inner)
    assert "".join(c for c in inner if c not in {END, " "}) == "".join(
        c for c in text if c not in {END, *"\n\u2029\x1c"}
    )


@given(st.text(CHARACTERS))
def test_a_title_is_isolated_if_it_can_turn_what_follows(text: str) -> None:
    shown = isolated_text(text)
    assert shown == text or (shown[0] in BEGIN and shown[-1] == END and lowest_and_last_depth(shown) == (0, 0))
    assert shown == text or lowest_and_last_depth(shown[1:-1]) == (0, 0)


def test_plain_text_stays_as_it_is_and_can_be_found_and_copied() -> None:
    assert isolated_text("Shop GmbH – 24/7 “new”") == "Shop GmbH – 24/7 “new”"
    assert isolated("<b>") == "<bdi>&lt;b&gt;</bdi>"


def test_a_text_in_a_language_from_right_to_left_keeps_all_its_letters() -> None:
    for text in ("\u05e9\u05dc\u05d5\u05dd", f"\u2067\u05d0{END} 1"):
        assert isolated(text) == f"<bdi>{text}</bdi>"
        assert isolated_text(text) == f"\u2068{text}{END}"


def test_each_address_of_a_sentence_is_an_element_without_the_words_and_controls_around_it() -> None:
    assert whole_addresses("refused <kim@example.com>: 5 > 3, \u202elee@example.com") == (
        'refused &lt;<span class="email-address">kim@example.com</span>&gt;: 5 &gt; 3, '
        '\u202e<span class="email-address">lee@example.com</span>'
    )
    assert whole_addresses("@all, at 5 @ 3") == "@all, at 5 @ 3"


def test_half_of_a_surrogate_pair_can_be_sent_to_a_browser() -> None:
    for shown in (isolated("a\ud800b"), isolated("a\ud800b", "a\ud800"), isolated_text("a\ud800b")):
        assert "a?" in shown.encode().decode()
