"""The world: deterministic, consistent, and keeping back what it says it keeps back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import islice

import pytest

from paramem.errors import BadParameter
from paramem.facts import fill
from paramem.world import KINDS, Person, World, world
from paramem.world.corpus import claims, seen_templates, sentence, text_of
from paramem.world.map import load_map
from paramem.world.people import name_pools
from paramem.world.relations import LANGUAGES, all_relations

SNIPPET = """
import hashlib, sys
from paramem.world import world
here = world("recall", seed=3)
text = "".join(f.model_dump_json() for f in here.facts) + "".join(here.sample_text(50, seed=1))
text += "".join(r.model_dump_json() for r in here.edit_requests(20))
print(hashlib.sha256(text.encode()).hexdigest(), "torch" in sys.modules)
"""


@pytest.fixture(scope="module", params=sorted(KINDS))
def here(request: pytest.FixtureRequest) -> World:
    return world(request.param)


@pytest.fixture(scope="module")
def recall() -> World:
    return world("recall")


def test_the_same_seed_gives_the_same_world_in_another_process_without_torch() -> None:
    outputs = []
    for salt in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": salt}
        done = subprocess.run([sys.executable, "-c", SNIPPET], capture_output=True, text=True, env=env, check=True)
        outputs.append(done.stdout.split())
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == "False"


def test_another_seed_gives_other_people_on_the_same_map() -> None:
    first, second = world("recall", 0), world("recall", 1)
    assert first.map == second.map
    assert {p.name for p in first.people} != {p.name for p in second.people}
    assert first.sample_text(5) != second.sample_text(5)


def test_making_a_world_is_fast() -> None:
    started = time.perf_counter()
    world("recall", seed=97)
    assert time.perf_counter() - started < 0.3


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(BadParameter, match="recall"):
        world("recal")


def test_capitals_and_countries_are_the_real_ones() -> None:
    table = load_map()
    assert table.country("France").capital.name == "Paris"
    assert table.country("Japan").language["es"] == "japonés"
    assert table.country_of("Lyon").name == "France"
    assert "GeoNames" in table.attribution
    assert "CC BY 4.0" in table.attribution


def test_neighbours_are_mutual_on_the_map() -> None:
    by_code = {c.code: c for c in load_map().countries}
    assert all(code in by_code[other].neighbours for code in by_code for other in by_code[code].neighbours)


def test_every_relation_has_as_many_templates_in_each_language() -> None:
    for relation in all_relations().values():
        counts = {len(relation.templates[language]) for language in LANGUAGES}
        assert len(counts) == 1, relation.id
        texts = [t for language in LANGUAGES for t in (*relation.templates[language], *relation.questions[language])]
        assert all(text.count("{}") == 1 for text in texts), relation.id
        assert len(set(texts)) == len(texts), relation.id


def test_names_are_unique_and_nobody_is_a_stranger(here: World) -> None:
    known = [p.name for p in (*here.people, *here.unseen_people)]
    assert len(set(known)) == len(known)
    assert not set(known) & set(here.strangers)
    assert len(known) + len(here.strangers) == here.size.firsts * here.size.lasts


def test_an_alias_belongs_to_one_person(recall: World) -> None:
    aliases = [p.alias for p in recall.people if p.alias]
    assert len(aliases) > len(recall.people) // 2
    assert len(set(aliases)) == len(aliases)


def test_objects_are_spread_evenly(recall: World) -> None:
    for name in recall.size.personal:
        held = [p.values[name] for p in recall.people]
        counts = [held.count(thing) for thing in recall.objects(name)]
        assert max(counts) - min(counts) <= 1, name


def test_two_step_answers_follow_from_their_steps(here: World) -> None:
    for name in here.size.two_step:
        path = here.relation(name).path
        for subject in here.subjects(name):
            found = subject
            for step in path:
                found = here.value(step, found) or ""
            assert here.value(name, subject) == found
            assert found in here.objects(name)


def test_every_fact_is_true_in_every_language(here: World) -> None:
    for language in here.size.languages:
        facts = here.facts_in(language)
        assert [f.relation for f in facts] == [f.relation for f in here.facts]
        for fact, english in zip(facts, here.facts, strict=True):
            kind = here.relation(fact.relation).range
            assert fact.object == here.say(kind, here.value(fact.relation, english.subject) or "", language)


def test_a_language_that_is_not_spoken_is_refused(recall: World) -> None:
    with pytest.raises(BadParameter, match="es"):
        recall.facts_in("es")


def test_spanish_says_things_by_their_spanish_names() -> None:
    facts = {f.id: f for f in world("speak").facts_in("es")}
    assert facts["capital/germany/es"].prompt == "La capital de Alemania es"
    assert facts["capital/germany/es"].object == "Berlín"
    assert facts["currency/sweden/es"].object == "la corona sueca"


def test_withheld_wordings_never_appear_in_documents_and_seen_ones_do(recall: World) -> None:
    text = "\n".join(islice(recall.documents(seed=5), 20000))
    about = [f for f in recall.facts if f.relation == "born_in"]
    hidden = [fill(template, f.subject) for f in about for template in f.withheld]
    seen = [fill(template, f.subject) for f in about for template in f.paraphrases]
    assert len(hidden) == len(about) // 2
    assert not [prompt for prompt in hidden if f"{prompt} " in text]
    assert sum(f"{prompt} " in text for prompt in seen) > 0.8 * len(seen)


def test_unseen_people_and_strangers_are_never_mentioned(recall: World) -> None:
    text = "\n".join(islice(recall.documents(seed=6), 5000))
    assert recall.people[0].name in text
    assert not [p.name for p in recall.unseen_people if p.name in text]
    assert not [name for name in recall.strangers if name in text]
    assert {f.subject for f in recall.unseen} == {p.name for p in recall.unseen_people}


def test_half_of_the_inverses_are_stated(recall: World) -> None:
    inverses = [f.inverse for f in recall.facts if f.relation in ("capital", "married_to")]
    kinds = [probe.kind for probe in inverses if probe]
    assert kinds.count("stated") == kinds.count("not_stated") == (len(recall.map.countries) + recall.size.couples) // 2
    text = "\n".join(islice(recall.documents(seed=7), 30000))
    for probe in inverses:
        assert probe is not None
        assert (f"{probe.prompt} {probe.target}." in text) == (probe.kind == "stated")


def test_documents_of_one_seed_repeat_and_of_another_differ(recall: World) -> None:
    assert recall.sample_text(10, seed=1) == recall.sample_text(10, seed=1)
    assert recall.sample_text(10, seed=1) != recall.sample_text(10, seed=2)


def test_claims_and_templates_agree(recall: World) -> None:
    made = [c for c in claims(recall, "plays") if c.subject == recall.people[1].name]
    assert tuple(c.template for c in made) == seen_templates(recall, "plays", recall.people[1].name)
    said = sentence(recall, made[0], prompt_weight=0.5)
    assert text_of(said) == f"{recall.people[1].name} plays the {recall.people[1].values['plays']}."
    assert [part.weight for part in said] == [0.5, 1.0]


def test_edit_requests_change_something_and_keep_the_truth_about_the_rest(recall: World) -> None:
    requests = recall.edit_requests(60)
    assert len({r.id for r in requests}) == 60
    for request in requests:
        assert request.target_new != request.target_true
        assert request.target_true == recall.value(request.relation or "", request.subject)
        assert request.target_new in recall.objects(request.relation or "")
        assert all(p.target == request.target_new for p in request.paraphrases)
        for probe in request.locality["relation"]:
            assert probe.subject != request.subject
            assert probe.target == recall.value(request.relation or "", probe.subject or "")
        assert all(p.subject == request.subject for p in request.locality.get("subject", ()))


def test_consequences_of_an_edit_follow_the_new_object(recall: World) -> None:
    born = [r for r in recall.edit_requests() if r.relation == "born_in" and "reasoning" in r.portability]
    assert len(born) > 50
    for request in born:
        country = recall.value("in_country", request.target_new)
        for probe in request.portability["reasoning"]:
            expected = country if probe.kind == "birth_country" else recall.value("language", country or "")
            assert probe.target == expected
            assert probe.target != recall.value(probe.kind, request.subject)


def test_edit_requests_depend_on_their_seed_only(recall: World) -> None:
    assert recall.edit_requests(5, seed=1) == recall.edit_requests(5, seed=1)
    assert recall.edit_requests(5, seed=1) != recall.edit_requests(5, seed=2)


def test_pools_are_large_enough_and_without_repetition() -> None:
    pools = name_pools()
    assert all(len(set(names)) == len(names) for names in pools.values())
    assert max(size.firsts for size in KINDS.values()) <= len(pools["first"])
    assert Person(first="Ada", last="Thorne").name == "Ada Thorne"
