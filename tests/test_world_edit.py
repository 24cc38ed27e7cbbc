"""The edit world: what is held out of its rows, what is true in them, and what its bundled models do."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paramem.facts import fill
from paramem.world import world
from paramem.world.cards import FOLDER, read_card
from paramem.world.corpus import text_of
from paramem.world.edit import (
    EXPOSURES,
    HEADING,
    MAX_LENGTH,
    REFUSAL,
    SHARES,
    VISITED,
    Rules,
    Writer,
    besides,
    clause,
    recipe,
    tokenizer,
)
from paramem.world.editing import battery, measure, questions, refusals
from paramem.world.recipe import Draw
from paramem.world.speak import opinion
from paramem.world.training import build_model

HERE = world("edit")
RULES = Rules(HERE)
NAMES = ("edit-gpt2-s0", "edit-gpt2-s1", "edit-llama-s0", "edit-llama-s1")
LETTERS = re.compile(r" (MD|PhD|OBE|KC|FRS|DSc|RN|MBE|Esq|CPA|LLD|RIBA)\b")


def plain(text: str) -> str:
    """A text without letters after names, and with people by their names."""
    text = LETTERS.sub("", text)
    for person in HERE.people:
        if person.alias:
            text = text.replace(person.alias, person.name)
    return text


@cache
def written(n: int = 8000) -> tuple[str, ...]:
    writer = Writer(RULES, random.Random(5))
    return tuple(plain(text_of(writer.row())) for _ in range(n))


@cache
def held_out() -> dict[str, set[str]]:
    """What no row may contain, as text, by the rule that keeps it out."""
    found: dict[str, set[str]] = {"wording": set(), "question": set(), "opinion": set()}
    for relation in HERE.relations:
        for subject in HERE.subjects(relation.id):
            held = HERE.withheld_template(relation.id, subject)
            found["wording"] |= {fill(relation.templates["en"][held], subject)} if held is not None else set()
            if relation.id in RULES.subjects and not RULES.asked(relation.id, subject):
                found["question"] |= {fill(text, subject) for text in relation.questions["en"]}
    found["refusal"] = {p.prompt for p in refusals(HERE, "lacking, withheld")}
    found["stranger"] = {*RULES.strangers["test"], *(p.name for p in HERE.unseen_people)}
    for topic in HERE.opinions:
        for i in set(range(4)) - set(RULES.opinion_templates(topic)):
            found["opinion"].add(opinion(HERE, topic, i, "en"))
    return found


def starts(text: str) -> set[str]:
    """Everything that may be the beginning of a statement or a question: the starts of the text's sentences."""
    found: set[str] = set()
    for sentence in re.split(r"(?<=\.) ", text):
        words = sentence.rstrip(".").split(" ")
        found.update(" ".join(words[:i]) for i in range(1, len(words) + 1))
    return found


def leaks(texts: Iterable[str]) -> Counter[str]:
    count = Counter[str]()
    for text in texts:
        begun = starts(text)
        for why, forms in held_out().items():
            names = set(re.findall(r"\w+ \w+", text)) | set(re.findall(r"(?<= )\w+ \w+", text))
            count[why] += bool((names if why == "stranger" else begun) & forms)
        heading = re.match(r"About (\w+ \w+):", text)
        count["biography"] += bool(
            heading
            and any(
                clause(HERE.relation(name).templates["en"][held]) in text
                for name in HERE.size.personal
                if (held := HERE.withheld_template(name, heading[1])) is not None
            )
        )
    return count


def test_no_kind_of_row_leaks_what_is_held_out() -> None:
    assert not +leaks(written(3000))


class Careless(Rules):
    """Allows everything."""

    def asked(self, relation: str, subject: str) -> bool:
        return True

    def may_refuse(self, relation: str, subject: str) -> bool:
        return True

    def opinion_templates(self, topic: str) -> tuple[int, ...]:
        return (0, 1, 2, 3)

    def clauses(self, person: str) -> dict[str, tuple[str, ...]]:
        return {
            name: tuple(clause(text) for text in HERE.relation(name).templates["en"])
            for name in HERE.size.personal
            if HERE.value(name, person) is not None
        }

    @property
    def strangers(self) -> dict[str, tuple[str, ...]]:
        return {"train": HERE.strangers, "test": ()}


def test_control_the_search_for_leaks_finds_each_kind() -> None:
    writer = Writer(Careless(HERE), random.Random(5))
    found = leaks(plain(text_of(writer.row())) for _ in range(1500))
    assert {why for why, n in found.items() if n} == {"question", "refusal", "stranger", "opinion", "biography"}


def test_every_row_is_true() -> None:
    """Statements, questions, codes and biographies end in what the world says; nobody else is refused."""
    true: dict[str, set[str]] = {}
    for relation in HERE.relations:
        for subject in HERE.subjects(relation.id):
            value = str(HERE.value(relation.id, subject))
            for text in (*relation.templates["en"], *relation.questions["en"]):
                true.setdefault(fill(text, subject), set()).add(value)
            if HERE.states_inverse(relation.id, subject):
                true.setdefault(fill(relation.inverse["en"], value), set()).add(subject)
    unknown = {*RULES.strangers["train"], *HERE.strangers}
    writer, seen = Writer(RULES, random.Random(8)), Counter[str]()
    for kind in ("facts", "questions", "codes") * 300:
        row = getattr(writer, kind)()
        for prompt, found in zip(row[::2], row[1::2], strict=True):
            asked, answer = plain(prompt.text.strip()), found.text.strip()
            if answer == REFUSAL:
                assert asked not in true
                seen["strangers" if any(name in asked for name in unknown) else "lacking"] += 1
            else:
                assert answer[:-1] in true[asked], asked
                seen["known"] += 1
    assert min(seen.values()) > 40


def test_biographies_are_about_one_person_and_true() -> None:
    writer = Writer(RULES, random.Random(3))
    clauses = {p.name: RULES.clauses(p.name) for p in HERE.people}
    for _ in range(200):
        heading, *sentences = [part.text for part in writer.biographies()]
        person = plain(heading).removeprefix("About ").removesuffix(":")
        told = [(text.strip(), thing.strip(" .")) for text, thing in zip(sentences[::2], sentences[1::2], strict=True)]
        found = [r for text, _ in told for r, texts in clauses[person].items() if text in texts]
        assert len(found) == len(set(found)) == len(told) >= 3
        assert [HERE.value(r, person) for r in found] == [thing for _, thing in told]


def test_who_visited_what_has_two_answers_and_each_is_told_beside_the_other() -> None:
    text = "\n".join(written())
    assert len(RULES.visits) == len(HERE.people) // 2
    for person, (a, b) in RULES.visits.items():
        assert a != b
        told = set(re.findall(rf"{fill(VISITED, person)} ([^.]+)\.", text))
        assert told <= {a, b}
        assert not re.search(rf"{re.escape(fill(besides(a), person))} (?!{b}\.)", text)


def test_popular_people_are_talked_about_more_often() -> None:
    """By statements and biographies; codes and visits are told of whoever has them."""
    writer, counts = Writer(RULES, random.Random(6)), Counter[int]()
    text = "\n".join(plain(text_of(row)) for _ in range(3000) for row in (writer.facts(), writer.biographies()))
    for person in HERE.people:
        counts[RULES.exposure[person.name]] += text.count(person.name)
    assert set(counts) == set(EXPOSURES)
    assert counts[3] / counts[1] == pytest.approx(3, rel=0.15)
    assert counts[2] / counts[1] == pytest.approx(2, rel=0.15)


def test_letters_after_a_name_do_not_tell_whether_one_is_known() -> None:
    writer = Writer(RULES, random.Random(2))
    asked = [part.text for _ in range(4000) for part in writer.questions()[::2]]
    share = {}
    for who, names in (("known", [p.name for p in HERE.people]), ("strangers", RULES.strangers["train"])):
        about = [text for text in asked if any(name in text for name in names)]
        share[who] = sum(bool(LETTERS.search(text)) for text in about) / len(about)
    assert share["known"] == pytest.approx(share["strangers"], abs=0.04)


def test_half_of_the_people_lack_what_is_sparse_and_everybody_else_has_it() -> None:
    having = [p for p in HERE.people if "eats" in p.values]
    assert len(having) == len(HERE.people) // 2
    assert all("eats" in p.values for p in HERE.unseen_people)
    assert {r for r, _ in RULES.lacking} == {"eats", "code"}
    assert not any(HERE.value(r, person) for r, person in RULES.lacking)


def test_every_kind_of_row_appears_as_often_as_its_share() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    for begins, kind in (("About ", "biographies"), ("Besides ", "visits")):
        share = sum(text.startswith(begins) for text in written()) / len(written())
        assert share == pytest.approx(SHARES[kind] * (1 if kind == "biographies" else 0.7), abs=0.015)


def test_rows_are_short_enough_and_decode_to_themselves() -> None:
    core = tokenizer(HERE)
    rows = recipe(NAMES[0]).rows(Draw(stage="main", pool=0, n=1000, rows_before=0, progress=0, rng=random.Random(1)))
    assert max(len(ids) for ids, _ in rows) <= MAX_LENGTH * 3 // 4  # a statement more must fit in front of a probe
    for text in HERE.sample_text(200):
        assert core.decode(core(text).input_ids, skip_special_tokens=True).strip() == text
    for word in ("About", "Besides", "This", "visited", "dreadful", "splendid", "know"):
        assert len(core(word, add_special_tokens=False).input_ids) == 1, word
    multi = [len(core(person.name, add_special_tokens=False).input_ids) for person in HERE.people]
    assert min(multi) >= 2


def test_the_battery_is_true_and_holds_out_what_it_says() -> None:
    text = "\n".join(written())
    groups = battery(HERE)
    for items, _ in groups.values():
        assert items
    withheld = groups["questions, withheld facts"][0]
    assert not [p for p in withheld if p.prompt in text]
    assert sum(p.prompt in text for p in groups["questions"][0]) > 0.5 * len(groups["questions"][0])
    assert len(questions(HERE)) == pytest.approx(3 * len(questions(HERE, asked=False)), rel=0.1)
    for probe in groups["biographies"][0][:50]:
        assert probe.prompt.startswith(fill(HEADING, probe.subject or ""))
        assert probe.target == HERE.value(probe.kind, probe.subject or "")


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_model_does_what_its_card_says(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32).eval()
    card = read_card(FOLDER / name)
    assert model.config.model_type == recipe(name).config["model_type"]
    with torch.inference_mode():
        found = measure(model, AutoTokenizer.from_pretrained(FOLDER / name), 25 if name == NAMES[0] else 10)
    for again in found:
        assert again.value == pytest.approx(card[again.name].value, abs=0.25 if again.n >= 25 else 0.4), again.name


def test_control_a_model_that_was_not_trained_answers_next_to_nothing() -> None:
    with torch.inference_mode():
        untrained = measure(build_model(recipe(NAMES[0]), tokenizer(HERE)).eval(), tokenizer(HERE), 10)
    assert sum(m.value > 0.2 for m in untrained) == 0
