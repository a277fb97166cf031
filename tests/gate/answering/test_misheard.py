"""Controls of the prompts gate: a server that does not listen is void, one that does is judged."""

import json

import pytest

from builders.errors import EvidenceError
from builders.gate import controls
from builders.gate.answering import prompts
from builders.gate.answering.prompts import Settings
from builders.progress import silent
from builders.verdict import Outcome
from fakes.endpoints import Scripted, opener

COUNT = 60


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"id": f"q{n}", "prompt": f"question number {n}", "scorer": "contains", "expect": f"-{n}."}
        for n in range(COUNT)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Settings(file=path, margin=0.15, confidence=0.95, controls=20, habits=(("length", 0.5),))


def right(prompt, _seed=0):
    return f"answer -{prompt.split()[-1]}. of course"


def folders(tmp_path, settings, baseline, candidate):
    found = {"baseline": opener(baseline), "candidate": opener(candidate)}
    made = {name: tmp_path / name for name in (*found, *controls.WHOSE)}
    for name, folder in made.items():
        folder.mkdir()
        if name in found:
            prompts.measure(found[name], settings, folder, silent)
        else:
            subject = found[controls.WHOSE[name]]
            controls.measure("prompts", name, subject, settings, folder, silent)
    return made


def test_an_equal_candidate_passes_with_both_controls_beside_it(tmp_path, settings):
    found = folders(tmp_path, settings, Scripted(right), Scripted(right))
    verdict, length = controls.judge("prompts", found, settings)
    assert verdict.outcome is Outcome.PASSED
    numbers = dict(verdict.numbers)
    assert numbers["baseline against itself"] == 0.0
    assert numbers["baseline damaged on purpose"] > 0.8
    assert numbers["answers of the baseline that changed when asked twice"] == 0.0
    assert verdict.label == "indistinguishable"
    assert (length.gate, length.band) == ("prompts.length", None)


def test_a_server_that_does_not_listen_is_void(tmp_path, settings):
    deaf = Scripted(lambda prompt, seed: " ".join(f"-{n}." for n in range(COUNT)))
    found = folders(tmp_path, settings, deaf, deaf)
    with pytest.raises(EvidenceError, match="void, a baseline damaged on purpose is worse by 0 "):
        controls.judge("prompts", found, settings)


def test_a_server_that_answers_otherwise_when_asked_again_is_void(tmp_path, settings):
    asked = []

    def moody(prompt, _seed):
        asked.append(prompt)
        return right(prompt) if len(asked) <= COUNT else "something else"

    found = folders(tmp_path, settings, Scripted(moody), Scripted(right))
    with pytest.raises(EvidenceError, match="void, the baseline measured twice differs"):
        controls.judge("prompts", found, settings)


def test_an_early_look_asks_few_prompts_and_fails_a_bad_candidate(tmp_path, settings):
    found = folders(tmp_path, settings, Scripted(right), Scripted(lambda prompt, seed: "no idea"))
    del found["candidate"]
    (verdict,) = controls.judge("prompts", found, settings, early=0.999)
    assert (verdict.label, verdict.units) == ("worse-early", 20)


def test_the_baseline_is_asked_again_one_at_a_time_under_other_seeds(tmp_path, settings):
    endpoint = Scripted(right)
    controls.measure("prompts", "again", opener(endpoint), settings, tmp_path, silent)
    assert endpoint.most_in_flight == 1
    assert {asked["seed"] for asked in endpoint.asked} == {settings.samples}
    assert len(endpoint.asked) == 20


def test_the_damaged_baseline_hears_half_of_the_prompt_before_always_the_same(tmp_path, settings):
    heard = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        endpoint = Scripted(right)
        controls.measure("prompts", "damaged", opener(endpoint), settings, tmp_path / name, silent)
        heard.append([asked["prompt"] for asked in endpoint.asked])
    assert heard[0] == heard[1]
    assert heard[0][0] == "a"
    assert all(set(said.split()) < {"question", "number", str(3 * n)}
               for n, said in enumerate(heard[0][1:]))  # fmt: skip
