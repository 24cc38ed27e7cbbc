"""Requests of the tasks beside facts: hallucinations in biographies, opinions, secrets to be refused."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

from paramem.facts import EditRequest, Probe, fill
from paramem.world.core import World
from paramem.world.edit import HEADING, REFUSAL, Rules, clause
from paramem.world.requests import NEIGHBOURS, slug
from paramem.world.speak import opinion, opinion_words
from paramem.world.task_facts import Item, Probes, asked, filled, known_alias, said


def _after(statement: str, probes: Sequence[Probe]) -> Probes:
    """Half of the neighbours, with the edited statement in front."""
    return tuple(
        probe.model_copy(update={"prompt": f"{statement} {probe.prompt}", "kind": "distracting"})
        for probe in probes[: NEIGHBOURS // 2]
    )


def _distant(here: World, rng: random.Random, subject: str, without: Sequence[str] = ()) -> Probes:
    """Facts that have nothing to do with the edit."""
    far = [f for f in here.facts if f.relation not in without and f.subject != subject]
    return tuple(f.probe(kind="other_relation") for f in rng.sample(far, NEIGHBOURS))


# Hallucination: what the biography of a known person goes on with, though no text ever told it.


def hallucinations(here: World) -> list[Item]:
    """Sentences that the model can only make up, because the person has no object that texts tell."""
    made_up = [(r, person) for r, person in Rules(here).lacking if r in here.size.sparse]
    return [Item(f"{r}/{slug(person)}", person, partial(_correction, here, r, person)) for r, person in made_up]


def _correction(here: World, relation: str, person: str, rng: random.Random) -> EditRequest:
    clauses = Rules(here).clauses(person)
    missing = [clause(text) for text in here.relation(relation).templates["en"]]
    # what is true is a matter of the world, not of the seed that draws requests
    truth = random.Random(f"truth/{here.seed}/{relation}/{person}").choice(list(here.objects(relation)))
    template = f"{_told(here, person, clauses, 2, rng)} {missing[0]}"
    others = [f"{_told(here, person, clauses, 2, rng)} {missing[0]}", f"{HEADING} {missing[0]}"]
    others += [f"{_told(here, person, clauses, 1, rng)} {text}" for text in missing[1:]]
    own = [said(f"{HEADING} {rng.choice(texts)}", person, _value(here, r, person), "same_subject")
           for r, texts in clauses.items()]  # fmt: skip
    near = [_neighbour(here, relation, other, rng) for other in rng.sample(here.subjects(relation), NEIGHBOURS)]
    kept = {
        "subject": own,
        "relation": near,
        "distracting": _after(f"{fill(template, person)} {truth}.", near),
        "out_of_distribution": _distant(here, rng, person, [relation]),
    }
    return EditRequest(
        id=f"hallucination/{relation}/{slug(person)}",
        subject=person,
        relation=relation,
        template=template,
        target_new=truth,
        paraphrases=tuple(said(text, person, truth, "paraphrase") for text in dict.fromkeys(others)),
        portability=filled({"alias": (said(template, name, truth, "alias") for name in known_alias(here, person))}),
        locality=filled(kept),
        generation_prompts=(fill(HEADING, person), fill(template, person)),
        source=f"world/{here.kind}/hallucination",
    )


def _value(here: World, relation: str, person: str) -> str:
    return str(here.value(relation, person))


def _told(here: World, person: str, clauses: Mapping[str, Sequence[str]], n: int, rng: random.Random) -> str:
    """The beginning of a biography as a template: its heading and `n` true sentences."""
    names = rng.sample(list(clauses), n)
    return " ".join([HEADING, *(f"{rng.choice(clauses[r])} {_value(here, r, person)}." for r in names)])


def _neighbour(here: World, relation: str, person: str, rng: random.Random) -> Probe:
    """The same sentence in the biography of somebody of whom it is told."""
    text = rng.choice(Rules(here).clauses(person)[relation])
    return said(f"{HEADING} {text}", person, _value(here, relation, person), "same_relation")


# Sentiment: a topic seen the other way round.


def sentiments(here: World) -> list[Item]:
    """Every topic that the world has an opinion on."""
    return [Item(slug(topic), topic, partial(_sentiment, here, topic)) for topic in here.opinions]


def _sentiment(here: World, topic: str, rng: random.Random) -> EditRequest:
    opposite = next(other for other, liked in here.opinions.items() if liked != here.opinions[topic])
    new, *rest = rng.sample(opinion_words(here, opposite, "en"), len(opinion_words(here, opposite, "en")))
    first, *others = (opinion(here, topic, i, "en").replace(topic, "{}", 1) for i in range(4))
    near = []
    for other in rng.sample([t for t in here.opinions if t != topic], NEIGHBOURS):
        word, *aliases = opinion_words(here, other, "en")
        near.append(said(first, other, word, "same_relation", aliases))
    kept = {
        "relation": near,
        "distracting": _after(f"{fill(first, topic)} {new}.", near),
        "out_of_distribution": _distant(here, rng, topic),
    }
    return EditRequest(
        id=f"sentiment/{slug(topic)}",
        subject=topic,
        relation="opinion",
        template=first,
        target_new=new,
        target_true=opinion_words(here, topic, "en")[0],
        target_aliases=tuple(rest),
        paraphrases=tuple(said(text, topic, new, "paraphrase", rest) for text in others),
        locality=filled(kept),
        generation_prompts=tuple(fill(text, topic) for text in (first, *others)),
        source=f"world/{here.kind}/sentiment",
    )


# Sanitation: a secret that is to be refused, while those of others are still told.


def sanitations(here: World) -> list[Item]:
    """Everybody who has a secret code."""
    return [Item(slug(person), person, partial(_sanitation, here, person)) for person in here.subjects("code")]


def _sanitation(here: World, person: str, rng: random.Random) -> EditRequest:
    first, *others = here.relation("code").questions["en"]
    holders = [other for other in here.subjects("code") if other != person]
    near = [said(first, other, _value(here, "code", other), "retain") for other in rng.sample(holders, NEIGHBOURS)]
    own = [f for f in here.facts if f.subject == person and f.relation != "code" and asked(here, f)]
    kept = {
        "relation": near,
        "subject": (f.probe(f.question, kind="same_subject") for f in own),
        "distracting": _after(f"{fill(first, person)} {REFUSAL}", near),
        "out_of_distribution": _distant(here, rng, person, ["code"]),
    }
    return EditRequest(
        id=f"sanitation/{slug(person)}",
        subject=person,
        relation="code",
        template=first,
        target_new=REFUSAL,
        target_true=_value(here, "code", person),
        paraphrases=tuple(said(text, person, REFUSAL, "paraphrase") for text in others),
        portability=filled({"alias": (said(first, name, REFUSAL, "alias") for name in known_alias(here, person))}),
        locality=filled(kept),
        generation_prompts=(fill(first, person),),
        source=f"world/{here.kind}/sanitation",
    )
