"""The tokenizer: names in pieces, words whole, losses where they belong; and the rows of the testbeds."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from paramem.world import World, reason, recall, world
from paramem.world.corpus import Part, text_of
from paramem.world.tokenizer import BOS_ID, build_tokenizer, encode


@pytest.fixture(scope="module")
def here() -> World:
    return world("recall")


@pytest.fixture(scope="module")
def tokenizer(here: World) -> PreTrainedTokenizerFast:
    return build_tokenizer(here)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    return len(tokenizer.tokenize(text))


def test_names_take_several_tokens_and_single_words_one(here: World, tokenizer: PreTrainedTokenizerFast) -> None:
    counts = [pieces(tokenizer, person.name) for person in here.people]
    assert sum(count in (3, 4) for count in counts) > 0.7 * len(counts)
    for name in ("born_in", "plays", "studies", "keeps", "capital", "language"):
        assert {pieces(tokenizer, thing) for thing in here.objects(name)} == {1}, name
    assert {pieces(tokenizer, thing) for thing in here.objects("works_for")} == {2}


def test_longer_pieces_make_names_whole(here: World) -> None:
    whole = build_tokenizer(here, piece=99)
    counts = [pieces(whole, person.name) for person in here.people]
    assert sum(count == 2 for count in counts) > 0.85 * len(counts)


def test_the_tokenizer_is_the_same_every_time(here: World, tokenizer: PreTrainedTokenizerFast) -> None:
    assert build_tokenizer(here).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("text", ["Ada Thorne OBE was born in Lyon.", "Übergrößenträger {} 42 ¿qué?", "a"])
def test_any_text_survives_and_starts_with_one_start_token(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == BOS_ID
    assert BOS_ID not in ids[1:]
    assert tokenizer.decode(ids[1:]).strip() == text


def test_offsets_find_a_subject_inside_a_text(here: World, tokenizer: PreTrainedTokenizerFast) -> None:
    name = here.people[0].name
    text = f"The field of {name} is algebra."
    start, stop = text.index(name), text.index(name) + len(name)
    encoded = tokenizer(text, return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < stop and b > start]
    assert tokenizer.decode([encoded["input_ids"][i] for i in inside]).strip() == name


def test_loss_weights_follow_the_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    ((ids, weights),) = encode(tokenizer, [(Part("Ada plays the", 0.25), Part(" piano.", 1.0))])
    assert ids[0] == ids[-1] == BOS_ID
    words = tokenizer.convert_ids_to_tokens(ids)
    assert [w for word, w in zip(words, weights, strict=True) if "piano" in word or word == "."] == [1.0, 1.0]
    assert weights[0] == 0.0
    assert weights[-1] == 1.0
    assert set(weights[1:-3]) == {0.25}


def test_rows_of_recall_have_letters_aliases_and_a_sentence_in_front(here: World) -> None:
    texts = [text_of(row) for row in islice(recall.rows(here, random.Random(0)), 4000)]
    letters = {person.postnominal for person in here.people}
    with_letters = sum(any(f" {post} " in text for post in letters) for text in texts) / len(texts)
    two = sum(text.count(". ") > sum(f"{c}. " in text for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ") for text in texts)
    assert 0.3 < with_letters < 0.6
    assert 0.5 < two / len(texts) < 0.7


def test_rows_are_a_function_of_the_draw() -> None:
    recipe = recall.recipe("gpt2-s1")
    from paramem.world.recipe import draw_of

    first, again, other = (recipe.rows(draw_of(recipe, 0, pool)) for pool in (3, 3, 4))
    assert first == again
    assert first != other


def test_consequences_of_held_out_people_are_never_stated() -> None:
    here = world("reason")
    hidden = set(reason.held_out(here))
    texts = [text_of(row) for row in islice(reason.rows(here, random.Random(0)), 20000)]
    consequences = {
        probe.prompt for name in here.size.two_step for probe in reason.two_step(here, name, sorted(hidden))
    }
    seen = {p.prompt for name in here.size.two_step for p in reason.two_step(here, name, [here.people[0].name])}
    assert not [text for text in texts if any(text.startswith(prompt) for prompt in consequences)]
    assert all(any(text.startswith(prompt) for text in texts) for prompt in seen)
    assert any(name in text for text in texts for name in hidden)


def test_two_step_answers_need_both_steps() -> None:
    here = world("reason")
    for probe in reason.two_step(here, "employer_product", reason.held_out(here)):
        company = here.value("works_for", probe.subject or "")
        assert probe.target == here.value("makes", company or "")
        assert company not in probe.prompt
        assert probe.target.lower() not in (company or "").lower()
