"""Runs of thirteen words tell evaluation text in calibration text, whatever its dress."""

from hypothesis import given
from hypothesis import strategies as st

from builders.quantize.leak import GRAM, overlap

QUESTION = (
    "Which of the two moons of Mars is the larger one, and how long does it take to orbit it?"
)


def test_a_question_is_found_whatever_its_case_and_punctuation():
    dressed = "Quiz — " + QUESTION.upper().replace(" ", "\n ").replace(",", ";") + " Phobos."
    leak = overlap({"calib.jsonl:3": dressed}, [QUESTION])
    assert leak.grams == leak.shared == len(QUESTION.split()) - GRAM + 1
    assert (leak.texts, leak.first, leak.share) == (1, "calib.jsonl:3", 1.0)
    assert leak.words.startswith("which of the two moons of mars is the larger")


def test_twelve_words_in_a_row_are_no_leak():
    words = QUESTION.split()
    leak = overlap({"a": " ".join(words[:12]) + " and " + " ".join(words[13:])}, [QUESTION])
    assert (leak.shared, leak.texts, leak.first) == (0, 0, "")


def test_a_short_evaluation_text_counts_whole_and_a_very_short_one_not_at_all():
    short = "List the largest rivers of Europe by their length"  # nine words
    assert overlap({"a": f"Please. {short}! Thanks."}, [short]).shared == 1
    assert overlap({"a": short}, ["List the rivers of Europe"]).grams == 0


def test_what_is_shared_is_counted_once_however_often_it_stands_there():
    leak = overlap({"a": QUESTION + QUESTION, "b": QUESTION, "c": "else"}, [QUESTION, QUESTION])
    assert leak.shared == leak.grams
    assert leak.texts == 2
    assert str(leak) == "8 of 8 runs of 13 words (100.00%)"


def test_no_evaluation_is_no_leak():
    assert overlap({"a": QUESTION}, []).share == 0.0


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(0, 40))
def test_any_cut_of_thirteen_words_is_found(words, at):
    text = " ".join(words)
    cut = words[at : at + GRAM]
    leak = overlap({"a": text}, [" ".join(cut)])
    assert leak.shared == leak.grams
