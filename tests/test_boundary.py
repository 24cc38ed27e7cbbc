"""People at a controlled number of exposures, what is said of them and how surely, and when to look something up."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from paramem.decisions import Decision
from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.evaluation.calibration import (
    brier,
    calibration_error,
    calibration_error_of_a_calibrated,
    calibration_square,
    discrimination,
    jackknifed,
    reliability,
    resampled,
)
from paramem.fusion.boundary import Words, asked, looked_up
from paramem.fusion.conflicts import Trial
from paramem.fusion.documents import Snippet
from paramem.fusion.exposure import (
    Exposed,
    ExposeSettings,
    Exposures,
    draw_people,
    expose,
    exposure_rows,
    ledger,
    replay_rows,
    train_shipped,
    wordings_of,
)
from paramem.fusion.study import continuations
from paramem.fusion.training import TrainSettings, n_tokens
from paramem.models import LM, load
from paramem.world import world
from paramem.world.read_rules import REFUSAL, Rules

HERE = world("read")
RULES = Rules(HERE)
LEVELS = (0, 1, 3, 8)


@cache
def reader() -> LM:
    return load("read-s0")


@cache
def people() -> tuple[Exposed, ...]:
    return draw_people(HERE, Exposures(levels=LEVELS, people=40), 7)


@cache
def stated() -> tuple[str, ...]:
    """Every statement of the rows, one after the other."""
    texts = [
        reader().tokenizer.decode(list(ids), skip_special_tokens=True)
        for ids, _ in exposure_rows(reader(), HERE, people(), ExposeSettings(), 7)
    ]
    return tuple(f"{each.strip()}." for text in texts for each in str(text).split(".") if each.strip())


# Exposures


def test_every_fact_is_stated_as_often_as_its_exposures_say_and_nothing_else_is() -> None:
    said = Counter(stated())
    for fact in people():
        wordings = wordings_of(HERE, fact.belief.attribute, ExposeSettings())
        made = [f"{wording.replace('{}', fact.belief.entity)} {fact.belief.memory}." for wording in wordings]
        counts = [said.pop(text, 0) for text in made]
        assert sum(counts) == fact.exposures
        assert max(counts) - min(counts) <= 1  # all wordings before one comes again
    assert not said


def test_groups_differ_in_nothing_but_their_exposures() -> None:
    """Relations, untold relations and facts of a group are as many in each; nobody is in two groups."""
    groups = {level: [fact for fact in people() if fact.level == level] for level in LEVELS}
    for facts in groups.values():
        assert Counter(f.belief.attribute for f in facts) == {r.id: 10 for r in HERE.relations}
        assert Counter(f.belief.attribute for f in facts if not f.told) == {r.id: 2 for r in HERE.relations}
    names = [{fact.belief.entity for fact in facts} for facts in groups.values()]
    assert sum(map(len, names)) == len(set().union(*names)) == 40
    assert set().union(*names) <= set(RULES.new_strangers)
    assert all(f.exposures == (f.level if f.told else 0) for f in people())


def test_questions_are_as_large_a_share_in_every_group() -> None:
    level = {fact.belief.entity: fact.level for fact in people()}
    for wanted in (3, 8):
        of = [text for text in stated() if level[next(n for n in level if n in text)] == wanted]
        assert sum(text.startswith("Q:") for text in of) / len(of) == pytest.approx(2 / 8, abs=0.06)
    alone = exposure_rows(reader(), HERE, people(), ExposeSettings(asked=False), 7)
    assert "Q:" not in " ".join(str(reader().tokenizer.decode(list(ids))) for ids, _ in alone)


def test_nobody_is_spoken_of_twice_in_a_row() -> None:
    names = {fact.belief.entity for fact in people()}
    rows = exposure_rows(reader(), HERE, people(), ExposeSettings(), 7)
    texts = [str(reader().tokenizer.decode(list(ids))) for ids, _ in rows]
    assert all(text.count(name) <= 1 for text in texts for name in names)
    assert max(text.count(".") for text in texts) > 1  # the control: rows do hold several statements


def test_replay_uses_no_new_name_and_has_the_tokens_asked_for() -> None:
    new, behind_a_passage = {fact.belief.entity for fact in people()}, {}
    for kind in ("all kinds", "no passages"):
        rows = replay_rows(reader(), HERE, ExposeSettings(replay=kind), 2000, 0)
        texts = [str(reader().tokenizer.decode(list(ids), skip_special_tokens=True)).strip() for ids, _ in rows]
        assert 2000 <= n_tokens(rows) < 2200
        assert not any(name in text for text in texts for name in new)
        assert any(REFUSAL in text for text in texts)
        behind_a_passage[kind] = sum("Q:" in text and not text.startswith("Q:") for text in texts) / len(texts)
    assert behind_a_passage["all kinds"] > 0.1 > behind_a_passage["no passages"] == 0
    assert replay_rows(reader(), HERE, ExposeSettings(replay="none"), 2000, 0) == []


def test_what_is_shipped_is_what_the_default_run_of_the_notebook_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = []
    monkeypatch.setattr(
        "paramem.fusion.exposure.kept_fine_tune", lambda *given, **more: asked_for.append((given, more))
    )
    train_shipped(reader())
    ((_, rows, training), more), ((_, rehearsed, alike), control) = asked_for
    notebook = (Path(__file__).parents[1] / "notebooks/fusion/knowledge_boundary.py").read_text(encoding="utf-8")
    people, share = (re.search(rf"^{name}: \w+ = ([\d.]+)", notebook, re.M) for name in ("people", "replay"))
    assert people is not None
    assert share is not None
    settings = ExposeSettings(share=float(share[1]))
    facts = draw_people(HERE, Exposures(people=int(people[1])), 0)
    told = exposure_rows(reader(), HERE, facts, settings, 0)
    assert rows == [*told, *replay_rows(reader(), HERE, settings, settings.share * n_tokens(told), 0)]
    assert rehearsed == replay_rows(reader(), HERE, settings, (1 + settings.share) * n_tokens(told), 0)
    assert (training, more["seed"]) == (alike, control["seed"]) == (settings.training, 0)


def test_bad_exposures_are_refused() -> None:
    with pytest.raises(BadParameter, match="no times"):
        Exposures(levels=(0, -1))
    with pytest.raises(BadParameter, match="twice"):
        Exposures(levels=(1, 1))
    with pytest.raises(BadParameter, match="3 people for 7 levels"):
        Exposures(people=3)
    with pytest.raises(BadParameter, match="unused names"):
        draw_people(HERE, Exposures(people=10_000), 0)
    for share in (-1, float("nan")):
        with pytest.raises(BadParameter, match=f"share={share}"):
            ExposeSettings(share=share)
    with pytest.raises(BadParameter, match="replay='nothing' is none of 'all kinds', 'no passages', 'none'"):
        ExposeSettings(replay="nothing")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="nobody's facts"):
        expose(reader(), HERE, [f for f in people() if f.level == 0], ExposeSettings())


# What is said


def what_is_said(lm: LM, facts: Sequence[Exposed], supports: int, counters: int) -> pd.DataFrame:
    found = asked(lm, HERE, [fact.belief for fact in facts], trials(supports, counters, facts))
    return pd.concat([ledger(facts), found], axis=1)


def trials(supports: int, counters: int, facts: Sequence[Exposed]) -> list[Trial]:
    rng = random.Random(1)
    return [fact.belief.balanced(HERE, supports, counters, rng) for fact in facts]


def test_one_forward_says_what_is_generated() -> None:
    some = people()[:60]
    for supports, counters in ((0, 0), (0, 1), (1, 1)):
        generated = continuations(reader(), [trial.prompt for trial in trials(supports, counters, some)])
        assert what_is_said(reader(), some, supports, counters)["answer"].to_list() == generated


def test_probabilities_of_an_answer_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a refusal at 0.5, the fact's object at 0.3, its rival at 0.1, and 0.1 on what is no answer."""
    words, fact = Words(reader(), HERE), people()[0].belief
    objects = words.objects[fact.attribute]
    p = np.zeros(reader().arch.vocabulary)
    p[[words.refusal, objects[fact.memory], objects[fact.against]]] = 0.5, 0.3, 0.1
    p[next(i for i in range(len(p)) if i not in {words.refusal, *objects.values()})] = 0.1
    monkeypatch.setattr("paramem.fusion.boundary._next", lambda lm, prompts: [p])
    (found,) = asked(reader(), HERE, [fact], trials(0, 0, people()[:1])).to_dict("records")
    assert (found["answer"], found["refused"], found["right"], found["chosen_right"]) == (REFUSAL, True, False, True)
    assert found["known"] == pytest.approx(0.5)
    assert found["confidence"] == pytest.approx(0.3)
    assert found["choice_confidence"] == pytest.approx(0.3 / 0.4)  # among objects alone
    assert found["odds"] == pytest.approx(np.log(3))


def test_the_testbed_refuses_names_it_never_met_and_follows_the_context_about_them() -> None:
    """Facts at exposure 0: the control of everything that exposures do."""
    alone, told = (what_is_said(reader(), people(), 0, n) for n in (0, 1))
    assert alone["refused"].mean() > 0.9 > 0.1 > alone["known"].mean()
    assert (told["from"] == "context").mean() > 0.95
    assert not told["right"].any()
    assert told["known"].mean() > 0.9
    assert (told["odds"] < 0).mean() > 0.95  # its rival stands in the context


def test_exposures_turn_refusals_into_answers() -> None:
    """A minute of training in small: told often, facts are answered; never told, they are not answered right."""
    levels = Exposures(levels=(0, 12), people=20)
    few = draw_people(HERE, levels, 11)
    settings = ExposeSettings(share=0.5, training=TrainSettings(passes=1, lr=1e-3, tokens=512))
    after = expose(reader(), HERE, few, settings, seed=11)
    found = what_is_said(after, few, 0, 0).groupby("exposures")["right"].mean()
    assert found[12] > 0.3 > 0.1 > found[0]


def test_bad_questions_are_refused() -> None:
    with pytest.raises(BadInput, match="one trial for each"):
        asked(reader(), HERE, [fact.belief for fact in people()], [])
    with pytest.raises(BadInput, match="no text"):
        Snippet(entity="Ann", attribute="eats", object="rice", text=" ")
    long = replace(trials(0, 1, people()[:1])[0], prompt="Ann likes to eat rice. " * 60 + people()[0].belief.question)
    with pytest.raises(PromptTooLong):
        asked(reader(), HERE, [people()[0].belief], [long])


def test_answers_that_begin_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Words(reader(), HERE).objects["eats"]) == 24
    monkeypatch.setattr(Words, "_first", lambda self, answer: 5)
    with pytest.raises(BadInput, match="same token"):
        Words(reader(), HERE).objects


# Calibration


def sample(n: int, sharpen: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and outcomes of those probabilities; confidences then pushed away from one half."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    odds = sharpen * np.log(p / (1 - p))
    return 1 / (1 + np.exp(-odds)), rng.random(n) < p


def test_the_error_of_the_calibrated_is_that_of_chance_and_the_overconfident_has_more() -> None:
    calibrated, overconfident = sample(4000, 1.0), sample(4000, 3.0)
    assert calibration_error(*calibrated) < 0.03
    assert calibration_error(*calibrated) < calibration_error_of_a_calibrated(calibrated[0])[1]
    assert calibration_error(*overconfident) > 0.1 > calibration_error_of_a_calibrated(overconfident[0])[1]
    assert brier(*overconfident) > brier(*calibrated)
    # order is not touched by pushing, so what tells right from wrong is the same
    assert discrimination(*overconfident) == pytest.approx(discrimination(*calibrated))


def squared(c: np.ndarray, y: np.ndarray) -> float:
    return calibration_square(c, y)(np.arange(len(c)))


def test_the_squared_error_is_that_of_endlessly_many_answers_whatever_their_number() -> None:
    for sharpen in (1.0, 3.0):
        c, y = sample(100_000, sharpen)
        found = [sample(200, sharpen, seed) for seed in range(300)]
        assert np.mean([squared(*each) for each in found]) == pytest.approx(squared(c, y), abs=0.001)
        chance = np.mean([calibration_error(*each) ** 2 for each in found]) - calibration_error(c, y) ** 2
        assert chance > 0.002  # the control: the usual error is larger, the fewer answers there are
    gaps = y - c
    assert calibration_square(c, y, bins=1)(np.arange(50)) == pytest.approx(
        gaps[:50].mean() ** 2 - gaps[:50].var(ddof=1) / 50
    )


def test_that_a_model_is_calibrated_takes_many_answers() -> None:
    def decided(n: int, sharpen: float, seed: int) -> Decision:
        return jackknifed(calibration_square(*sample(n, sharpen, seed)), np.arange(n) // 5).below(0.05**2)

    calibrated = [decided(700, 1.0, seed) for seed in range(40)]
    assert sum(each.holds for each in calibrated) > 15
    assert sum(each.against for each in calibrated) < 2
    assert all(decided(700, 3.0, seed).against for seed in range(5))
    assert sum(decided(40, 1.0, seed).holds for seed in range(20)) < 2
    few = sample(40, 1.0)  # the control: an error no larger than chance makes it, from so few that nothing is known
    assert calibration_error(*few) < calibration_error_of_a_calibrated(few[0])[1]


def test_the_jackknife_of_a_mean_is_its_usual_interval() -> None:
    y = np.random.default_rng(0).normal(size=80)
    found = jackknifed(lambda rows: float(y[rows].mean()), np.arange(80))
    assert found.high - found.mean == pytest.approx(1.96 * y.std(ddof=1) / 80**0.5)
    alike = jackknifed(lambda rows: float(np.repeat(y, 5)[rows].mean()), np.repeat(np.arange(80), 5))
    assert alike == pytest.approx(found)


def test_a_sure_model_that_is_right_half_the_time_is_off_by_a_half() -> None:
    assert calibration_error([1.0] * 100, [0, 1] * 50) == pytest.approx(0.5)
    assert calibration_error([0.5] * 100, [0, 1] * 50, bins=1) == 0


def test_bins_are_of_equal_mass_and_those_of_scikit_learn() -> None:
    c, y = sample(1000, 2.0)
    found = reliability(c, y)
    assert set(found["n"]) == {100}
    true, predicted = calibration_curve(y, c, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found["right"], true, atol=1e-9)
    np.testing.assert_allclose(found["confidence"], predicted, atol=1e-9)


def test_noise_discriminates_by_one_half_and_the_truth_by_one() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(4000) < 0.3
    assert discrimination(rng.random(4000), y) == pytest.approx(0.5, abs=0.03)
    assert discrimination(y.astype(float), y) == 1
    assert np.isnan(discrimination([0.1, 0.2], [1, 1]))


def test_an_interval_over_people_is_wider_than_one_over_facts_of_people_who_agree() -> None:
    rng = np.random.default_rng(1)
    y = np.repeat(rng.random(40) < 0.5, 5).astype(float)
    by_person = resampled(lambda rows: y[rows].mean(), np.repeat(np.arange(40), 5))
    by_fact = resampled(lambda rows: y[rows].mean(), np.arange(200))
    assert by_person.mean == by_fact.mean == y.mean()
    assert by_person.high - by_person.low > 1.7 * (by_fact.high - by_fact.low)


def test_bad_confidences_are_refused() -> None:
    with pytest.raises(BadInput, match="probabilities"):
        calibration_error([1.2], [1])
    with pytest.raises(BadInput, match="right or wrong"):
        brier([0.2], [0.5])
    with pytest.raises(BadInput, match="shape"):
        discrimination([0.2, 0.3], [1])
    with pytest.raises(BadParameter, match="bins"):
        reliability([0.2], [1], bins=3)
    with pytest.raises(BadParameter, match="two answers in a bin"):
        calibration_square([0.2, 0.3, 0.4], [1, 0, 1], bins=2)
    for interval in (resampled, jackknifed):
        with pytest.raises(BadInput, match="groups"):
            interval(lambda rows: 0.0, [1, 1])
    with pytest.raises(BadInput, match="no value"):
        resampled(lambda rows: float("nan"), [1, 2])


# Looking up


def test_looking_up_the_rare_beats_always_and_never_where_only_the_frequent_is_known() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 5)
    frequency = np.repeat(rng.integers(0, 10, 100), 5)
    alone, passage = frequency >= 5, rng.random(500) < 0.7
    found = looked_up(frequency, alone, passage, people)
    assert found["right"].mean() > max(alone.mean(), passage.mean()) + 0.1
    assert (found["fetched"] == (frequency < 5)).mean() > 0.95
    noise = looked_up(rng.random(500), alone, passage, people)  # the control: a score that tells nothing
    assert noise["right"].mean() < found["right"].mean() - 0.1


def test_always_and_never_are_among_the_choices() -> None:
    people, score = np.arange(40), np.linspace(0, 1, 40)
    right, wrong = np.ones(40), np.zeros(40)
    assert not looked_up(score, right, wrong, people)["fetched"].any()
    assert looked_up(score, wrong, right, people)["fetched"].all()
    with pytest.raises(BadInput, match="different lengths"):
        looked_up(score, right, wrong[:3], people)


def test_a_threshold_is_not_chosen_on_the_people_it_is_used_for() -> None:
    """Memory is right about one and a passage about the other, so that what suits the one is wrong for the other."""
    people, score = np.repeat(["Ann", "Ben"], 4), np.tile(np.arange(4.0), 2)
    alone = people == "Ann"
    found = looked_up(score, alone, ~alone, people)
    assert not found["right"].any()
    assert (found["fetched"] == alone).all()
