"""The perplexity gate sees what it should see, and refuses to judge through a broken instrument."""

import json
import math
from dataclasses import replace

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.scoring import packed, perplexity
from builders.parse import Table
from builders.progress import silent
from builders.verdict import Outcome
from fakes.scorers import Arithmetic, Broken

WORDS = "the cat sat on the mat and looked at the rain, which fell as it falls in autumn; "


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = [f"{number} {WORDS * 8}" for number in range(8)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def settings(path, **values):
    data = {"corpus": [path.name], "window": 64, "margin": 0.02, **values}
    return perplexity.parse(Table(data, place="p.toml"), beside=path.parent, confidence=0.95)


def measured(folder, scorer, chosen):
    folder.mkdir()
    perplexity.measure(scorer, chosen, folder, silent)
    return folder


def judged(tmp_path, chosen, candidate, baseline=None):
    ours = measured(tmp_path / "baseline", baseline or Arithmetic(), chosen)
    theirs = measured(tmp_path / "candidate", candidate, chosen)
    (verdict,) = perplexity.judge(ours, theirs, chosen)
    return verdict


def test_the_same_model_passes_with_no_difference_at_all(tmp_path, corpus):
    verdict = judged(tmp_path, settings(corpus), Arithmetic())
    assert (verdict.worse_by, verdict.low, verdict.high) == (0.0, 0.0, 0.0)
    assert verdict.outcome is Outcome.PASSED


def test_a_known_harm_is_found_as_a_relative_increase(tmp_path, corpus):
    verdict = judged(tmp_path, settings(corpus), Arithmetic(harm=0.05))
    assert verdict.worse_by == pytest.approx(math.expm1(0.05), rel=1e-5)
    assert verdict.outcome is Outcome.FAILED
    numbers = dict(verdict.numbers)
    ratio = numbers["candidate perplexity"] / numbers["baseline perplexity"]
    assert verdict.worse_by == pytest.approx(ratio - 1, rel=1e-9)


def test_harm_within_the_margin_passes(tmp_path, corpus):
    verdict = judged(tmp_path, settings(corpus), Arithmetic(harm=0.01))
    assert verdict.outcome is Outcome.PASSED


def test_harm_that_scatters_around_the_margin_is_inconclusive_and_says_what_would_help(
    tmp_path, corpus
):
    chosen = settings(corpus, windows=6, margin=0.04)
    verdict = judged(tmp_path, chosen, Arithmetic(noise=0.05))
    assert verdict.low < 0.04 < verdict.high
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "units would settle it" in verdict.detail


def test_another_margin_judges_the_same_evidence_again(tmp_path, corpus):
    chosen = settings(corpus)
    judged(tmp_path, chosen, Arithmetic(harm=0.05))
    wide = replace(chosen, margin=0.1)
    assert perplexity.inputs(wide) == perplexity.inputs(chosen)
    (verdict,) = perplexity.judge(tmp_path / "baseline", tmp_path / "candidate", wide)
    assert verdict.outcome is Outcome.PASSED


@pytest.mark.parametrize(
    "change",
    [{"window": 32}, {"stride": 16}, {"windows": 3}, {"prefix": True}, {"documents": "joined"}],
)
def test_whatever_changes_the_measurement_changes_its_key(corpus, change):
    assert perplexity.inputs(settings(corpus, **change)) != perplexity.inputs(settings(corpus))


def test_a_changed_corpus_changes_the_key(corpus):
    before = perplexity.inputs(settings(corpus))
    corpus.write_text(corpus.read_text() + '{"text": "more"}\n')
    assert perplexity.inputs(settings(corpus)) != before


@pytest.mark.parametrize(
    ("change", "scored"),
    [
        ({}, lambda tokens: tokens - -(-tokens // 64)),
        ({"prefix": True}, lambda tokens: tokens),
        ({"stride": 16}, lambda tokens: tokens - 1),
        ({"documents": "joined"}, None),
    ],
)
def test_tokens_count_once_in_every_form(tmp_path, corpus, change, scored):
    chosen = settings(corpus, **change)
    verdict = judged(tmp_path, chosen, Arithmetic())
    lengths = [len(json.loads(line)["text"].encode()) for line in corpus.read_text().splitlines()]
    if scored is None:
        total = sum(lengths) + 2 * len(lengths)
        expected = total - -(-total // 64)
    else:
        expected = sum(map(scored, lengths))
    assert dict(verdict.numbers)["tokens"] == expected


def test_joined_rows_belong_to_the_document_in_which_they_begin(tmp_path, corpus):
    chosen = settings(corpus, documents="joined")
    folder = measured(tmp_path / "e", Arithmetic(), chosen)
    units = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert units[0]["unit"] == "corpus.jsonl:1+0"
    assert len({unit["document"] for unit in units}) == 8
    assert len({unit["unit"] for unit in units}) == len(units)


def test_every_token_is_kept_to_the_bit(tmp_path, corpus):
    scorer = Arithmetic()
    chosen = settings(corpus, windows=1)
    folder = measured(tmp_path / "e", scorer, chosen)
    (unit,) = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    text = json.loads(corpus.read_text().splitlines()[0])["text"]
    (score,) = scorer.score([scorer.tokenize(text)[:64]])
    kept = packed.unpacked_floats(unit["logprobs"])
    assert kept == score.logprobs.tolist()
    assert unit["nll"] == -math.fsum(kept)


def test_an_instrument_that_cannot_see_is_void_for_either_model(tmp_path, corpus):
    chosen = settings(corpus)
    blind = Broken(Arithmetic(), 0.0)
    with pytest.raises(EvidenceError, match=r"void, all log-probabilities of the candidate"):
        judged(tmp_path, chosen, blind)
    with pytest.raises(EvidenceError, match=r"void, all log-probabilities of the baseline"):
        perplexity.judge(tmp_path / "candidate", tmp_path / "baseline", chosen)


def test_a_baseline_no_better_than_guessing_is_void(tmp_path, corpus):
    worse = Arithmetic(harm=6.0)
    with pytest.raises(EvidenceError, match="no better than guessing among 256"):
        judged(tmp_path, settings(corpus), Arithmetic(), baseline=worse)


def test_a_wrecked_candidate_fails_and_is_not_void(tmp_path, corpus):
    assert judged(tmp_path, settings(corpus), Arithmetic(harm=9.0)).outcome is Outcome.FAILED


def test_nan_and_impossible_scores_are_no_evidence(tmp_path, corpus):
    with pytest.raises(EvidenceError, match="not a finite number"):
        measured(tmp_path / "nan", Broken(Arithmetic(), math.nan), settings(corpus))
    with pytest.raises(EvidenceError, match=r"above zero in corpus\.jsonl"):
        measured(tmp_path / "above", Broken(Arithmetic(), 0.5), settings(corpus))


def test_models_that_read_different_tokens_are_not_compared(tmp_path, corpus):
    chosen = settings(corpus)
    ours = measured(tmp_path / "a", Arithmetic(), chosen)
    corpus.write_text(corpus.read_text().replace("cat", "cow"))
    theirs = measured(tmp_path / "b", Arithmetic(), chosen)
    with pytest.raises(EvidenceError, match="different row"):
        perplexity.judge(ours, theirs, chosen)


def test_a_single_window_has_no_spread(tmp_path, corpus):
    with pytest.raises(EvidenceError, match="no spread"):
        judged(tmp_path, settings(corpus, windows=1), Arithmetic())


def test_a_window_longer_than_the_context_is_refused_with_the_longest_that_fits(tmp_path, corpus):
    with pytest.raises(UsageError, match="window = 64") as error:
        measured(tmp_path / "e", Arithmetic(context=50), settings(corpus))
    assert "window = 50" in error.value.hint


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"stride": 65}, "leaves out tokens"),
        ({"stride": 64, "prefix": True}, "leaves out tokens"),
        ({"window": 1}, "window must be"),
        ({"documents": "glued"}, "documents = 'glued'"),
        ({"widow": 9}, "unknown key widow"),
        ({"corpus": "c.jsonl"}, "corpus must be a list"),
        ({"margin": -0.1}, "margin must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(corpus, change, error):
    with pytest.raises(UsageError, match=error):
        settings(corpus, **change)


@pytest.mark.parametrize("names", [[], ["none.jsonl"]])
def test_a_corpus_that_is_not_there_is_refused_before_any_work(corpus, names):
    with pytest.raises(UsageError, match=r"no file|no such file"):
        perplexity.check(settings(corpus, corpus=names))
