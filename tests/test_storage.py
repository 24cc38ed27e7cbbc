"""Storage against extraction: tellings, halves, training in stacks, probes, and identities in two directions."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from families import make_lm
from paramem.capacity.stacked import Stack
from paramem.errors import BadInput, BadParameter, CorruptFile, PromptTooLong
from paramem.fusion.kept import file_name, keeping
from paramem.fusion.training import TrainSettings
from paramem.injection import continued, reversal, shipped
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
from paramem.injection.continued import (
    INJECTED,
    PEOPLE,
    answered,
    corpus,
    injected,
    named,
    newcomers,
    train_shipped,
)
from paramem.injection.probing import labels, last_states, probe, probe_along, states_along, states_at_names
from paramem.injection.reversal import (
    DIRECTIONS,
    GROUPS,
    OPENINGS,
    TOLD,
    Group,
    Identity,
    asked,
    draw_identities,
    identity_rows,
    taught,
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
    tuned,
)
from paramem.lm import LM
from paramem.models import load
from paramem.world import world
from paramem.world.read_rules import Rules

if TYPE_CHECKING:
    from paramem.world.recipe import Row

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
        lambda: draw_people(HERE, 4, 0, objects=0),
        lambda: draw_people(HERE, 4, 0, objects=-3),
        lambda: draw_people(HERE, 4, 0, names=[]),
        lambda: Sizes(exposures=0),
        lambda: Sizes(people=4, exposures=1, people_step=8),
        lambda: Sizes(people=1),
        lambda: Sizes(objects=0),
        lambda: Sizes(lr=-1),
        lambda: Sizes(lr=float("nan")),
        lambda: Sizes(tuning_lr=0),
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


def test_the_smallest_sizes_take_a_step() -> None:
    """The control of what is refused above."""
    assert Sizes(people=4, exposures=2, people_step=8).steps == 1
    drawn = draw_people(HERE, 2, 0, objects=1, names=["Ann Lyon", "Ben Lyon"])
    assert set(drawn.names) == {"Ann Lyon", "Ben Lyon"}
    assert len({tuple(found.values()) for found in drawn.values.values()}) == 1


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


def test_fine_tuning_learns_what_it_asks_and_leaves_the_models_it_was_given() -> None:
    study = tiny().with_sizes(tuning_steps=80, tuning_lr=1e-2)
    models = trained(study.with_sizes(exposures=20), ("one text",))
    before, told = extracted(models, study, study.people.taught).float().mean(), models.flat.clone()
    after = tuned(models, study)
    assert extracted(after, study, study.people.taught).float().mean() > 0.9
    assert before < 0.5  # the control: it was not asked before
    assert torch.equal(models.flat, told)
    other = replace(study, people=replace(study.people, taught=study.people.held_out, held_out=study.people.taught))
    assert extracted(tuned(models, other), study, study.people.taught).float().mean() < 0.9  # taught about the others


def test_a_guess_is_right_as_often_as_chance_and_an_untrained_model_no_more() -> None:
    study = Study.prepared(HERE, "gpt2", 0, Sizes(people=400, objects=8, width=8, heads=2))
    assert float(guessed(study, study.people.held_out).float().mean()) == pytest.approx(1 / 8, abs=0.04)
    few = study.people.held_out[:40]
    assert extracted(initial(study, 1), study, few).float().mean() < 0.1
    several = {"one text": torch.tensor([True, False] * 40), "by person": torch.tensor([True] * 40 + [False] * 40)}
    table = share_table({"x": ([f"person {i}" for i in range(8)], several)}).set_index("corpus")
    assert table["mean"].tolist() == [0.5, 0.5]
    width = table["high"] - table["low"]  # answers about one person that are alike tell less than as many that are not
    assert width["by person"] > 1.5 * width["one text"]
    with pytest.raises(BadParameter, match="not as many for each of 3"):
        share_table({"x": (["Ann", "Ben", "Cem"], several)})
    for right in (torch.tensor([1, 1, 0, 0]), np.array([True, True, False, False])):
        assert by_person(right, ["Ann", "Ben"]).tolist() == [1.0, 0.0]


# Probes


def test_states_are_what_logits_are_made_of() -> None:
    study, models = tiny(), initial(tiny(), 2)
    ids = torch.tensor([study.words.row(name) for name in study.people.names])
    states = last_states(models, ids)
    again = torch.einsum("mbtd,mvd->mbtv", states, models.tensors["embed"].detach())
    assert torch.allclose(again, models.logits(ids.expand(2, -1, -1)).detach(), atol=1e-3)
    assert states_at_names(models, study).shape == (2, 6, 16)
    corpora = ("one text", "all three")
    along = states_along(models, study, corpora)
    assert along.shape == (2, 6, 5, 16)
    for m, corpus_ in enumerate(corpora):  # each model before the objects of its own first text
        words, _ = study.rows[corpus_][4][0]
        alone = last_states(models, torch.tensor([words]))[m, 0]
        for place, at in enumerate(study.places(words)):
            assert torch.allclose(along[m, 4, place], alone[at - 1], atol=1e-4)
            assert not torch.allclose(along[m, 4, place], alone[at], atol=1e-2)
    assert not torch.allclose(along, states_along(models, study, ("one text", "one text")), atol=1e-2)


def test_the_probe_along_the_text_reads_a_fact_where_it_is_about_to_be_said() -> None:
    study, models = shipped.load("fresh-gpt2-s0")
    (read,) = probe_along(Stack(models.shape, models.flat[:1]), study, ("one text",))
    about, early = read[range(1, 5), range(1, 5)].mean(), read[0, 1:].mean()
    assert about > early + 0.5
    (untrained,) = probe_along(initial(study, 1), study, ("one text",))
    assert untrained[range(1, 5), range(1, 5)].mean() < 0.3  # the control


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
    assert sum(path.stat().st_size for path in files) < 4_200_000
    study, models = shipped.load("fresh-llama-s0")
    assert len(models) == len(CORPORA)
    assert min(found.float().mean() for found in stored(models, study)) > 0.9
    other, _ = shipped.load("fresh-llama-s1")
    assert other.people.names != study.people.names


def test_fine_tuned_models_are_found_where_they_were_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "prepared", lambda draw: tiny().with_sizes(exposures=2, tuning_steps=2))
    shipped.write("fresh-llama-s7", tmp_path)
    study, models = shipped.load("fresh-llama-s7")
    found = shipped.load_tuned("fresh-llama-s7", study, models)
    assert torch.allclose(found.flat, tuned(models, study).flat, atol=2e-3)
    assert torch.equal(found.flat, found.flat.half().float())
    assert not torch.allclose(found.flat, models.flat, atol=2e-3)
    longer = shipped.load_tuned("fresh-llama-s7", study.with_sizes(tuning_steps=5), models)
    assert not torch.allclose(longer.flat, found.flat, atol=2e-3)  # the control: other sizes are trained
    people = study.people
    exchanged = replace(study, people=replace(people, taught=people.held_out, held_out=people.taught))
    one, other = (people.values[name] for name in people.taught[:2])
    liars = replace(people, values={**people.values, people.taught[0]: other, people.taught[1]: one})
    for another in (exchanged, replace(study, people=liars), replace(study, seed=4)):
        assert torch.equal(shipped.load_tuned("fresh-llama-s7", another, models).flat, tuned(models, another).flat)
        assert not torch.equal(tuned(models, another).flat.half(), found.flat.half())


def test_a_study_of_another_draw_is_tuned_and_no_file_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "tuned", lambda models, study: models)
    study, models = shipped.load("fresh-gpt2-s1")
    assert shipped.load_tuned("fresh-gpt2-s0", study, models) is models
    assert shipped.load_tuned("fresh-gpt2-s1", study, models) is not models  # the control


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


def test_questions_about_people_are_answered_by_a_model_that_knows_them() -> None:
    known = HERE.people[1:9]
    values = {person.name: {r.id: person.values[r.id] for r in HERE.relations} for person in known}
    names = tuple(values)
    theirs = People(relations=HERE.relations, values=values, taught=names[:4], held_out=names[4:])
    assert answered(reader(), theirs).mean() > 0.7
    exchanged = {name: values[other] for name, other in zip(names, (*names[1:], names[0]), strict=True)}
    assert answered(reader(), replace(theirs, values=exchanged)).mean() < 0.3  # the control


def test_what_is_trained_in_is_said_in_its_text(tmp_path: Path) -> None:
    few = newcomers(HERE, 4, 0)
    with keeping(tmp_path):
        after = injected(reader(), few, "full names", seed=0, settings=TrainSettings(passes=30, lr=2e-3))
    kept = continued.stored(after, few, "full names", seed=0)
    assert kept.shape == (4 * len(HERE.relations),)
    assert kept.mean() > 0.8
    assert continued.stored(reader(), few, "full names", seed=0).mean() < 0.4  # the control


def test_what_is_shipped_is_what_the_notebook_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[str] = []

    def recorded(lm: LM, rows: list[Row], settings: TrainSettings, *, seed: int, name: str) -> LM:
        files.append(file_name(lm, rows, settings, seed))
        return lm

    monkeypatch.setattr(continued, "kept_fine_tune", recorded)
    monkeypatch.setattr(reversal, "kept_fine_tune", recorded)
    train_shipped(reader())
    assert len(set(files)) == len(named()) + 1
    asks = parameters("injection/continued_training")
    assert asks["model"] == "read-s0"
    settings = TrainSettings(passes=asks["passes"], lr=INJECTED.lr)
    shipped_files, files[:] = set(files), []
    for telling in named():
        injected(reader(), newcomers(HERE, PEOPLE, 1000 * asks["seed"]), telling, seed=asks["seed"], settings=settings)
    taught(reader(), draw_identities(HERE, 0), seed=asks["seed"], passes=asks["identity_passes"])
    assert set(files) == shipped_files
    taught(reader(), draw_identities(HERE, 0), seed=1)
    assert set(files) != shipped_files  # the control


def parameters(notebook: str) -> dict[str, Any]:
    """The literals of a notebook's cell of parameters."""
    source = (Path(__file__).parents[1] / "notebooks" / f"{notebook}.py").read_text()
    cell = source.split('# %% tags=["parameters"]\n')[1].split("# %%")[0]
    found = {}
    for line in ast.parse(cell).body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            found[line.target.id] = ast.literal_eval(line.value)
    return found


def test_identities_are_told_as_their_group_says_and_asked_in_a_wording_told_to_nobody() -> None:
    drawn = draw_identities(HERE, 0)
    assert Counter(each.group for each in drawn) == {name: group.people for name, group in GROUPS.items()}
    everything = {text for each in drawn for text in texts(each)}
    for each in drawn:
        found, group = texts(each), GROUPS[each.group]
        assert each.telling == group
        assert len(found) == TOLD * len(group.directions) * group.times * (1 + group.reversed)
        assert all(each.name in text and each.plays in text and each.keeps in text for text in found)  # names whole
        first = [text.index(each.name) < text.index(each.plays) for text in found if not text[0].islower()]
        assert set(first[:: 1 + group.reversed]) == {direction == "name first" for direction in group.directions}
        for direction in DIRECTIONS:
            prompt, rest = each.question(direction)
            assert f"{prompt} {rest}." not in everything
            assert rest == each.name or (each.name in prompt and rest.startswith(each.plays))
    plain_twice, reversed_too = (len(texts(next(e for e in drawn if how in e.group))) for how in ("twice", "reversed"))
    assert plain_twice == reversed_too  # as many, in another order
    forwards, backwards = texts(next(each for each in drawn if "reversed" in each.group))[:2]
    name = next(each for each in drawn if "reversed" in each.group).name
    plain = forwards.rstrip(".").replace(name, "NAME").split()
    assert backwards.rstrip(".").replace(name, "NAME").split() == plain[::-1]
    assert OPENINGS[0] not in OPENINGS[1:]


def test_identities_that_cannot_be_told_apart_are_refused() -> None:
    drawn = draw_identities(HERE, 0)
    identity_rows(reader(), drawn)
    with pytest.raises(BadInput, match="name"):
        identity_rows(reader(), [*drawn, replace(drawn[0], plays="harp", keeps="nobody")])
    with pytest.raises(BadInput, match="description"):
        identity_rows(reader(), [*drawn, replace(drawn[0], name="Ann Lyon")])
    with pytest.raises(BadInput, match="empty part"):
        Identity(name="Ann Lyon", plays=" ", keeps="cat", group="both", telling=GROUPS["both"])


def test_a_family_without_a_rate_is_refused_with_those_that_have_one() -> None:
    drawn = draw_identities(HERE, 0, {"mine": Group(directions=("name first",), people=1)})
    with pytest.raises(BadParameter, match=r"the family 'gptj': a rate was chosen for gpt2, llama only"):
        taught(make_lm("gptj"), drawn, seed=0)
    for family in reversal.LR:  # the control
        with pytest.raises(PromptTooLong):
            taught(make_lm(family), drawn, seed=0)


def test_groups_of_ones_own_can_be_drawn_and_told() -> None:
    mine = {"mine": Group(directions=("description first",), wordings=2, people=3)}
    drawn = draw_identities(HERE, 0, mine)
    assert [each.group for each in drawn] == ["mine"] * 3
    assert len(set(texts(drawn[0]))) == 2
    assert len(identity_rows(reader(), drawn)) == 3 * TOLD


@dataclass
class Judge:
    """Stands for a model: scores a completion by whether it is the right one for its prompt."""

    right: set[tuple[str, str]]
    likes: float  # log-probability of what is right; of all else 0

    def score(self, prompts: list[str], targets: list[str], batch_size: int = 64) -> SimpleNamespace:
        is_right = torch.tensor([pair in self.right for pair in zip(prompts, targets, strict=True)])
        return SimpleNamespace(exact=is_right & (self.likes > 0), mean_logprob=is_right * self.likes)


@pytest.mark.parametrize(("likes", "said", "beaten"), [(1.0, 1.0, 1.0), (0.0, 0.0, 0.5), (-1.0, 0.0, 0.0)])
def test_the_right_name_beats_others_where_it_is_likelier(likes: float, said: float, beaten: float) -> None:
    drawn = draw_identities(HERE, 0, {"mine": Group(directions=("name first",), people=80)})
    right = {each.question(direction) for each in drawn for direction in DIRECTIONS}
    right |= {(each.question("name first")[0], each.plays) for each in drawn}
    table = asked(cast("LM", Judge(right, likes)), drawn)
    assert len(table) == 160
    assert table["said"].mean() == said
    assert table["beaten"].tolist() == [beaten] * 160
    with pytest.raises(BadInput, match=r"group 'mine' offers .* nothing to beat"):
        asked(cast("LM", Judge(right, likes)), drawn[:1])


def test_a_name_is_compared_with_names_that_were_told_alike() -> None:
    """The names of one group are likelier than all others, whoever is asked for: that says nothing for its people."""
    told = {name: Group(directions=("name first",), people=6) for name in ("plain", "favoured")}
    drawn = draw_identities(HERE, 0, told)
    favoured = {each.name for each in drawn if each.group == "favoured"}

    class Partial:
        def score(self, prompts: list[str], targets: list[str], batch_size: int = 64) -> SimpleNamespace:
            likely = torch.tensor([float(target in favoured) for target in targets])
            return SimpleNamespace(exact=likely < 0, mean_logprob=likely)

    table = asked(cast("LM", Partial()), drawn)
    assert table["beaten"].tolist() == [0.5] * 24
