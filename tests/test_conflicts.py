"""Contexts that support, complete, contradict or miss what a model remembers, and evidence in any balance."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest

from paramem.errors import BadInput, BadParameter
from paramem.fusion.conflicts import CONTEXTS, Belief, Trial, elicit, told
from paramem.fusion.tables import by_people
from paramem.models import LM, load
from paramem.world import world
from paramem.world.read_rules import REFUSAL, Rules

HERE = world("read")
RULES = Rules(HERE)


@cache
def reader() -> LM:
    return load("read-s0")


@cache
def beliefs() -> list[Belief]:
    return elicit(reader(), HERE, n=40, seed=3)


def test_beliefs_are_what_the_model_says_by_itself_of_people_in_no_passage() -> None:
    assert reader().generate([b.question for b in beliefs()], max_new_tokens=1) == [f" {b.memory}" for b in beliefs()]
    assert {b.entity for b in beliefs()} <= set(RULES.quiet)
    assert len({(b.entity, b.attribute) for b in beliefs()}) == len(beliefs())
    assert all(b.against != b.memory and b.against in RULES.objects[b.attribute] for b in beliefs())
    with pytest.raises(BadInput, match="holds"):
        elicit(reader(), HERE, n=10_000)


def test_parts_of_the_people_share_nobody() -> None:
    parts = [elicit(reader(), HERE, n=10, part=(k, 3)) for k in range(3)]
    names = [{b.entity for b in part} for part in parts]
    assert len(set().union(*names)) == sum(map(len, names))
    assert {b.entity for b in elicit(reader(), HERE, n=10)} & names[1]  # the control: the whole does share them
    with pytest.raises(BadParameter, match="part="):
        elicit(reader(), HERE, n=1, part=(3, 3))


@pytest.mark.parametrize(("supports", "counters"), [(0, 1), (1, 0), (1, 1), (2, 1), (1, 3)])
def test_evidence_is_counted_and_worded_differently(supports: int, counters: int) -> None:
    lasts: Counter[str] = Counter()
    for b in beliefs():
        trial = b.balanced(HERE, supports, counters, random.Random(b.entity))
        sentences = trial.prompt.removesuffix(b.question).strip().removesuffix(".").split(". ")
        objects = Counter(sentence.split()[-1] for sentence in sentences)
        assert objects == Counter({k: v for k, v in {b.memory: supports, b.against: counters}.items() if v})
        assert len({s.replace(b.memory, "").replace(b.against, "") for s in sentences}) == supports + counters
        assert sentences[-1].split()[-1] == (b.memory if trial.last == "support" else b.against)
        lasts[trial.last] += 1
    assert (len(lasts) == 2) == (supports > 0 and counters > 0)


def test_more_evidence_than_wordings_is_refused() -> None:
    with pytest.raises(BadParameter, match="wordings"):
        beliefs()[0].balanced(HERE, 4, 4, random.Random(0))
    with pytest.raises(BadParameter, match="-1 pieces"):
        beliefs()[0].balanced(HERE, -1, 1, random.Random(0))
    with pytest.raises(BadParameter, match="unknown context"):
        beliefs()[0].context(HERE, "hostile", random.Random(0))  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="0 sentences"):
        beliefs()[0].context(HERE, "irrelevant", random.Random(0), sentences=0)
    with pytest.raises(BadInput, match="no trials"):
        told(reader(), [])


def test_a_context_stands_in_its_relation_to_the_belief() -> None:
    for b in beliefs():
        found = {kind: b.context(HERE, kind, random.Random(1)) for kind in CONTEXTS}
        before = {kind: trial.prompt.removesuffix(b.question) for kind, trial in found.items()}
        assert all(trial.prompt.endswith(b.question) for trial in found.values())
        assert before["none"] == ""
        assert b.memory in before["supportive"]
        assert b.against in before["conflicting"]
        assert b.memory not in before["conflicting"]
        assert b.entity in before["complementary"]
        assert b.entity not in before["irrelevant"]
        assert not {b.memory, b.against} & set(before["irrelevant"].replace(".", " ").split())
        assert found["conflicting"].against == b.against
        assert found["irrelevant"].against is None
    three = beliefs()[0].context(HERE, "irrelevant", random.Random(1), sentences=3)
    assert three.prompt.removesuffix(beliefs()[0].question).count(".") == 3


def test_answers_are_credited_to_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["Lyon", "Rome", REFUSAL, "Oslo", "Rome"]
    monkeypatch.setattr("paramem.fusion.conflicts.continuations", lambda lm, prompts: said)
    trials = [Trial(prompt="?", memory="Lyon", against="Rome", counters=1)] * 4 + [Trial(prompt="?", memory="Lyon")]
    found = told(reader(), trials)
    assert found["from"].to_list() == ["memory", "context", "refusal", "neither", "neither"]
    assert set(found["people"]) == {()}  # they name nobody


def test_answers_are_told_with_whom_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    some = beliefs()[:20]
    made = [b.context(HERE, kind, random.Random(1)) for b in some for kind in CONTEXTS]
    made += [b.balanced(HERE, 1, 2, random.Random(1)) for b in some]
    monkeypatch.setattr("paramem.fusion.conflicts.continuations", lambda lm, prompts: [t.memory for t in made])
    found = told(reader(), made).assign(kept=lambda t: t["from"] == "memory")
    assert all(
        name in trial.prompt and name in {b.entity for b in some}
        for (name,), trial in zip(found["people"], made, strict=True)
    )
    (shares,) = by_people(found, ["last"], "kept").query("last == 'neither'").to_dict("records")
    assert shares["mean"] == 1 > shares["low"]


def test_the_reader_follows_the_context_and_remembers_without_one() -> None:
    """The bundled reader's card says so; here it is the control of the whole measurement."""
    shares = {}
    for kind in ("none", "supportive", "conflicting"):
        table = told(reader(), [b.context(HERE, kind, random.Random(2)) for b in beliefs()])  # type: ignore[arg-type]
        shares[kind] = table["from"].value_counts(normalize=True)
    assert shares["none"]["memory"] == 1
    assert shares["supportive"]["memory"] > 0.9
    assert shares["conflicting"]["context"] > 0.9
