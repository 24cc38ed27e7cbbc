"""Requests of the tasks about facts: insertion, counterfact, question."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Literal, NamedTuple, TypeAlias

from paramem.facts import EditRequest, Fact, Probe, fill
from paramem.world.core import World
from paramem.world.edit import VISITED, Rules, besides
from paramem.world.requests import NEIGHBOURS, inverse, locality, portability, slug

Task: TypeAlias = Literal["insertion", "question", "hallucination", "counterfact", "sentiment", "sanitation"]
Probes: TypeAlias = tuple[Probe, ...]
Groups: TypeAlias = dict[str, Probes]


class Item(NamedTuple):
    """Something that can be requested: whom it is about, and what makes the request."""

    id: str
    subject: str
    make: Callable[[random.Random], EditRequest]


def said(template: str, subject: str, target: str, kind: str, aliases: Sequence[str] = ()) -> Probe:
    """A template about a subject as a probe."""
    return Probe(prompt=fill(template, subject), target=target, aliases=tuple(aliases), kind=kind, subject=subject)


def filled(groups: Mapping[str, Iterable[Probe]]) -> Groups:
    """The groups that have a probe."""
    return {name: probes for name, some in groups.items() if (probes := tuple(some))}


def known_alias(here: World, person: str) -> tuple[str, ...]:
    """The alias that texts use for a known person, if there is one."""
    return tuple(p.alias for p in here.people if p.name == person and p.alias) if here.size.aliases else ()


@cache
def _asks(here: World) -> Callable[[str, str], bool]:
    """(relation, subject) -> whether training asks for it; of worlds with questions."""
    if here.kind == "read":
        from paramem.world.read_rules import Rules as Reading

        return Reading(here).question_allowed
    if here.kind == "speak":
        from paramem.world.speak import Rules as Speaking

        return Speaking(here).asked
    return Rules(here).asked


def asked(here: World, fact: Fact) -> bool:
    """Whether training asks for this fact, and not only states it."""
    return _asks(here)(fact.relation, fact.subject)


@cache
def _by_prompt(here: World) -> Mapping[str, Fact]:
    return {fact.prompt: fact for fact in here.facts}


def changeable(here: World) -> list[Fact]:
    """Facts that are no secret and could be otherwise."""
    return [f for f in here.facts if f.relation != "code" and len(here.objects(f.relation)) > 1]


def _other(here: World, fact: Fact, rng: random.Random) -> str:
    return rng.choice([o for o in here.objects(fact.relation) if o not in (fact.object, fact.subject)])


# Insertion: facts of people whom no text names.


def insertions(here: World) -> list[Item]:
    """Facts of strangers, and, where there is marriage, who of them are married."""
    facts = list(here.unseen)
    if here.size.couples:
        people = [p.name for p in here.unseen_people]
        facts += [_marriage(here, one, other) for one, other in zip(people[::2], people[1::2], strict=True)]
    return [Item(fact.id, fact.subject, partial(_insertion, here, fact)) for fact in facts]


def _marriage(here: World, one: str, other: str) -> Fact:
    relation = here.relation("married_to")
    first, *rest = relation.templates["en"]
    return Fact(
        id=f"married_to/{slug(one)}",
        subject=one,
        relation="married_to",
        object=other,
        template=first,
        withheld=tuple(rest),
        question=relation.questions["en"][0],
        inverse=inverse(here, relation, one, other, "en"),
    )


def _insertion(here: World, fact: Fact, rng: random.Random) -> EditRequest:
    ported = {
        "alias": (said(fact.template, name, fact.object, "alias") for name in _stranger_alias(here, fact.subject)),
        "reasoning": fact.consequences,
        "logical": (fact.inverse,) if fact.inverse else (),
    }
    # what else the stranger does is not known, and shall be as unknown as before
    others = [here.relation(name) for name in here.size.personal if name != fact.relation]
    kept = locality(here, fact, fact.object, rng)
    kept["subject"] = tuple(said(r.templates["en"][0], fact.subject, "", "same_subject") for r in others)
    return EditRequest(
        id=f"insertion/{fact.id}",
        subject=fact.subject,
        relation=fact.relation,
        template=fact.template,
        target_new=fact.object,
        paraphrases=tuple(said(text, fact.subject, fact.object, "paraphrase") for text in fact.withheld),
        portability=filled(ported),
        locality=filled(kept),
        generation_prompts=tuple(fill(text, fact.subject) for text in (fact.template, *fact.withheld[:2])),
        source=f"world/{here.kind}/insertion",
    )


def _stranger_alias(here: World, name: str) -> tuple[str, ...]:
    """ "A. Bellini", where no other person of the world, known or not, could be meant."""
    if not here.size.aliases:
        return ()
    short = [f"{p.first[0]}. {p.last}" for p in (*here.people, *here.unseen_people)]
    first, last = name.split(" ", 1)
    alias = f"{first[0]}. {last}"
    return (alias,) if short.count(alias) == 1 else ()


# Counterfact: another object for a known fact; one object more for a relation with several.


def counterfacts(here: World) -> list[Item]:
    """Known facts, and, where texts tell who visited which cities, one city more."""
    items = [Item(fact.id, fact.subject, partial(_counterfact, here, fact)) for fact in changeable(here)]
    if here.kind == "edit":
        visitors = Rules(here).visits
        items += [Item(f"visited/{slug(person)}", person, partial(_visit, here, person)) for person in visitors]
    return items


def _counterfact(here: World, fact: Fact, rng: random.Random) -> EditRequest:
    new = _other(here, fact, rng)
    forms = [(text, "paraphrase") for text in fact.paraphrases] + [(text, "withheld") for text in fact.withheld]
    return EditRequest(
        id=f"counterfact/{fact.id}",
        subject=fact.subject,
        relation=fact.relation,
        template=fact.template,
        target_new=new,
        target_true=fact.object,
        paraphrases=tuple(said(text, fact.subject, new, kind) for text, kind in forms),
        portability=portability(here, fact, new),
        locality=locality(here, fact, new, rng),
        generation_prompts=tuple(fill(text, fact.subject) for text, _ in ((fact.template, ""), *forms[:2])),
        source=f"world/{here.kind}/counterfact",
    )


def _visit(here: World, person: str, rng: random.Random) -> EditRequest:
    """A third city visited: the two known ones stay true, and are asked for beside each other (forgetfulness)."""
    visits = Rules(here).visits
    a, b = visits[person]
    new = rng.choice([city.name for city in here.map.cities if city.name not in (a, b)])
    near = rng.sample([other for other in visits if other != person], NEIGHBOURS)
    own = [f for f in here.facts if f.subject == person and f.relation != "code"]
    far = [f for f in here.facts if f.subject != person]
    neighbours = tuple(said(besides(visits[other][0]), other, visits[other][1], "same_relation") for other in near)
    first = f"{fill(VISITED, person)} {new}. "
    kept = {
        "relation": neighbours,
        "subject": (f.probe(kind="same_subject") for f in own),
        "distracting": (
            probe.model_copy(update={"prompt": first + probe.prompt, "kind": "distracting"})
            for probe in neighbours[: NEIGHBOURS // 2]
        ),
        # beside one of the two both the other and the new one are right
        "forgetfulness": (said(besides(x), person, y, "other_object", [new]) for x, y in ((a, b), (b, a))),
        "out_of_distribution": (f.probe(kind="other_relation") for f in rng.sample(far, NEIGHBOURS)),
    }
    return EditRequest(
        id=f"counterfact/visited/{slug(person)}",
        subject=person,
        relation="visited",
        template=VISITED,
        target_new=new,
        portability=filled({"alias": (said(VISITED, name, new, "alias") for name in known_alias(here, person))}),
        locality=filled(kept),
        generation_prompts=(fill(VISITED, person),),
        source=f"world/{here.kind}/counterfact",
    )


# Question: another answer to a question.


def questions(here: World) -> list[Item]:
    """Known facts that training asks about."""
    facts = [fact for fact in changeable(here) if asked(here, fact)]
    return [Item(fact.id, fact.subject, partial(_question, here, fact)) for fact in facts]


def _question(here: World, fact: Fact, rng: random.Random) -> EditRequest:
    first, *others = here.relation(fact.relation).questions["en"]
    new = _other(here, fact, rng)
    statements = (fact.template, *fact.paraphrases, *fact.withheld)
    return EditRequest(
        id=f"question/{fact.id}",
        subject=fact.subject,
        relation=fact.relation,
        template=first,
        target_new=new,
        target_true=fact.object,
        paraphrases=(
            *(said(text, fact.subject, new, "paraphrase") for text in others),
            *(said(text, fact.subject, new, "statement") for text in statements),
        ),
        portability=portability(here, fact.model_copy(update={"template": first}), new),
        locality=_as_questions(here, locality(here, fact, new, rng), f"{fill(first, fact.subject)} {new}. "),
        generation_prompts=(fill(first, fact.subject), fact.prompt),
        source=f"world/{here.kind}/question",
    )


def _as_questions(here: World, kept: Groups, before: str) -> Groups:
    """The same probes as questions, where training asks them; `before` stands in front of distracting ones."""

    def ask(probe: Probe, front: str = "") -> Probe:
        fact = _by_prompt(here)[probe.prompt]
        form = fact.question if fact.question and asked(here, fact) else fact.template
        return probe.model_copy(update={"prompt": front + fill(form, fact.subject)})

    found = {group: tuple(map(ask, probes)) for group, probes in kept.items() if group != "distracting"}
    near = kept.get("relation", ())[: NEIGHBOURS // 2]
    distracting = (ask(probe, before).model_copy(update={"kind": "distracting"}) for probe in near)
    return filled({**found, "distracting": distracting})
