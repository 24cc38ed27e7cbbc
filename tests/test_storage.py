"""Storage against extraction: tellings, halves, training in stacks, probes, and identities in two directions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from paramem.errors import BadInput, BadParameter, CorruptFile, PromptTooLong
from paramem.injection import shipped
from paramem.injection.biographies import (
    END,
    TELLINGS,
    LeakingHalves,
    People,
    Telling,
    Words,
    biographies,
    draw_people,
    split,
)
from paramem.injection.continued import corpus, named, newcomers, text_rows
from paramem.injection.probing import labels, last_states, probe, states_along, states_at_names
from paramem.injection.reversal import (
    DIRECTIONS,
    GROUPS,
    OPENINGS,
    Group,
    Identity,
    draw_identities,
    identity_rows,
    texts,
)
from paramem.injection.shares import by_person, share_table
from paramem.injection.storage import (
    CORPORA,
    MIXED,
    Sizes,
    Study,
    _asked,
    _told,
    answer_row,
    extracted,
    guessed,
    initial,
    mean_losses,
    stacked,
    stored,
    strung,
    trained,
)
from paramem.lm import LM
from paramem.models import load
from paramem.world import world
from paramem.world.read_rules import Rules

HERE = world("read")
TINY = Sizes(people=6, objects=4, width=16, heads=2, exposures=60, people_step=3, lr=2e-2, tuning_rows=8)


@cache
def people() -> People:
    return draw_people(HERE, 20, 3, objects=8)


@cache
def tiny() -> Study:
    return Study.prepared(HERE, "llama", 3, TINY)


@cache
def reader() -> LM:
    return load("read-s0")


# People and texts


def test_the_halves_share_nobody_and_a_leak_is_named() -> None:
    drawn = people()
    assert not set(drawn.taught) & set(drawn.held_out)
    assert len(set(drawn.names)) == 20
    leak = drawn.taught[3]
    with pytest.raises(LeakingHalves, match=leak):
        replace(drawn, held_out=(*drawn.held_out, leak))
    replace(drawn, held_out=drawn.held_out[1:])  # the control
    assert draw_people(HERE, 20, 4, objects=8).names != drawn.names


@pytest.mark.parametrize("name", TELLINGS)
def test_every_telling_states_the_same_facts_in_each_text(name: str) -> None:
    telling = TELLINGS[name]
    drawn = people()
    things = {thing for relation in drawn.relations for thing in HERE.objects(relation.id)}
    for person, found in zip(drawn.names, biographies(drawn, telling, 0), strict=True):
        assert len(found) == telling.texts
        for text in found:
            assert Counter(set(split(text)) & things) == Counter(drawn.values[person].values())
            assert text.count(person) == (5 if telling.full_names else 1)
            assert text.count(".") == 5
    # the control: somebody else's values are other ones
    assert drawn.values[drawn.names[0]] != drawn.values[drawn.names[1]]


def test_tellings_differ_in_what_they_say_they_do() -> None:
    drawn, person = people(), people().names[:1]
    told = {name: biographies(drawn, telling, 0, of=person)[0] for name, telling in TELLINGS.items()}
    (plain,) = told["one text"]
    assert told["orders"][0] == told["wordings"][0] == plain
    assert len(set(told["orders"])) > 30
    assert len(set(told["wordings"])) > 30
    order = [[text.index(v) for v in drawn.values[person[0]].values()] for text in told["wordings"]]
    assert all(places == sorted(places) for places in order)  # other wordings, the same order
    shuffled = [[text.index(v) for v in drawn.values[person[0]].values()] for text in told["orders"]]
    assert not all(places == sorted(places) for places in shuffled)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Telling(texts=0),
        lambda: Telling(texts=3),
        lambda: Telling(reworded=True),
        lambda: draw_people(HERE, 1, 0),
        lambda: draw_people(HERE, 5000, 0),
        lambda: people().question(people().names[0], "shoe_size"),
        lambda: people().question(people().names[0], "plays", 7),
        lambda: Sizes(exposures=0),
        lambda: trained(tiny(), ()),
        lambda: trained(tiny(), ("one text", "no such corpus")),
        lambda: probe(torch.zeros(1, 4, 2), np.zeros((1, 4), dtype=int)),
        lambda: probe(torch.zeros(1, 9, 2), np.zeros((1, 8), dtype=int)),
        lambda: by_person(torch.ones(7), ["Ann", "Ben"]),
        lambda: shipped.load("fresh-s0"),
        lambda: corpus(reader(), people(), "one text", 0),
        lambda: draw_identities(HERE, 0, {"both": Group(directions=DIRECTIONS, people=600)}),
        lambda: Group(directions=DIRECTIONS, people=0),
        lambda: Group(directions=()),
        lambda: Group(directions=DIRECTIONS, wordings=9),
    ],
)
def test_what_cannot_be_is_refused(call: object) -> None:
    with pytest.raises(BadParameter) as caught:
        call()  # type: ignore[operator]
    assert len(str(caught.value)) > 20


def test_a_relation_without_a_question_cannot_be_asked() -> None:
    silent = tuple(replace(r, questions={}) if r.id == "eats" else r for r in people().relations)
    with pytest.raises(BadParameter, match=r"'eats' has 0 forms"):
        replace(people(), relations=silent).question(people().names[0], "eats")
    assert people().question(people().names[0], "eats")[1] in HERE.objects("eats")  # the control


def test_words_go_there_and_back_and_empty_texts_are_refused() -> None:
    words, person = Words.of(people()), people().names[0]
    text = biographies(people(), TELLINGS["all three"], 0)[0][7]
    assert words.text(words.row(text)) == " ".join(split(text))
    assert words.row(text)[0] == words.row(text)[-1] == END
    with pytest.raises(BadInput, match="empty text"):
        words.row(person, "  ")
    with pytest.raises(BadInput, match="zeppelin"):
        words.row(f"{person} owns a zeppelin.")


# Rows and training


def test_only_answers_count_and_objects_stand_where_they_are_looked_for() -> None:
    study = tiny()
    question, answer = study.people.question(study.people.names[0], "plays")
    ids, weights = answer_row(study.words, question, answer)
    assert [study.words.words[i] for i, w in zip(ids, weights, strict=True) if w] == [answer]
    both, counted = strung([(ids, weights), (ids, weights)])
    assert study.words.text(both) == f"{study.words.text(ids)} {study.words.text(ids)}"
    assert len(both) == len(counted)
    assert sum(counted) == 2
    for person, found in zip(study.people.names, study.rows["all three"], strict=True):
        said = [study.words.words[found[9][0][place]] for place in study.places(found[9][0])]
        assert sorted(said) == sorted(study.people.values[person].values())


def test_everybody_is_told_as_often_in_every_corpus_and_only_the_taught_are_asked() -> None:
    study = tiny()
    for corpus_ in CORPORA:
        stream, counts = _told(study, corpus_), Counter[int]()
        whose = {tuple(ids): n for n, found in enumerate(study.rows[corpus_]) for ids, _ in found}
        for _ in range(8):  # three people a step, six people: four rounds
            batch = next(stream)
            counts.update(whose[tuple(ids)] for ids, _ in batch if tuple(ids) in whose)
            assert len(batch) == 3 + (corpus_ == MIXED) * study.sizes.questions_step
        assert set(counts.values()) == {4}
    asked = {study.words.text(ids) for _ in range(9) for ids, _ in next(_asked(study))}
    assert not any(name in text for name in study.people.held_out for text in asked)
    assert any(name in text for name in study.people.taught for text in asked)


def test_padding_and_empty_rows_cost_nothing() -> None:
    study, models = tiny(), initial(tiny(), 2)
    short, long = study.rows["one text"][0][0], study.rows["all three"][0][0]
    together = mean_losses(models, *stacked([[short], [long, long]]))
    assert torch.allclose(together[0], mean_losses(models, *stacked([[short], [short]]))[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_training_stores_its_own_texts_and_nobody_elses() -> None:
    study = tiny()
    models = trained(study, ("one text",))
    assert stored(models, study, ("one text",))[0].float().mean() > 0.9
    values, names = study.people.values, study.people.names
    exchanged = {name: values[other] for name, other in zip(names, (*names[1:], names[0]), strict=True)}
    wrong = Study(people=replace(study.people, values=exchanged), architecture="llama", seed=3, sizes=TINY)
    (found,) = stored(models, wrong, ("one text",))
    assert found.float().mean() < 0.7  # the control: what was exchanged is not said
    assert extracted(models, study, study.people.held_out).float().mean() < 0.5  # it was never asked anything


def test_a_stack_trains_each_model_as_if_it_were_alone() -> None:
    study = tiny().with_sizes(exposures=4)
    both, alone = trained(study, ("one text", "all three")), trained(study, ("all three",))
    assert torch.allclose(both.flat[1], alone.flat[0], atol=1e-3)
    assert not torch.allclose(both.flat[0], alone.flat[0], atol=1e-2)


def test_a_guess_is_right_as_often_as_chance_and_an_untrained_model_no_more() -> None:
    study = Study.prepared(HERE, "gpt2", 0, Sizes(people=400, objects=8, width=8, heads=2))
    assert float(guessed(study, study.people.held_out).float().mean()) == pytest.approx(1 / 8, abs=0.04)
    few = study.people.held_out[:40]
    assert extracted(initial(study, 1), study, few).float().mean() < 0.1
    assert share_table({"x": {"one text": torch.tensor([True, False])}})["mean"].item() == 0.5
    assert by_person(torch.tensor([1, 1, 0, 0]), ["Ann", "Ben"]).tolist() == [1.0, 0.0]


# Probes


def test_states_are_what_logits_are_made_of() -> None:
    study, models = tiny(), initial(tiny(), 2)
    ids = torch.tensor([study.words.row(name) for name in study.people.names])
    states = last_states(models, ids)
    again = torch.einsum("mbtd,mvd->mbtv", states, models.tensors["embed"].detach())
    assert torch.allclose(again, models.logits(ids.expand(2, -1, -1)).detach(), atol=1e-3)
    assert states_at_names(models, study).shape == (2, 6, 16)
    along = states_along(models, study)
    assert along.shape == (2, 6, 5, 16)
    assert not torch.allclose(along[:, :, 0], along[:, :, 1], atol=1e-2)


def test_a_probe_reads_what_is_there_and_nothing_from_shuffled_objects() -> None:
    study = Study.prepared(HERE, "gpt2", 1, Sizes(people=80, objects=8))
    targets, mixed = labels(study), labels(study, shuffled=True)
    noise = torch.randn(1, 80, 24, generator=torch.Generator().manual_seed(0))
    there = noise.clone()
    there[0, torch.arange(80), torch.tensor(targets[0])] += 6.0
    assert probe(there, targets[:1]).mean() > 0.9
    assert probe(there, mixed[:1]).mean() < 0.3
    assert probe(noise, targets).mean() < 0.25
    assert sorted(targets[0].tolist()) == sorted(mixed[0].tolist())


# Shipped models


def test_shipped_models_are_those_of_the_corpora_and_small() -> None:
    files = sorted(shipped.FOLDER.glob("*.safetensors"))
    assert [path.stem for path in files] == sorted(shipped.DRAWS)
    assert sum(path.stat().st_size for path in files) < 2_100_000
    study, models = shipped.load("fresh-llama-s0")
    assert len(models) == len(CORPORA)
    assert min(found.float().mean() for found in stored(models, study)) > 0.9
    other, _ = shipped.load("fresh-llama-s1")
    assert other.people.names != study.people.names


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    path = tmp_path / "fresh-gpt2-s0.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(CorruptFile, match=r"paramem\.injection\.shipped fresh-gpt2-s0"):
        shipped.load("fresh-gpt2-s0")
    from safetensors.torch import save_file

    save_file({"flat": torch.zeros(2, 3)}, path)
    with pytest.raises(CorruptFile, match="another recipe"):
        shipped.load("fresh-gpt2-s0")


# Continued training


def test_newcomers_are_new_and_texts_are_checked() -> None:
    drawn = newcomers(HERE, 8, 0)
    assert set(drawn.names) <= set(Rules(HERE).new_strangers)
    assert not set(drawn.names) & set(Rules(HERE).known)
    rows = corpus(reader(), drawn, "full names", 0)
    assert len(rows) == 8
    text = str(reader().tokenizer.decode(list(rows[0][0]), skip_special_tokens=True)).strip()
    assert text == biographies(drawn, TELLINGS["full names"], 0)[0][0]
    assert set(named()) == {"full names", "all three"}
    with pytest.raises(BadInput, match="empty"):
        text_rows(reader(), ["Ann lives.", " "])
    with pytest.raises(PromptTooLong, match="context"):
        text_rows(reader(), ["Paris and Rome " * 200])


def test_identities_are_told_as_their_group_says_and_asked_in_a_wording_told_to_nobody() -> None:
    drawn = draw_identities(HERE, 0)
    assert Counter(each.group for each in drawn) == {name: group.people for name, group in GROUPS.items()}
    everything = {text for each in drawn for text in texts(each)}
    for each in drawn:
        found, group = texts(each), GROUPS[each.group]
        assert len(found) == 4 * len(group.directions) * (1 + group.reversed)
        assert all(each.name in text and each.plays in text and each.keeps in text for text in found)  # names whole
        first = [text.index(each.name) < text.index(each.plays) for text in found if not text[0].islower()]
        assert set(first[:: 1 + group.reversed]) == {direction == "name first" for direction in group.directions}
        for direction in DIRECTIONS:
            prompt, rest = each.question(direction)
            assert f"{prompt} {rest}." not in everything
            assert rest == each.name or (each.name in prompt and rest.startswith(each.plays))
    forwards, backwards = texts(next(each for each in drawn if "reversed" in each.group))[:2]
    name = next(each for each in drawn if "reversed" in each.group).name
    plain = forwards.rstrip(".").replace(name, "NAME").split()
    assert backwards.rstrip(".").replace(name, "NAME").split() == plain[::-1]
    assert OPENINGS[0] == ""


def test_identities_that_cannot_be_told_apart_are_refused() -> None:
    drawn = draw_identities(HERE, 0)
    identity_rows(reader(), drawn)
    with pytest.raises(BadInput, match="name"):
        identity_rows(reader(), [*drawn, replace(drawn[0], plays="harp", keeps="nobody")])
    with pytest.raises(BadInput, match="description"):
        identity_rows(reader(), [*drawn, replace(drawn[0], name="Ann Lyon")])
    with pytest.raises(BadInput, match="empty part"):
        Identity(name="Ann Lyon", plays=" ", keeps="cat", group="both")
