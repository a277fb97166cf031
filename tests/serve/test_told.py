"""Whatever a server answers, it is understood as scores of every token, or refused as an error."""

import math
import random
from copy import deepcopy

import pytest

from builders.errors import BuildersError, EvidenceError
from builders.serve import told
from builders.serve.told import Echo, PromptLogprobs

ROW = [5, 17, 99, 300, 17]
ODD = (None, [], {}, "x", "", -1, 7, 10**30, 0.5, True, math.nan, -math.inf, [None], {"x": 1})


def numbered():
    places = [None]
    for token in ROW[1:]:
        other = {"logprob": -0.5, "rank": 1, "decoded_token": "%"}
        places.append({str(token): {"logprob": -1.5, "rank": 2, "decoded_token": "a"}, "7": other})
    return {"prompt_logprobs": places, "prompt_token_ids": list(ROW)}


def echoed():
    def place(token):
        return {f"token_id:{token}": -1.5, "token_id:7": -0.5}

    columns = {
        "tokens": [f"token_id:{token}" for token in ROW],
        "token_logprobs": [None, *[-1.5] * (len(ROW) - 1)],
        "top_logprobs": [None, *map(place, ROW[1:])],
    }
    return {"logprobs": columns}


def whole(choice):
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": len(ROW)}}


WAYS = {
    "prompt_logprobs": (PromptLogprobs(), whole(numbered())),
    "echo": (Echo(str, 0), whole(echoed())),
}


def understood(way, answer):
    places = way.reads("m", ROW, told.answer("m", "m", ROW, answer))
    return told.scores(places), places


@pytest.mark.parametrize("name", WAYS)
def test_an_honest_answer_is_understood(name):
    way, answer = WAYS[name]
    scores, places = understood(way, answer)
    assert scores.logprobs.tolist() == [-1.5] * 4
    assert scores.greedy.tolist() == [0] * 4
    likely = told.choices("m", places, 2)
    assert likely.tokens.tolist() == [[7, token] for token in ROW[1:]]
    assert likely.logprobs.tolist() == [[-0.5, -1.5]] * 4
    with pytest.raises(EvidenceError, match="fewer than the 3 likeliest tokens"):
        told.choices("m", places, 3)


def places_of(node, path=()):
    """Every place within an answer."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in items:
        if isinstance(child, dict | list):
            yield from places_of(child, (*path, key))
        else:
            yield (*path, key)


def spoilt(answer, path, value, dice):
    made = deepcopy(answer)
    *inner, last = path
    node = made
    for key in inner:
        node = node[key]
    what = dice.choice(("put", "drop", "add"))
    if what == "put":
        node[last] = value
    elif what == "drop":
        del node[last]
    elif isinstance(node, list):
        node.insert(last, value)
    else:
        node[f"{last}x"] = value
    return made


@pytest.mark.parametrize("name", WAYS)
def test_no_answer_breaks_anything_but_itself(name):
    way, answer = WAYS[name]
    dice, refused = random.Random(11), 0
    for path in places_of(answer):
        for value in ODD:
            try:
                scores, _ = understood(way, spoilt(answer, path, value, dice))
            except BuildersError:
                refused += 1
            else:
                assert len(scores.logprobs) == len(ROW) - 1
                assert all(map(math.isfinite, scores.logprobs))
    assert refused > 300


def test_a_likely_token_that_is_no_number_hides_no_first_choice():
    answer = whole(echoed())
    answer["choices"][0]["logprobs"]["top_logprobs"][2]["token_id:7"] = math.nan
    with pytest.raises(EvidenceError, match="a likely token's log-probability is not a number"):
        understood(Echo(str, 0), answer)


@pytest.mark.parametrize(
    ("said", "own", "same"),
    [
        (" the", "the", True),
        ("▁the", " the", True),
        ("Ġthe", " the", True),
        ("\ufffd", "x", True),  # half of a character has no text of its own
        ("then", "the", False),
    ],
)
def test_a_token_without_a_number_is_known_by_its_text(said, own, same):
    answer = whole(echoed())
    answer["choices"][0]["logprobs"]["tokens"][2] = said
    way = Echo(lambda token: own, 0)
    if same:
        understood(way, answer)
    else:
        with pytest.raises(EvidenceError, match="'then' came back where 99"):
            understood(way, answer)
