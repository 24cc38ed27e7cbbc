"""The grammar world: what agrees does agree, what is withheld is nowhere said, and what precedes decides."""

from __future__ import annotations

import random
import re
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paramem.errors import BadParameter
from paramem.facts import fill
from paramem.world import grammar, world
from paramem.world.cards import FOLDER, read_card
from paramem.world.corpus import text_of
from paramem.world.grammar import (
    KINDS,
    SHARES,
    agreeing,
    agreement_edits,
    agreements,
    answer,
    extra_words,
    formed,
    held_nouns,
    measures,
    nouns,
    opposite,
    plural,
    template,
    withheld_frame,
)
from paramem.world.recipe import Draw
from paramem.world.tokenizer import build_tokenizer

HERE = world("grammar")
FORMS = {formed(noun, many): (noun, many) for noun in nouns() for many in (False, True)}


@cache
def written(kind: str, n: int = 1500) -> tuple[str, ...]:
    rng = random.Random(f"test/{kind}")
    return tuple(text_of(agreeing(HERE, rng, kind)) for _ in range(n))


def pattern(kind: str, frame: int) -> re.Pattern[str]:
    """Reads a sentence of that wording: its noun, its cue and the word that follows."""
    name, cues = r"\w+ \w+", "|".join(KINDS[kind].cues)
    text = re.escape(KINDS[kind].frames[frame])
    for mark, group in {"{}": r"(?P<noun>\w+)", "{c}": f"(?P<cue>{cues})", "{p}": name, "{q}": name}.items():
        text = text.replace(re.escape(mark), group)
    text = text.replace(re.escape("{m}"), r"the (?P<other>\w+)")
    return re.compile(rf"{text} (?P<said>\w+)[^.]*\.", re.IGNORECASE)


def read(kind: str, sentence: str) -> tuple[int, str, str, str | None, str]:
    """(wording, noun, cue, noun beside it, word that agrees)."""
    for frame in range(len(KINDS[kind].frames)):
        if found := pattern(kind, frame).fullmatch(sentence):
            parts = found.groupdict()
            return frame, parts["noun"], parts["cue"].lower(), parts.get("other"), parts["said"]
    raise AssertionError(f"no wording of {kind} reads {sentence!r}")


def faults(kind: str, sentences: tuple[str, ...]) -> set[str]:
    """What is wrong with sentences: a word that does not agree, a wording or a noun that is withheld."""
    wrong = set()
    for sentence in sentences:
        frame, form, cue, other, said = read(kind, sentence)
        noun, many = FORMS[form]
        wrong |= {"agreement"} if said != answer(kind, cue, noun, many) else set()
        wrong |= {"wording"} if frame == withheld_frame(noun, many) else set()
        wrong |= {"noun"} if noun in held_nouns(kind) else set()
        wrong |= {"neighbour"} if other is not None and FORMS[other][1] == many else set()
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_agree_and_leak_nothing(kind: str) -> None:
    assert faults(kind, written(kind)) == set()
    seen = {read(kind, sentence)[:3] for sentence in written(kind)}
    assert len({noun for _, noun, _ in seen}) == 2 * (len(nouns()) - len(held_nouns(kind)))
    assert {frame for frame, _, _ in seen} == set(range(6))


@pytest.mark.parametrize("kind", KINDS)
def test_control_each_fault_would_be_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(n: int = 400) -> set[str]:
        rng = random.Random(1)
        return faults(kind, tuple(text_of(agreeing(HERE, rng, kind)) for _ in range(n)))

    with monkeypatch.context() as patch:
        patch.setattr(grammar, "held_nouns", lambda kind: ())
        assert careless() == {"noun"}
    with monkeypatch.context() as patch:
        patch.setattr(grammar, "withheld_frame", lambda noun, many: -1)
        assert careless() == {"wording"}
    with monkeypatch.context() as patch:
        patch.setattr(grammar, "answer", grammar.wrong_answer)
        assert "agreement" in careless()


def test_plurals() -> None:
    assert [plural(word) for word in ("cat", "canary", "monkey", "goose")] == ["cats", "canaries", "monkeys", "geese"]
    assert len(FORMS) == 2 * len(nouns()) == 96


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_a_minimal_pair_of_two_single_tokens(kind: str) -> None:
    tokenizer = build_tokenizer(HERE, extra_words=extra_words(HERE))
    every = (*agreements(HERE, kind), *agreements(HERE, kind, held=True))
    assert len({choice.id for choice in every}) == len(every) == 2 * len(nouns()) * len(KINDS[kind].cues)
    for choice in every:
        right, wrong = (
            tokenizer(f" {w}", add_special_tokens=False).input_ids for w in (choice.object, opposite(HERE, choice))
        )
        assert len(right) == len(wrong) == 1, choice
        assert right != wrong, choice
        assert len(choice.paraphrases) == 4
        assert len(choice.withheld) == 1


def test_withheld_wordings_and_nouns_are_not_in_the_documents() -> None:
    text = "\n".join(HERE.sample_text(15000))
    for kind in KINDS:
        frames = {frame for frame, noun, *_ in (read(kind, s) for s in written(kind)) if noun == "cats"}
        assert frames == set(range(6)) - {withheld_frame("cat", True)}
    held = next(iter(held_nouns("verb")))
    assert f" {held} " in text
    assert f"oday the {held} " not in text
    assert "oday the cat " in text, "the control"


def test_no_wording_is_the_beginning_of_another() -> None:
    """Else a prompt could go on in two ways, and the word that agrees would not be the only answer."""
    rng = random.Random(2)
    for kind, found in KINDS.items():
        for cue in found.cues:
            texts = [fill(template(HERE, rng, kind, i, cue, "cat", False), "cat") for i in range(len(found.frames))]
            patterns = [re.sub(r"[A-Z]\w+ [A-Z]\w+|the \w+$", "*", text) for text in texts]
            assert not [(a, b) for a in patterns for b in patterns if a != b and b.startswith(f"{a} ")]


def test_edits_turn_one_noun_and_leave_the_others() -> None:
    stated = {choice.id: choice for kind in ("verb", "demonstrative") for choice in agreements(HERE, kind)}
    for kind in ("verb", "demonstrative"):
        for request in agreement_edits(HERE, kind, 30):
            choice = stated[request.id]
            assert request.target_true == choice.object != request.target_new == opposite(HERE, choice)
            assert {p.target for p in request.paraphrases} == {request.target_new}
            assert len(request.paraphrases) == 5
            assert all(p.subject == choice.subject for p in request.portability["logical"])
            assert len(request.portability["logical"]) == len(KINDS[kind].cues) - 1
            for probe in request.locality["relation"]:
                assert probe.subject != choice.subject
                assert probe.target == choice.object, "of the same number and cue, so the same word"
                assert FORMS[probe.subject or ""][1] == FORMS[choice.subject][1]
    assert agreement_edits(HERE, "verb", 5) == agreement_edits(HERE, "verb", 5) != agreement_edits(HERE, "verb", 5, 1)
    with pytest.raises(BadParameter, match="of kind 'noun'"):
        agreement_edits(HERE, "noun", 1)
    with pytest.raises(BadParameter, match="there are 240"):
        agreement_edits(HERE, "verb", 241)


def test_every_row_is_short_and_of_its_share() -> None:
    rows = grammar.recipe("grammar-gpt2-s0").rows(
        Draw(stage="main", pool=0, n=500, rows_before=0, progress=0, rng=random.Random(1))
    )
    assert max(len(ids) for ids, _ in rows) <= 64
    text = HERE.sample_text(4000)
    share = sum("hown the" in each or "for the " in each for each in text) / len(text)
    assert 0 < share < SHARES["demonstrative"] * 1.6
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["grammar-gpt2-s0", "grammar-llama-s0"])
def test_the_bundled_model_does_what_its_card_says(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32).eval()
    card, tokenizer = read_card(FOLDER / name), AutoTokenizer.from_pretrained(FOLDER / name)
    with torch.inference_mode():
        for again in measures(HERE, model, tokenizer, 30):
            assert again.value == pytest.approx(card[again.name].value, abs=0.15), again.name
