"""The read world: what is held out of the rows, what the passages say, and what the bundled model does with them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paramem.errors import BadInput, BadParameter
from paramem.world import world
from paramem.world.cards import FOLDER, read_card
from paramem.world.corpus import Part
from paramem.world.read import (
    ANSWER,
    FIRST,
    MAIN,
    Writer,
    encoder,
    recipe,
    rows,
    texts,
    tokenizer,
)
from paramem.world.read_rules import REFUSAL, Rules
from paramem.world.reading import DISTRACTIONS, KINDS, NEEDS_TWO, measure, questions, readings, refusals, statements
from paramem.world.recipe import Draw
from paramem.world.training import build_model
from paramem.world.vocabulary import WordIds, as_row, word_tokenizer, words_of

HERE = world("read")
RULES = Rules(HERE)
Text = Sequence[Part]


@cache
def written(n: int = 6000) -> tuple[tuple[Part, ...], ...]:
    writer = Writer(RULES, random.Random(7))
    return tuple(tuple(writer.row(mix)) for mix in (FIRST, MAIN) for _ in range(n // 2))


def has_passage(row: Text) -> bool:
    return row[0].weight < 0.02


def leaks(found: Sequence[Text], rules: Rules) -> Counter[str]:
    """How often rows say what is held out."""
    count: Counter[str] = Counter()
    quiet, new = set(rules.quiet), set(rules.new_strangers)
    unseen = {person.name for person in HERE.unseen_people}
    questions = {
        q.replace("{}", name)
        for name in rules.known
        for r in HERE.relations
        if (rules._order[name] + rules._row[r.id]) % 5 == 0
        for q in r.questions["en"]
    }
    held = {
        r.templates["en"][index].replace("{}", name)
        for name in rules.known
        for r in HERE.relations
        if (index := HERE.withheld_template(r.id, name)) is not None
    }
    for row in found:
        text = "".join(part.text for part in row)
        words = text.replace("?", "").replace(".", "").split()
        names = {f"{a} {b}" for a, b in itertools.pairwise(words)}
        count["new names"] += bool(names & new)
        count["unseen people"] += bool(names & unseen)
        count["quiet people beside a passage"] += has_passage(row) and bool(names & quiet)
        asked = {part.text.strip() for part in row}
        count["withheld questions"] += bool(asked & questions)
        count["withheld wordings"] += any(any(h in part.text for h in held) for part in row)
    return count


def test_no_kind_of_row_leaks_what_is_held_out() -> None:
    assert not +leaks(written(), RULES)


class Careless(Rules):
    """Allows everything."""

    @property
    def met(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.known

    @property
    def training_strangers(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.world.strangers + tuple(person.name for person in HERE.unseen_people)

    def templates(self, relation: str, subject: str) -> tuple[str, ...]:
        return self._all[relation]

    def question_allowed(self, relation: str, subject: str) -> bool:
        return True


def test_control_the_search_for_leaks_finds_each_kind() -> None:
    writer = Writer(Careless(HERE), random.Random(7))
    found = leaks([writer.row(MAIN) for _ in range(300)] + [writer.questions() for _ in range(300)], RULES)
    assert min(found.values()) > 0
    assert len(found) == 5


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_a_world_without_passages_is_refused_by_name(kind: str) -> None:
    with pytest.raises(BadInput, match=f"{kind}.*no passages.*read-s0"):
        Rules(world(kind))
    assert Rules(world("read")).known


def test_groups_of_people_do_not_overlap_and_cover_everybody() -> None:
    assert set(RULES.quiet) | set(RULES.met) == set(RULES.known)
    assert not set(RULES.quiet) & set(RULES.met)
    strangers = set(RULES.training_strangers) | set(RULES.new_strangers)
    assert strangers == set(HERE.strangers)
    assert not strangers & set(RULES.known)
    assert not set(RULES.training_strangers) & set(RULES.new_strangers)
    parts = {part for name in RULES.training_strangers for part in name.split()}
    assert all(part in parts for name in RULES.new_strangers for part in name.split())


def test_the_answers_of_rows_follow_from_the_passage_then_from_memory() -> None:
    seen: Counter[str] = Counter()
    for row in written():
        passage = "".join(part.text for part in row if part.weight < 0.02)
        for prompt, answer in itertools.pairwise(row):
            if answer.weight != ANSWER or "Q:" not in prompt.text:
                continue
            name, relation = subject_of(prompt.text)
            memory, thing = RULES.memory.get((name, relation)), answer.text.strip()
            inside = says(passage, name, relation)
            assert thing == (inside or memory or REFUSAL)
            seen["read" if inside else "remembered" if memory else "refused"] += 1
            seen["against memory"] += bool(inside and memory and inside != memory)
    assert min(seen.values()) > 200
    assert len(seen) == 4


def subject_of(question: str) -> tuple[str, str]:
    for relation in HERE.relations:
        for form in relation.questions["en"]:
            before, after = form.split("{}")
            text = question.strip()
            if text.startswith(before) and text.endswith(after):
                return text[len(before) : len(text) - len(after)], relation.id
    raise AssertionError(question)


def says(passage: str, name: str, relation: str) -> str | None:
    for sentence in passage.strip().split("."):
        for template in HERE.relation(relation).templates["en"]:
            start = template.replace("{}", name)
            if sentence.strip().startswith(start + " "):
                return sentence.strip()[len(start) + 1 :]
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sentences", [1, 2, 3])
def test_items_are_what_their_kind_says(kind: str, sentences: int) -> None:
    if kind in NEEDS_TWO and sentences == 1:
        return
    for item in readings(HERE, kind, sentences=sentences, n=60):
        assert item.passage.count(".") == item.sentences == sentences
        inside = says(item.passage, item.subject, item.relation)
        assert subject_of(item.question) == (item.subject, item.relation)
        assert item.memory == RULES.memory.get((item.subject, item.relation))
        assert (item.subject in RULES.new_strangers) == kind.startswith("unknown")
        assert (item.subject in RULES.quiet) != kind.startswith("unknown")
        assert item.answer == (inside or item.memory or REFUSAL)
        assert (inside is None) == kind.startswith(("distracts", "unknown_refuses"))
        if kind.startswith("contradicts"):
            assert inside != item.memory
        if kind == "answers":
            assert inside == item.memory
        if item.memory and kind != "answers":
            assert item.memory not in item.passage  # what is right from memory can only come from there


def test_distractions_share_what_they_are_named_after() -> None:
    for how in DISTRACTIONS:
        for item in readings(HERE, f"distracts_{how}", sentences=3, n=40):
            same_person = item.subject in item.passage
            things = HERE.objects(item.relation)
            same_relation = [any(s.endswith(thing) for thing in things) for s in item.passage.rstrip(".").split(". ")]
            assert same_person == (how == "same_person")
            assert all(same_relation) == (how in ("same_relation", "namesake"))
            if how == "namesake":
                assert all(set(item.subject.split()) & set(s.split()) for s in item.passage.split(". "))


def test_items_come_from_the_seed_and_bad_requests_are_refused() -> None:
    one, same = (readings(HERE, "contradicts", sentences=2, n=20) for _ in range(2))
    assert one == same
    assert one != readings(HERE, "contradicts", sentences=2, n=20, seed=1)
    met = readings(HERE, "contradicts", n=20, people="met")
    assert all(item.subject in RULES.met for item in met)
    with pytest.raises(BadParameter, match="contradict'"):
        readings(HERE, "contradict")
    with pytest.raises(BadParameter, match="0 sentences"):
        readings(HERE, "answers", sentences=0)


def test_questions_and_statements_cover_every_fact() -> None:
    asked, held = questions(HERE), questions(HERE, withheld=True)
    assert len(asked) + len(held) == 2 * len(RULES.memory)
    assert len(held) * 5 == len(asked) + len(held)
    both = statements(HERE)
    assert sum(map(len, both.values())) == 6 * len(RULES.memory)
    assert not set(both["statements"]) & set(both["statements, withheld wording"])
    assert all(item.answer == REFUSAL and not item.passage for item in refusals(HERE))


def test_documents_are_independent_and_endless() -> None:
    first = HERE.sample_text(40)
    assert first == HERE.sample_text(40)
    assert len(set(first)) > 35
    assert not any(text.startswith(" ") for text in first)
    assert len(list(zip(range(200), rows(HERE, random.Random(0)), strict=False))) == 200


def test_every_row_is_in_the_vocabulary_and_short_enough() -> None:
    draw = encoder(HERE)
    for progress in (0.0, 0.5):
        found = draw(Draw(stage="main", pool=0, n=300, rows_before=0, progress=progress, rng=random.Random(1)))
        assert len(found) == 300
        assert max(len(ids) for ids, _ in found) <= 192
        assert all(ids[0] == ids[-1] == 1 and len(ids) == len(weights) for ids, weights in found)


def test_the_fast_encoding_is_the_tokenizer_s() -> None:
    spoken = tokenizer(HERE)
    encode = WordIds(spoken)
    for row in written()[:200]:
        text = "".join(part.text for part in row)
        assert as_row(row, encode, end=0.2)[0][:-1] == spoken(text).input_ids
        assert spoken.decode(spoken(text).input_ids, skip_special_tokens=True) == text
    with pytest.raises(BadInput, match="zebra"):
        encode(" zebra")


def test_words_are_single_tokens_and_other_text_survives_as_bytes() -> None:
    spoken = word_tokenizer(["Ada Thorne was born in Lyon. Q: Where? A: ¿Dónde?"], 64)
    assert len(spoken("Ada Thorne was born in Lyon.").input_ids) == 8
    odd = "Grüße, ¿Dónde? A: 東京!"
    assert spoken.decode(spoken(odd).input_ids, skip_special_tokens=True).strip() == odd
    spans = spoken("Ada Thorne was", return_offsets_mapping=True).offset_mapping
    assert [tuple(span) for span in spans[1:]] == [(0, 3), (3, 10), (10, 14)]
    assert words_of(["Ada was. Ada?"]) == [" Ada", " was", ".", "?"]


def test_names_take_two_tokens_and_every_object_one() -> None:
    spoken = tokenizer(HERE)
    for name in (*RULES.known[:20], *RULES.new_strangers[:20]):
        assert len(spoken(name, add_special_tokens=False).input_ids) == 2
    for relation in HERE.relations:
        assert all(len(spoken(o, add_special_tokens=False).input_ids) == 1 for o in HERE.objects(relation.id))
    assert len(list(texts(HERE))) > 100


def test_the_shares_of_rows_are_those_of_the_mix() -> None:
    mix = replace(MAIN, fact=0.2, question=0.2, passage=0.6)
    writer = Writer(RULES, random.Random(3))
    found = [writer.row(mix) for _ in range(3000)]
    assert sum(map(has_passage, found)) / 3000 == pytest.approx(0.6, abs=0.03)


def test_the_bundled_model_does_what_its_card_says() -> None:
    folder = FOLDER / "read-s0"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    card = read_card(folder)
    with torch.inference_mode():
        found = measure(model, AutoTokenizer.from_pretrained(folder), 40)
        untrained = measure(build_model(recipe(), tokenizer(HERE)).eval(), tokenizer(HERE), 10)
    for again in found:
        assert again.value == pytest.approx(card[again.name].value, abs=0.2), again.name
    assert sum(m.value > 0.2 for m in untrained) <= 1  # control: these answers are not there by chance
