"""Facts and requests to edit them, with every probe that the world can answer.

All probes follow from `World.value`, so what an edit should and should not change is known and not annotated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from paramem.facts import EditRequest, Fact, Probe, fill

if TYPE_CHECKING:
    from paramem.world.core import World
    from paramem.world.relations import Relation

NEIGHBOURS = 8  # other subjects of the same relation that a request asks after


def facts(world: World, language: str) -> tuple[Fact, ...]:
    """Every stated one-step fact, relation by relation."""
    stated = [r for r in world.relations if not r.path]
    return tuple(_fact(world, r, subject, language) for r in stated for subject in world.subjects(r.id))


def unseen_facts(world: World) -> tuple[Fact, ...]:
    """The facts of `world.unseen_people`, in English; all their templates count as withheld."""
    relations = [world.relation(name) for name in world.size.personal]
    return tuple(_fact(world, r, p.name, "en", unseen=True) for r in relations for p in world.unseen_people)


def slug(text: str) -> str:
    """A text as a part of an id."""
    return "-".join(text.lower().split())


def _fact(world: World, relation: Relation, subject: str, language: str, *, unseen: bool = False) -> Fact:
    templates = relation.templates[language]
    hidden = set(range(1, len(templates))) if unseen else {world.withheld_template(relation.id, subject)}
    found = world.value(relation.id, subject) or ""
    suffix = "" if language == "en" else f"/{language}"
    return Fact(
        id=f"{relation.id}/{slug(subject)}{suffix}",
        subject=world.say(relation.head, subject, language),
        relation=relation.id,
        object=world.say(relation.range, found, language),
        template=templates[0],
        subject_aliases=_aliases(world, subject),
        paraphrases=tuple(t for i, t in enumerate(templates) if i > 0 and i not in hidden),
        withheld=tuple(t for i, t in enumerate(templates) if i in hidden),
        question=relation.questions[language][0],
        language=language,
        inverse=inverse(world, relation, subject, found, language),
        consequences=tuple(consequences(world, relation.id, subject, found, language)),
    )


def _aliases(world: World, subject: str) -> tuple[str, ...]:
    if not world.size.aliases:
        return ()
    return tuple(p.alias for p in world.people if p.name == subject and p.alias)


def inverse(world: World, relation: Relation, subject: str, thing: str, language: str) -> Probe | None:
    """The statement read backwards, where the relation has one."""
    if not relation.inverse:
        return None
    thing = world.say(relation.range, thing, language)
    kind = "stated" if world.states_inverse(relation.id, subject) else "not_stated"
    answer = world.say(relation.head, subject, language)
    return Probe(prompt=fill(relation.inverse[language], thing), target=answer, kind=kind, subject=thing)


def consequences(world: World, name: str, subject: str, thing: str, language: str) -> Iterator[Probe]:
    """What two-step relations say of the subject if its `name` is `thing`."""
    for composed in world.relations:
        if composed.path[:1] != (name,):
            continue
        found: str | None = thing
        for step in composed.path[1:]:
            found = world.value(step, found) if found is not None else None
        if found is not None:
            who = world.say(composed.head, subject, language)
            target = world.say(composed.range, found, language)
            prompt = fill(composed.templates[language][0], who)
            yield Probe(prompt=prompt, target=target, kind=composed.id, subject=who)


def edit_requests(world: World, n: int | None, seed: int) -> tuple[EditRequest, ...]:
    """Requests in random order, each with a new object that is true of somebody else."""
    rng = random.Random(f"edits/{world.kind}/{world.seed}/{seed}")
    stated = list(world.facts)
    rng.shuffle(stated)
    editable = [f for f in stated if len(world.objects(f.relation)) > 1]
    return tuple(_request(world, fact, rng) for fact in editable[:n])


def _request(world: World, fact: Fact, rng: random.Random) -> EditRequest:
    choices = [o for o in world.objects(fact.relation) if o not in (fact.object, fact.subject)]
    new = rng.choice(choices)
    forms = fact.paraphrases + fact.withheld
    return EditRequest(
        id=fact.id,
        subject=fact.subject,
        relation=fact.relation,
        template=fact.template,
        target_new=new,
        target_true=fact.object,
        paraphrases=tuple(_paraphrase(fact, form, new) for form in forms),
        portability=portability(world, fact, new),
        locality=locality(world, fact, new, rng),
        generation_prompts=tuple(fill(form, fact.subject) for form in (fact.template, *forms[:2])),
        source=f"world/{world.kind}",
    )


def _paraphrase(fact: Fact, form: str, new: str) -> Probe:
    kind = "withheld" if form in fact.withheld else "paraphrase"
    return Probe(prompt=fill(form, fact.subject), target=new, kind=kind, subject=fact.subject)


def portability(world: World, fact: Fact, new: str) -> dict[str, tuple[Probe, ...]]:
    """Alias, two-step consequences that the edit changes, and the inverse or symmetric statement."""
    alias = tuple(
        Probe(prompt=fill(fact.template, name), target=new, kind="alias", subject=name) for name in fact.subject_aliases
    )
    old = {p.prompt: p.target for p in fact.consequences}
    then = consequences(world, fact.relation, fact.subject, new, "en")
    reasoning = tuple(probe for probe in then if old[probe.prompt] != probe.target)
    relation = world.relation(fact.relation)
    logical = inverse(world, relation, fact.subject, new, "en")
    found = {"alias": alias, "reasoning": reasoning, "logical": (logical,) if logical else ()}
    return {group: probes for group, probes in found.items() if probes}


def locality(world: World, fact: Fact, new: str, rng: random.Random) -> dict[str, tuple[Probe, ...]]:
    """What must stay: other subjects, other relations of this subject, both also after the edited statement."""
    others = [f for f in world.facts if f.relation == fact.relation and f.subject != fact.subject]
    # Neighbours in CounterFact's sense have the edit's old object; where there are too few, others fill the places.
    near = sorted(rng.sample(others, len(others)), key=lambda f: f.object != fact.object)[:NEIGHBOURS]
    same = [f for f in world.facts if f.subject == fact.subject and f.relation != fact.relation]
    far = [f for f in world.facts if f.relation != fact.relation and f.subject != fact.subject]
    distant = rng.sample(far, min(NEIGHBOURS, len(far)))
    found = {
        "relation": tuple(f.probe(kind="same_relation") for f in near),
        "subject": tuple(f.probe(kind="same_subject") for f in same),
        "distracting": tuple(_after(fact, new, f) for f in near[: NEIGHBOURS // 2]),
        "out_of_distribution": tuple(f.probe(kind="other_relation") for f in distant),
    }
    return {group: probes for group, probes in found.items() if probes}


def _after(fact: Fact, new: str, other: Fact) -> Probe:
    probe = other.probe(kind="distracting")
    return probe.model_copy(update={"prompt": f"{fact.prompt} {new}. {probe.prompt}"})
