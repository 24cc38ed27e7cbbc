"""Fusion of what is read and what is remembered: the split, the questions, the two scores, and the training."""

from __future__ import annotations

import importlib.util
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import ceil, nan
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
import typer

from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.evaluation.intervals import wilson
from paramem.fusion import kept, reported, study, tables
from paramem.fusion.choice import chosen_on_dev
from paramem.fusion.documents import (
    Document,
    LeakingSplit,
    Sizes,
    Snippet,
    Split,
    draw_documents,
    parts_of,
)
from paramem.fusion.questions import COUNTS, NOISES, PIECES, SCENARIOS, Question, build_questions, check_parts, wordings
from paramem.fusion.scoring import OTHER, UNKNOWN, accurate, copying, coverage, gold, reference, stated, wrong
from paramem.fusion.training import (
    InfusionSettings,
    TrainSettings,
    answer_rows,
    check_untaught,
    fine_tune,
    infusion_rows,
    infusion_texts,
    matched,
    mean_loss,
    n_tokens,
    plan,
    question_pairs,
    text_row,
)
from paramem.models import LM, load
from paramem.world import world
from paramem.world.read_rules import REFUSAL, Rules
from paramem.world.recipe import Row, collate
from paramem.world.training import weighted_loss

HERE = world("read")
SMALL = Sizes(external=(6, 6, 6), parametric=(4, 2, 6))
FEW = {part: {"S1": 6, "S2": 8, "S3": 10, "S4": 6} for part in ("train", "dev", "test")}


@cache
def ground() -> study.Ground:
    return study.prepare(HERE, 5)


@cache
def small() -> study.Ground:
    return study.prepare(HERE, 6, sizes=SMALL, counts=FEW)


@cache
def reader() -> LM:
    return load("read-s0")


def questions(scenario: str, part: str = "test") -> list[Question]:
    return [q for q in ground().questions[part] if q.scenario == scenario]


# The split


def test_documents_speak_of_nobody_that_the_testbed_met_and_differ_by_draw() -> None:
    names = {name for document in ground().documents for name in document.entities}
    rules = Rules(HERE)
    assert len(names) == Sizes().total
    assert names <= set(rules.new_strangers)
    assert not names & {*rules.known, *rules.training_strangers}
    assert draw_documents(HERE, SMALL, 0) == draw_documents(HERE, SMALL, 0) != draw_documents(HERE, SMALL, 1)


def test_the_older_documents_are_parametric() -> None:
    split = ground().split
    assert max(d.written for d in split.parametric) < min(d.written for d in split.external)
    assert (len(split.parametric), len(split.external)) == (sum(Sizes().parametric), sum(Sizes().external))


def test_a_leaking_split_is_refused_with_the_document_named() -> None:
    split = small().split
    leaking = replace(split.parametric[3], name="a copy")
    with pytest.raises(LeakingSplit, match="document 'a copy'"):
        Split(external=(*split.external, leaking), parametric=split.parametric)
    Split(external=split.external, parametric=split.parametric)  # the control: without it nothing leaks


def test_a_document_that_only_names_somebody_of_the_other_side_leaks() -> None:
    split = small().split
    (known,) = split.parametric[0].entities
    snippet = split.external[0].snippets[0]
    gossip = Document(name="gossip", written=99, snippets=(replace(snippet, text=f"{snippet.text} As {known} says."),))
    with pytest.raises(LeakingSplit, match=f"'gossip'.*{known!r}"):
        Split(external=(gossip,), parametric=split.parametric)
    Split(external=(replace(gossip, snippets=(snippet,)),), parametric=split.parametric)


def test_a_parametric_document_that_speaks_of_external_knowledge_leaks_too() -> None:
    split = small().split
    stolen, own = split.external[2].snippets[1], split.parametric[1].snippets
    for text in (stolen.text, f"{own[0].text} As {stolen.entity} says."):
        said = stolen if text == stolen.text else replace(own[0], text=text)
        memoir = Document(name="memoir", written=0, snippets=(*own, said))
        with pytest.raises(LeakingSplit, match=f"(?=.*'memoir', which is parametric).*speaks of {stolen.entity!r}"):
            Split(external=split.external, parametric=(memoir,))
    Split(external=split.external, parametric=(Document(name="memoir", written=0, snippets=own),))


def test_questions_of_two_parts_about_one_statement_are_refused() -> None:
    parts = small().questions
    check_parts(parts)
    with pytest.raises(LeakingSplit, match="part 'test'"):
        check_parts({"train": parts["train"], "test": (*parts["test"], parts["train"][0])})


def test_empty_passages_and_documents_are_refused() -> None:
    with pytest.raises(BadInput, match="no text"):
        Snippet(entity="Ann Lyon", attribute="born_in", object="Lyon", text="  ")
    with pytest.raises(BadInput, match="'blank' is empty"):
        Document(name="blank", written=0, snippets=())


def test_parts_share_no_document_and_sizes_are_checked() -> None:
    found = parts_of(ground().split.parametric, Sizes().parametric)
    assert len({d.name for part in found.values() for d in part}) == sum(Sizes().parametric)
    with pytest.raises(BadParameter, match="do not make"):
        parts_of(ground().split.parametric[1:], Sizes().parametric)
    with pytest.raises(BadParameter, match="two people"):
        Sizes(external=(1, 2, 2))
    with pytest.raises(BadParameter, match="unused names"):
        draw_documents(HERE, Sizes(external=(2000, 2, 2)), 0)


# The questions


def test_there_are_as_many_questions_as_in_the_paper() -> None:
    found = {part: Counter(q.scenario for q in some) for part, some in ground().questions.items()}
    assert found == COUNTS
    assert [sum(found[part].values()) for part in ("train", "dev", "test")] == [630, 300, 300]


@pytest.mark.parametrize(("scenario", "shown"), [("S1", "all"), ("S2", "one of two"), ("S3", "none"), ("S4", "none")])
def test_what_the_context_holds_defines_the_case(scenario: str, shown: str) -> None:
    for q in questions(scenario) + questions(scenario, "train"):
        expected = {"all": len(q.asked), "one of two": 1, "none": 0}[shown]
        assert len([snippet for snippet in q.evidence if snippet in q.asked]) == expected
        assert len(q.asked) == 2 or scenario != "S2"


def test_what_the_parameters_hold_defines_the_case() -> None:
    external = {s.cell for d in ground().split.external for s in d.snippets}
    for scenario, known in {"S1": 0, "S2": 1, "S3": None, "S4": 0}.items():
        for q in questions(scenario):
            in_k_p = [s for s in q.asked if s.cell not in external]
            assert len(in_k_p) == (len(q.asked) if known is None else known)
            assert tuple(in_k_p) == q.known


def test_noise_is_of_two_kinds_never_answers_and_comes_from_external_documents() -> None:
    external = {s.text for d in ground().split.external for s in d.snippets}
    seen: Counter[str] = Counter()
    for q in ground().questions["test"]:
        beside = [s for s in q.evidence if s not in q.asked]
        assert not {s.cell for s in beside} & {s.cell for s in q.asked}
        assert {s.text for s in beside} <= external
        assert (q.noise is None) == (not beside)
        if q.noise == "same attribute":
            assert {s.attribute for s in beside} <= {s.attribute for s in q.asked}
        elif q.noise == "same entity":
            theirs = {s.entity for s in q.asked} & {s.entity for d in ground().split.external for s in d.snippets}
            # One page has five sentences: it suffices where K_e has none on those asked about.
            assert {s.entity for s in beside} & theirs if theirs else len({s.entity for s in beside}) == 1
        seen[q.scenario, q.noise] += 1
    assert min(seen[scenario, kind] for scenario in SCENARIOS for kind in NOISES) > 10
    assert seen["S1", None] > 3
    assert not seen["S3", None] + seen["S4", None]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_snippets_come_in_the_proportions_of_the_paper(scenario: str) -> None:
    many = build_questions(HERE, ground().documents, Sizes(), 1, counts={"train": {scenario: 2000}})["train"]  # type: ignore[dict-item]
    found = Counter(len(q.evidence) for q in many)
    for pieces, share in PIECES.items():
        assert found[pieces] / len(many) == pytest.approx(share, abs=0.03)
    assert sum(PIECES.values()) == pytest.approx(1)
    if scenario == "S1":
        assert all(len(q.asked) == 1 for q in many if len(q.evidence) == 1)


def test_a_fact_is_asked_in_one_wording_and_trained_in_the_other() -> None:
    asked: dict[tuple[str, str], set[str]] = {}
    for part in ground().questions.values():
        for q in part:
            for snippet, text in zip(q.asked, q.texts, strict=True):
                asked.setdefault(snippet.cell, set()).add(text)
    both = {text for cell in asked for text in (wordings(HERE, cell, 5)[0], *wordings(HERE, cell, 5)[1])}
    assert all(len(texts) == 1 for texts in asked.values())
    assert len(both) == 2 * len(asked)
    taught = {q for d in ground().split.parametric for q, _ in question_pairs(HERE, d, ground().seed)}
    assert len(taught) == 5 * len(ground().split.parametric)
    assert not taught & set().union(*asked.values())
    first = {text for texts in asked.values() for text in texts if not text.startswith("Q: What is the ")}
    assert 0.4 < len(first) / len(asked) < 0.6  # neither wording is kept for tests


def test_a_question_that_is_trained_as_it_is_asked_is_refused_by_name() -> None:
    g, settings = small(), InfusionSettings()
    test = g.questions["test"]
    check_untaught(infusion_texts(HERE, g.split.parametric, settings, g.seed), test)
    leak = next(q for q in test if q.scenario == "S3")
    with pytest.raises(LeakingSplit, match=leak.texts[0].replace("?", r"\?")):
        check_untaught([f"{leak.texts[0]} {leak.answers[0]}."], test)
    other = replace(g, seed=g.seed + 1)  # other wordings than those of its questions
    with pytest.raises(LeakingSplit, match="is asked in S"):
        study.continued(reader(), other, study.FusionSettings())


def test_a_prompt_holds_the_evidence_and_its_own_earlier_answers() -> None:
    q = questions("S2")[0]
    assert q.prompt() == " ".join([*(s.text for s in q.evidence), q.texts[0]])
    assert q.prompt(["nothing"]) == f"{q.prompt()} nothing. {q.texts[1]}"
    assert q.without_context().prompt() == q.texts[0]
    assert q.supported().evidence == q.asked
    with pytest.raises(BadInput, match="S4"):
        questions("S4")[0].supported()


def test_questions_of_no_scenario_or_part_and_of_negative_number_are_refused() -> None:
    for counts, says in (
        ({"test": {"S5": 3}}, "3 questions of 'S5' in part 'test'"),
        ({"test": {"S1": -3}}, "-3 questions of 'S1'"),
        ({"tset": {"S1": 3}}, "part 'tset': there are train, dev, test"),
    ):
        with pytest.raises(BadParameter, match=says):
            study.prepare(HERE, 6, sizes=SMALL, counts=counts)  # type: ignore[arg-type]
    assert len(study.prepare(HERE, 6, sizes=SMALL, counts={"test": {"S1": 3, "S2": 0}}).part("test")) == 3


def test_noise_that_does_not_exist_is_not_made_up() -> None:
    with pytest.raises(BadParameter, match="noise snippets"):
        study.prepare(HERE, 0, sizes=Sizes(external=(2, 2, 2), parametric=(2, 2, 2)), counts={"test": {"S4": 40}})


# The scores


def judged(q: Question, *answers: str) -> tuple[bool, str]:
    gen = stated(answers, q, ground().objects)
    return accurate(gen, reference(q, ground().parametric)), coverage(gen, gold(q))


def another(q: Question, place: int) -> str:
    return next(o for o in ground().objects[q.asked[place].attribute] if o != q.asked[place].object)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_right_answers_are_accurate_and_complete(scenario: str) -> None:
    assert all(judged(q, *q.answers) == (True, "complete") for q in questions(scenario))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_wrong_objects_are_neither(scenario: str) -> None:
    for q in questions(scenario):
        assert judged(q, *(another(q, i) for i in range(len(q.asked)))) == (False, "uncover")


def test_half_an_answer_covers_partially_and_is_accurate_beside_a_refusal_only() -> None:
    for q in questions("S2"):
        right, other = q.answers, another(q, 1)
        assert judged(q, right[0], other) == (False, "partial")
        assert judged(q, right[0], REFUSAL) == (True, "partial")
        assert judged(q, another(q, 0), REFUSAL) == (False, "uncover")


def test_a_reader_that_refuses_what_it_does_not_know_is_accurate_and_partial() -> None:
    """Eq. (2) and Eq. (3) are two measures: what the untrained model says in S2 sets them apart."""
    found = study.graded(reader(), questions("S2")[:40], ground(), "Direct")
    assert (found["right"] & (found["cover"] == "partial")).mean() > 0.5
    assert not found["complete"].any()
    both = found[found["right"] & (found["cover"] == "partial")]
    assert both["answer"].str.contains(REFUSAL).all()


def test_refusing_is_right_exactly_where_nobody_knows() -> None:
    for scenario in SCENARIOS:
        for q in questions(scenario):
            assert judged(q, *[REFUSAL] * len(q.asked))[0] == (scenario == "S4")


def test_an_object_of_the_context_is_no_answer_about_somebody_else() -> None:
    """K_ref holds statements, not words: what stands there about another person does not excuse the answer."""
    checked = 0
    for q in questions("S4"):
        for place, snippet in enumerate(q.asked):
            same = [s.object for s in q.evidence if s.attribute == snippet.attribute]
            if same:
                answers = [REFUSAL] * len(q.asked)
                answers[place] = same[0]
                gen = stated(answers, q, ground().objects)
                assert not accurate(gen, reference(q, ground().parametric))
                assert wrong(gen, reference(q, ground().parametric)) == {(*snippet.cell, same[0])}
                checked += 1
    assert checked > 10


def test_copying_is_counted_where_the_context_allows_it_against_chance() -> None:
    q = next(q for q in questions("S4") if len(q.asked) == 1 and q.noise == "same attribute" and len(q.evidence) > 2)
    shown = {s.object for s in q.evidence} - {q.asked[0].object}
    cell = q.asked[0].cell
    things = ground().objects[cell[1]]
    absent = next(o for o in things if o not in shown and o != q.asked[0].object)
    for thing, copied in ((min(shown), True), (absent, False)):
        found = copying(frozenset({(*cell, thing)}), q, ground().objects)
        assert found[:2] == (True, copied)
        assert found.chance == pytest.approx(len(shown) / (len(things) - 1))
    other = next(s for s in ground().split.external[0].snippets if s.attribute != cell[1])
    elsewhere = replace(q, evidence=(other,))  # the control: nothing there could be the attribute's
    assert copying(frozenset({(*cell, absent)}), elsewhere, ground().objects) == (False, False, 0.0)
    assert copying(frozenset(), q, ground().objects) == (False, False, 0.0)


def test_two_wrong_objects_are_copied_by_chance_where_one_of_them_is() -> None:
    ann, ben = (Snippet(entity=e, attribute=a, object="x", text=".") for e, a in (("Ann", "eats"), ("Ben", "plays")))
    beside = tuple(replace(snippet, entity="Cy", object=thing) for snippet in (ann, ben) for thing in ("b", "c"))
    q = Question(scenario="S4", texts=("?", "?"), asked=(ann, ben), evidence=(*beside, replace(ben, object="d")))
    objects = {"eats": "xbcefghi", "plays": "xbcdef"}  # 2 of the 7 that are wrong stand there, and 3 of the 5
    found = copying(frozenset({("Ann", "eats", "e"), ("Ben", "plays", "e")}), q, objects)
    assert found[:2] == (True, False)
    assert found.chance == pytest.approx(1 - (1 - 2 / 7) * (1 - 3 / 5))
    for error, share in ((("Ann", "eats", "e"), 2 / 7), (("Ben", "plays", "e"), 3 / 5)):  # the control
        assert copying(frozenset({error}), q, objects).chance == pytest.approx(share)


def test_text_that_is_no_answer_is_content_that_no_source_has() -> None:
    q = questions("S1")[0]
    for text in ("", "the", "Lyonnais", "I don't"):
        gen = stated([text] * len(q.asked), q, ground().objects)
        assert {attribute for _, attribute, _ in gen} == {OTHER}
        assert judged(q, *[text] * len(q.asked)) == (False, "uncover")
        assert not wrong(gen, frozenset())
    with pytest.raises(BadInput, match="answers to the"):
        stated(["Lyon"] * (len(q.asked) + 1), q, ground().objects)


def test_what_is_known_counts_as_a_source_also_without_context() -> None:
    q = questions("S3")[0].without_context()
    assert judged(q, *q.answers) == (True, "complete")
    gen = stated(q.answers, q, ground().objects)
    assert not accurate(gen, reference(q, frozenset()))  # the control: without K_p nobody has it
    assert (*q.asked[0].cell, UNKNOWN) in reference(q, frozenset())


# The rows


def test_continued_training_reads_what_its_settings_say() -> None:
    (document,) = small().split.parametric[:1]
    said = {}
    for how in ("none", "rewriting", "questions", "both"):
        rows = infusion_rows(reader(), HERE, [document], InfusionSettings(augmentation=how), 3)  # type: ignore[arg-type]
        said[how] = [reader().tokenizer.decode(ids, skip_special_tokens=True).strip() for ids, _ in rows]
        assert all(min(weights) == 1.0 for _, weights in rows)
    assert said["none"] == [document.text]
    assert [len(said[how]) for how in ("rewriting", "questions", "both")] == [2, 6, 7]
    assert said["both"] == said["rewriting"] + said["questions"][1:]
    assert not {s.text for s in document.snippets} & {f"{text}." for text in said["both"][1].split(". ")}
    pairs = {f"{question} {answer}." for question, answer in question_pairs(HERE, document, 3)}
    assert set(said["questions"][1:]) == pairs
    assert len(pairs) == 5


def test_rows_that_are_made_together_are_those_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, documents, calls = reader(), small().split.parametric[:3], []
    texts = infusion_texts(HERE, documents, InfusionSettings(), 3)
    alone = [text_row(lm, text) for text in texts]
    encode = LM.encode
    monkeypatch.setattr(LM, "encode", lambda lm, *given: calls.append(given) or encode(lm, *given))
    rows = infusion_rows(lm, HERE, documents, InfusionSettings(), 3)
    assert len(calls) == 1
    assert rows == alone
    assert [ids for ids, _ in rows] == [[*lm.tokenizer(text)["input_ids"], lm.tokenizer.eos_token_id] for text in texts]
    assert len({len(ids) for ids, _ in rows}) > 3  # the control: most of them were padded


def test_fine_tuning_takes_the_loss_of_answers_only() -> None:
    lm, some = reader(), [*questions("S2")[:3], *questions("S4")[:3], *questions("S1")[:3]]
    for q, (ids, weights) in zip(some, answer_rows(lm, some), strict=True):
        counted = [token for token, w in zip(ids, weights, strict=True) if w]
        assert lm.tokenizer.decode(counted).split() == " ".join(f"{answer}." for answer in q.answers).split()
        said = lm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert said == f"{q.prompt(q.answers[:-1])} {q.answers[-1]}."


def test_a_question_that_exceeds_the_context_is_refused_by_name() -> None:
    q = questions("S1")[0]
    long = replace(q, evidence=q.evidence * 12)
    with pytest.raises(PromptTooLong):
        answer_rows(reader(), [long])
    with pytest.raises(PromptTooLong):
        study.answers(reader(), [q, long])
    with pytest.raises(BadInput, match="no questions"):
        answer_rows(reader(), [])
    with pytest.raises(BadInput, match="no rows"):
        fine_tune(reader(), [], TrainSettings(passes=1, lr=1e-3))


def crowded(n: int) -> study.Question:
    """A question of two parts behind n snippets that do not answer it."""
    q = questions("S2")[0]
    others = [s for d in ground().split.external for s in d.snippets if s.cell not in {a.cell for a in q.asked}]
    return replace(q, evidence=tuple(others[:n]))


def n_read(q: Question, said: tuple[str, ...] = ()) -> int:
    return len(reader().tokenizer(q.prompt(said))["input_ids"])


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All prompts that go on to be continued."""
    found: list[str] = []
    generate = LM.generate
    monkeypatch.setattr(LM, "generate", lambda lm, some, **how: found.extend(some) or generate(lm, some, **how))
    return found


def test_a_question_without_room_for_its_answer_is_named_before_any_is_asked(generated: list[str]) -> None:
    room = reader().max_length - study.ANSWER_TOKENS
    n = max(n for n in range(30) if n_read(crowded(n)) <= room)
    q, fine = crowded(n), questions("S1")[:70]
    assert n_read(q, q.answers[:1]) > room >= n_read(q)  # its second part alone is too long
    with pytest.raises(PromptTooLong, match=re.escape(f"the question {q.texts[1]!r} has ")):
        study.answers(reader(), [*fine, q, *fine])
    full = crowded(n + 1)
    assert n_read(full) < reader().max_length  # it fits, and its answer does not
    with pytest.raises(PromptTooLong, match=re.escape(f"the question {full.texts[0]!r} has ")):
        study.answers(reader(), [*fine, full])
    g = replace(small(), questions={"test": (*small().questions["test"], q)})
    with pytest.raises(PromptTooLong, match=re.escape(q.texts[1])):
        study.ask({"Easy": reader(), "Direct": reader()}, g)
    assert not generated
    assert len(study.ask({"Easy": reader()}, g)) == 25  # the control: with its own evidence alone it is answered
    assert len(study.answers(reader(), [crowded(n - 3)])[0]) == 2


def test_a_prompt_without_room_is_named_by_its_number_and_its_end(generated: list[str]) -> None:
    prompts = [q.texts[0] for q in questions("S1")[:3]] * 30
    long = crowded(40).prompt()
    with pytest.raises(PromptTooLong, match=rf"prompt 5, which ends in '.*{re.escape(long[-20:])}'"):
        study.continuations(reader(), [*prompts[:5], long, *prompts[5:]])
    assert not generated
    assert study.continuations(reader(), prompts) == study.continuations(reader(), prompts[:3]) * 30


def test_prompts_are_continued_by_length_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[list[str]] = []
    monkeypatch.setattr(LM, "generate", lambda lm, some, **how: chunks.append(some) or some)
    prompts = [" ".join(["Q:"] * random.Random(i).randint(1, 60)) for i in range(50)]
    assert study.continuations(reader(), prompts, rows=16) == prompts
    ordered = sorted(prompts, key=len)
    assert chunks == [ordered[start : start + 16] for start in range(0, 50, 16)]


def test_where_there_is_nothing_to_ask_there_are_no_answers_but_all_columns() -> None:
    assert study.answers(reader(), []) == []
    assert study.continuations(reader(), []) == []
    refusals = replace(small(), questions={"test": tuple(q for q in small().questions["test"] if q.scenario == "S4")})
    some = study.ask({"Easy": reader(), "Direct": reader()}, refusals)
    assert set(some["mode"]) == {"Direct"}
    assert some["right"].dtype == bool
    for none in (study.ask({"Easy": reader()}, refusals), study.without_context(reader(), refusals, "Direct")):
        assert len(none) == 0
        assert list(none.columns) == list(some.columns) == list(study.COLUMNS)
    assert not some.drop(columns="noise").isna().any(axis=None)


def without(*cases: str) -> study.Ground:
    """The small ground with no question of these cases to train on."""
    kept = tuple(q for q in small().questions["train"] if q.scenario not in cases)
    return replace(small(), questions={**small().questions, "train": kept})


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: study.ask({"Direct": reader()}, small(), part="tset"), BadParameter, "'tset'.*'train', 'dev', 'test'"),
        (lambda: study.without_context(reader(), small(), "CT", part="tset"), BadParameter, "'tset'.*'train', 'dev'"),
        (lambda: study.ask({}, small()), BadInput, "no model to ask"),
        (
            lambda: study.train_modes(reader(), replace(small(), questions={"dev": ()})),
            BadParameter,
            "'train'.*'dev'",
        ),
        (
            lambda: study.train_modes(reader(), without(*SCENARIOS)),
            BadInput,
            "no question of S1, S2, S3, S4",
        ),
        (lambda: study.train_arms(reader(), without("S1", "S4")), BadInput, "no question of S1, S4"),
        (lambda: chosen_on_dev(reader(), without(*SCENARIOS)), BadInput, "no question of S1, S2, S3, S4"),
        (lambda: matched(TrainSettings(passes=1, lr=1), [], [([1], [1.0])]), BadInput, "0 rows .* 1 others"),
        (lambda: matched(TrainSettings(passes=1, lr=1), [([1], [1.0])], []), BadInput, "1 rows .* 0 others"),
    ],
)
def test_what_is_not_there_is_named_before_anything_is_trained(
    call: Callable[[], object], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "kept_fine_tune", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(error, match=says):
        call()


def test_a_row_longer_than_a_step_is_refused_with_the_step_that_holds_it() -> None:
    rows = [([5] * 8, [1.0] * 8)] * 4 + [([5] * 122, [1.0] * 122)]
    with pytest.raises(BadParameter, match=r"tokens=60: the longest row has 122, .* 5 rows .* 3 steps .* 163 tokens"):
        list(plan(rows, TrainSettings(passes=1, lr=1e-3, tokens=60), 0))
    for seed in range(300):  # the remedy helps, whatever the rows
        rng = random.Random(seed)
        lengths = [rng.randint(1, rng.choice((9, 99, 999))) for _ in range(rng.randint(1, 30))]
        rows = [([i] * n, [1.0] * n) for i, n in enumerate(lengths)]
        steps = plan(rows, TrainSettings(passes=1, lr=1e-3, tokens=ceil(max(lengths) * 4 / 3)), 0)
        assert sorted(ids[0] for _, batch in steps for ids, _ in batch) == list(range(len(rows)))


def test_a_plan_sees_every_row_as_often_as_it_should_and_ends_with_a_small_rate() -> None:
    rows = [([1, *[5] * random.Random(i).randint(3, 40), i], [1.0] * 9) for i in range(100)]
    settings = TrainSettings(passes=3, lr=1e-3, tokens=200)
    steps = list(plan(rows, settings, 0))
    assert Counter(ids[-1] for _, batch in steps for ids, _ in batch) == dict.fromkeys(range(100), 3)
    rates = [rate for rate, _ in steps]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 2e-4
    assert list(plan(rows, settings, 0)) == steps != list(plan(rows, settings, 1))


def test_variants_of_augmentation_are_given_equal_numbers_of_tokens() -> None:
    documents = small().split.parametric
    full, alone = (infusion_rows(reader(), HERE, documents, InfusionSettings(augmentation=a)) for a in ("both", "none"))
    settings = TrainSettings(passes=4, lr=1e-3, tokens=256)
    other = matched(settings, alone, full)

    def seen(rows: list, chosen: TrainSettings) -> int:  # type: ignore[type-arg]
        return sum(len(ids) for _, batch in plan(rows, chosen, 0) for ids, _ in batch)

    assert seen(alone, other) == pytest.approx(seen(full, settings), rel=0.05)
    assert seen(alone, settings) < 0.5 * n_tokens(full) * 4  # the control: unmatched they differ


def test_bad_settings_are_refused() -> None:
    for bad in ({"passes": 0, "lr": 1e-3}, {"passes": 1, "lr": 0}, {"passes": 1, "lr": 1e-3, "tokens": 0}):
        with pytest.raises(BadParameter, match="positive"):
            TrainSettings(**bad)  # type: ignore[arg-type]
    for name in ("passes", "lr"):
        with pytest.raises(BadParameter, match=f"{name}=nan.* positive"):
            TrainSettings(**{"passes": 1, "lr": 1e-3, name: nan})
    for name, value in (("warmup", -1), ("warmup", nan), ("decay_from", -1), ("decay_from", 5), ("decay_from", nan)):
        with pytest.raises(BadParameter, match=f"{name}={value}.* shares of the steps"):
            TrainSettings(passes=1, lr=1e-3, **{name: value})
    TrainSettings(passes=0.5, lr=1e-3, warmup=0, decay_from=1)  # the control
    with pytest.raises(BadParameter, match="pairs=0"):
        InfusionSettings(pairs=0)
    with pytest.raises(BadParameter, match="'rewrite': it is one of 'none', 'rewriting'"):
        InfusionSettings(augmentation="rewrite")  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match=r"pairs=6: 'page of .*' has 5"):
        infusion_texts(HERE, small().split.parametric, InfusionSettings(pairs=6))
    with pytest.raises(BadParameter, match="names no draw"):
        study.drawn("read-s0@drawn")
    assert study.drawn("read-s0@draw2") == ("read-s0", 2)
    assert study.drawn("read-s0") == ("read-s0", 0)


# The models


def test_the_loss_is_that_of_the_testbeds_training() -> None:
    """It runs the head only where there is a weight, which must not change the number."""
    ids, weights = collate(answer_rows(reader(), questions("S2")[:6]))
    weights = weights * torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))
    here, there = mean_loss(reader(), ids, weights), weighted_loss(reader().model, ids, weights)
    assert here.item() == pytest.approx(there.item(), rel=1e-5)
    assert here.item() != pytest.approx(weighted_loss(reader().model, ids, torch.ones_like(weights)).item(), rel=1e-2)


def test_continued_training_stores_what_it_reads_and_leaves_the_model_given_alone() -> None:
    lm, g = reader(), small()
    before = lm.fingerprint()
    asked = [q.without_context() for q in g.questions["test"] if q.scenario == "S3"]
    unread = [q.without_context() for q in g.questions["test"] if q.scenario == "S4"]
    seen: list[float] = []
    settings = TrainSettings(passes=6, lr=2e-3, tokens=512)
    rows = infusion_rows(lm, HERE, g.split.parametric, InfusionSettings())
    after = fine_tune(lm, rows, settings, seed=1, watch=lambda done, _: seen.append(done))
    right = study.graded(after, asked, g, "CT")["right"].mean()
    assert right > 0.5 > study.graded(lm, asked, g, "Direct")["right"].mean()
    known = [(a, s.object) for q, said in zip(unread, study.answers(after, unread), strict=True)
             for a, s in zip(said, q.asked, strict=True)]  # fmt: skip
    assert sum(a == b for a, b in known) <= 0.3 * len(known)  # the control: nobody taught it these
    assert lm.fingerprint() == before != after.fingerprint()
    assert seen == [float(i) for i in range(1, 7)]
    assert not any(p.requires_grad for p in (*after.model.parameters(), *lm.model.parameters()))


def test_training_follows_from_its_seed() -> None:
    rows = answer_rows(reader(), questions("S2")[:12])
    settings = TrainSettings(passes=1, lr=1e-3, tokens=256)
    prints = [fine_tune(reader(), rows, settings, seed=seed).fingerprint() for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_answers_do_not_depend_on_the_batch_and_are_greedy() -> None:
    lm, some = reader(), [*questions("S1")[:4], *questions("S2")[:4], *questions("S4")[:4]]
    together = study.answers(lm, some)
    assert [study.answers(lm, [q])[0] for q in reversed(some)] == together[::-1]
    for q, said in zip(some, together, strict=True):
        best = int(lm.next_logprobs(q.prompt()).argmax())
        assert said[0].split()[0] == lm.tokenizer.decode([best]).strip()
        assert len(said) == len(q.asked)
    assert all(said == q.answers for q, said in zip(some[:4], together[:4], strict=True))


def test_second_parts_are_asked_behind_the_models_own_first_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def nonsense(lm: LM, prompts: list[str], **_: object) -> list[str]:
        asked.extend(prompts)
        return ["nothing"] * len(prompts)

    monkeypatch.setattr(study, "continuations", nonsense)
    two, one = questions("S2")[:2], [q for q in questions("S1") if len(q.asked) == 1][:2]
    assert study.answers(reader(), [*two, *one]) == [("nothing",) * 2] * 2 + [("nothing",)] * 2
    assert asked[4:] == [q.prompt(["nothing"]) for q in two]
    assert asked[4:] != [q.prompt(q.answers[:1]) for q in two]


def test_without_training_the_reader_reads_and_refuses() -> None:
    asked = [*questions("S1"), *questions("S3")[:20], *questions("S4")]
    shares = study.graded(reader(), asked, ground(), "Direct").groupby("scenario")["right"].mean()
    assert shares[["S1", "S4"]].min() > 0.9
    assert shares["S3"] == 0  # nobody told it


def test_arms_ask_the_same_questions_by_the_same_numbers() -> None:
    g = small()
    everything = study.ask({"Direct": reader(), "Easy": reader()}, g)
    easy, direct = (everything[everything["mode"] == mode].set_index("question") for mode in ("Easy", "Direct"))
    assert list(easy.index) == [i for i, q in enumerate(g.questions["test"]) if q.scenario != "S4"]
    assert (easy["scenario"] == direct["scenario"].reindex(easy.index)).all()
    mixed = replace(g, questions={"test": g.questions["test"][::-1]})  # S4 first
    turned = study.ask({"Easy": reader()}, mixed).set_index("question")
    assert turned.index.min() == FEW["test"]["S4"]
    alone = study.without_context(reader(), g, "Direct")
    assert list(alone["question"]) == list(tables.rows_of(everything, "Direct", "S3")["question"])
    assert alone["noise"].isna().all()
    with pytest.raises(BadInput, match="different questions"):
        tables.gain(alone, tables.rows_of(everything, "Direct", "S1"))
    same = tables.gain(alone, alone)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_what_is_shipped_is_what_the_notebook_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def recorded(lm: LM, rows: list[object], settings: TrainSettings, *, seed: int, name: str) -> LM:
        trained.append((name, round(settings.passes * n_tokens(rows), -3)))  # type: ignore[arg-type]
        return lm

    monkeypatch.setattr(study, "kept_fine_tune", recorded)
    g = study.prepare(HERE, 0)
    asked = {**study.train_modes(reader(), g), **study.train_arms(reader(), g)}
    wanted, trained[:] = list(trained), []
    study.train_shipped(reader())
    assert sorted(trained) == sorted(wanted)
    assert {name for name, _ in trained} == set(asked) - {"Direct", "Easy"}
    tokens = dict(trained)
    assert len({tokens[name] for name in ("CT", *study.PARTS_OF_IT)}) == 1  # as many, whatever is read
    assert len({tokens[name] for name in ("SFT", *study.TAUGHT)}) == 1  # and whatever is asked


def test_every_model_is_trained_from_the_one_that_its_mode_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name holds all trainings that a model went through."""
    g, rows_of, tokens, rates = small(), {}, {}, {}

    def recorded(lm: LM, rows: list[Row], settings: TrainSettings, *, seed: int, name: str) -> LM:
        assert seed == g.seed
        rows_of[name], tokens[name], rates[name] = rows, settings.passes * n_tokens(rows), settings.lr
        return lm.with_(name=f"{lm.name} > {name}")

    monkeypatch.setattr(study, "kept_fine_tune", recorded)
    modes, arms = study.train_modes(reader(), g), study.train_arms(reader(), g)
    assert {mode: lm.name for mode, lm in modes.items()} == {
        "Direct": "read-s0",
        "SFT": "read-s0 > SFT",
        "CT": "read-s0 > CT",
        "CT&SFT": "read-s0 > CT > CT&SFT",
        "Easy": "read-s0 > SFT",
    }
    assert tuple(modes) == study.MODES
    assert modes["Direct"] is reader()
    names = (*study.PARTS_OF_IT, *study.TAUGHT)
    assert {arm: lm.name for arm, lm in arms.items()} == {name: f"read-s0 > {name}" for name in names}
    read, asked = ("CT", *study.PARTS_OF_IT), ("SFT", "CT&SFT", *study.TAUGHT)
    settings = study.FusionSettings()
    for some, chosen in ((read, settings.continued), (asked, settings.supervised)):
        assert {name: tokens[name] for name in some} == pytest.approx(dict.fromkeys(some, tokens[some[0]]))
        assert {rates[name] for name in some} == {chosen.lr}
        assert tokens[some[0]] == chosen.passes * n_tokens(rows_of[some[0]])
    for name, augmentation in {"CT": "both", **study.PARTS_OF_IT}.items():
        how = InfusionSettings(augmentation=augmentation)  # type: ignore[arg-type]
        assert rows_of[name] == infusion_rows(reader(), HERE, g.split.parametric, how, g.seed)
    for name, cases in {"SFT": SCENARIOS, "CT&SFT": SCENARIOS, **study.TAUGHT}.items():
        assert rows_of[name] == answer_rows(reader(), [q for q in g.questions["train"] if q.scenario in cases])
    assert len({len(rows_of[name]) for name in asked}) == 3  # the control: as many tokens of fewer rows


def test_from_nothing_finds_no_model_that_was_kept() -> None:
    rows, settings = answer_rows(reader(), questions("S1")[:2]), TrainSettings(passes=1, lr=1e-4)
    with study.from_nothing():
        (first,) = _kept_in(rows, settings)
    with study.from_nothing():
        (second,) = _kept_in(rows, settings)
    assert first.name == second.name
    assert first.parent != second.parent
    assert not first.parent.exists()


def _kept_in(rows: list[Row], settings: TrainSettings) -> list[Path]:
    folder = kept._into.get()
    assert folder is not None
    assert not list(folder.iterdir())
    kept.kept_fine_tune(reader(), rows, settings)
    return list(folder.iterdir())


def test_the_choice_tries_every_pair_on_development_questions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    g, asked = small(), []
    monkeypatch.setattr(study, "kept_fine_tune", lambda lm, rows, settings, **_: fine_tune(lm, rows[:2], settings))
    monkeypatch.setattr(
        "paramem.fusion.choice.graded",
        lambda lm, questions, *rest: asked.append(questions) or study.graded(lm, questions, *rest),
    )
    short = study.FusionSettings(continued=TrainSettings(passes=0.1, lr=1), supervised=TrainSettings(passes=0.1, lr=1))
    found = chosen_on_dev(reader(), g, (1e-4, 3e-2), (1e-4,), short)
    assert set(zip(found["continued"], found["supervised"], strict=True)) == {(1e-4, 1e-4), (3e-2, 1e-4)}
    assert list(found["mean"]) == sorted(found["mean"], reverse=True)
    assert found["continued"][0] == 1e-4  # a rate that wrecks the model is not chosen
    assert found["mean"][0] == pytest.approx(found.loc[0, ["S1", "S2", "S3", "S4"]].mean())
    assert all(questions == g.questions["dev"] for questions in asked)


def test_a_question_counts_as_refused_where_all_its_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    some = questions("S2")[:3]
    said = [(REFUSAL, some[0].answers[1]), (REFUSAL, REFUSAL), some[2].answers]
    monkeypatch.setattr(study, "answers", lambda lm, questions: said)
    found = study.graded(reader(), some, ground(), "Direct")
    assert found["refused"].to_list() == [False, True, False]
    assert found["complete"].to_list() == [False, False, True]
    assert found["people"].to_list() == [q.people for q in some]


# The tables


def answered(mode: str, right: list[int], people: list[str], order: list[int] | None = None) -> pd.DataFrame:
    """Questions 0 to n - 1 of one mode, each about one person, in an order."""
    found = pd.DataFrame({"mode": mode, "question": range(len(right)), "right": [bool(x) for x in right]})
    return found.assign(people=[(name,) for name in people]).iloc[order or range(len(right))]


def test_a_gain_is_that_of_the_first_question_by_question() -> None:
    people = ["Ann", "Ann", "Ben", "Cy"]
    one, other = answered("a", [1, 1, 1, 0], people), answered("b", [1, 0, 1, 0], people, [3, 1, 0, 2])
    found, back = tables.gain(one, other), tables.gain(other, one)
    # Off its mean the one gain has 3 / 4, the others -1 / 4; three people: Student's t with two degrees of freedom.
    half = 4.302653 * (3 / 2 / 4**2 * (0.75**2 + 3 * 0.25**2)) ** 0.5
    assert found == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=1e-5)
    assert back == pytest.approx((-0.25, -0.25 - half, -0.25 + half), abs=1e-5)


def test_answers_about_one_person_that_are_alike_count_for_one() -> None:
    people = ["Ann"] * 4 + ["Ben"] * 4
    both = pd.concat([answered("apart", [1, 1, 0, 0] * 2, people), answered("alike", [1] * 4 + [0] * 4, people)])
    found = tables.by_people(both, ["mode"]).set_index("mode")
    assert list(found.index) == ["apart", "alike"]  # as the rows come
    assert list(found.columns) == ["mean", "low", "high"]
    assert list(found.loc["apart"]) == pytest.approx([0.5, *wilson(4, 8)])  # eight answers
    assert list(found.loc["alike"]) == pytest.approx([0.5, *wilson(1, 2)])  # two people
    assert found.loc["alike", "high"] - found.loc["apart", "high"] > 0.1
    wrong = both.assign(wrong=~both["right"])
    third = wrong[wrong["mode"] == "apart"].iloc[:3]  # two right, one wrong, and all about Ann
    with pytest.raises(BadParameter, match="two owners"):
        tables.share(third)
    assert tables.share(wrong[wrong["mode"] == "alike"].iloc[3:], "wrong").mean == 0.8


# The benchmark


def benchmark_of_fusion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks/fusion.py"
    monkeypatch.syspath_prepend(file.parent)
    spec = importlib.util.spec_from_file_location("benchmark_of_fusion", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cache_that_changes_answers_fails_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark_of_fusion(monkeypatch)
    module.check_same(["a", "b"], ["Lyon", "Oslo"], ["Lyon", "Oslo"])
    monkeypatch.setattr(module, "continuations", lambda lm, prompts: ["Lyon"] * len(prompts))
    monkeypatch.setattr(module, "uncached", lambda lm, prompts: ["Lyon"] * (len(prompts) - 1) + ["Oslo"])
    with pytest.raises(typer.Exit) as caught:
        next(module.asking(reader(), 1))
    assert caught.value.exit_code == 1
    assert re.match(r"1 of \d+ answers change without a cache: 'Lyon' becomes 'Oslo'", capsys.readouterr().err)


def test_tables_have_the_papers_rows_and_count_in_per_cent() -> None:
    direct = study.ask({"Direct": reader(), "Easy": reader()}, small())
    wide = tables.table_3(direct)
    paper = reported.table_3()
    assert list(wide.index) == list(paper.index)
    for scenario in ("S1", "S2", "S3"):
        degrees = wide.loc[[(scenario, m) for m in ("complete", "partial", "uncover")], "Direct"]
        assert degrees.sum() == pytest.approx(100, abs=0.2)
    rows = direct[(direct["mode"] == "Direct") & (direct["scenario"] == "S2")]
    assert wide.loc[("S2", "accuracy"), "Direct"] == pytest.approx(100 * rows["right"].mean(), abs=0.05)
    assert "S4" not in set(direct[direct["mode"] == "Easy"]["scenario"])
    alone = tables.table_2(study.without_context(reader(), small(), "Direct"))
    assert list(alone.columns) == list(reported.table_2().columns)


def test_reported_coverage_adds_up() -> None:
    """A digit mistyped from the paper would show here; its own rounding leaves a tenth or two."""
    two = reported.table_2()[["complete", "partial", "uncover"]].sum(axis=1)
    assert two.to_list() == pytest.approx([100] * len(two), abs=0.15)
    three = reported.table_3()
    for scenario in ("S1", "S2", "S3"):
        total = three.loc[[(scenario, m) for m in ("complete", "partial", "uncover")]].sum()
        assert total.to_list() == pytest.approx([100] * len(total), abs=0.15)
