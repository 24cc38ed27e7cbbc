"""What the property tests of editors edit: a taught tiny model, one fact of it, and what the editors need beside."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from known import FACTS, TEXTS, knowing
from learned import tiny_ke, tiny_mend
from paramem.facts import EditRequest, Probe
from paramem.interventions import Intervention
from paramem.models import LM
from paramem.registry import Method
from reading import reader, serac_of

LAYER = 1

# Method name -> what makes its `trained` material for a tiny model within a second or two.
TRAINERS: dict[str, Callable[[LM], Any]] = {
    "mend": tiny_mend,
    "ke": tiny_ke,
    "serac": serac_of,
    "serac-cross": serac_of,
}
# Method name -> settings for a tiny model: it reads the edit itself, and would be lost in demonstrations; of its forty
# directions hardly one is free of old keys by a share that leaves half of five hundred.
ALONE = {"copy": 0, "update": 0, "retain": 0}
SMALL: dict[str, dict[str, Any]] = {
    "ike": ALONE,
    "ike-no-retain": ALONE,
    "ike-released-form": ALONE,
    "ike-passage": ALONE,
    **{name: {"energy": 0.1} for name in ("alphaedit", "alphaedit-one-by-one", "alphaedit-forgetting")},
}


def _request(number: int, new: str) -> EditRequest:
    fact = FACTS[number]
    others = [other for other in FACTS if other.relation == fact.relation and other.subject != fact.subject]
    return EditRequest(
        id=fact.id,
        subject=fact.subject,
        relation=fact.relation,
        template=fact.template,
        target_new=new,
        target_true=fact.object,
        paraphrases=tuple(fact.probe(form).model_copy(update={"target": new}) for form in fact.paraphrases),
        locality={"relation": tuple(other.probe(kind="same_relation") for other in others)},
    )


REQUEST = _request(0, "Paris")  # Ann Lyon was born in Lyon
SECOND = _request(3, "Lyon")  # Paris capital was born in Paris
UNTOUCHED = tuple(fact for fact in FACTS if fact.id not in (REQUEST.id, SECOND.id))
NEIGHBOURS: tuple[Probe, ...] = tuple(fact.probe() for fact in UNTOUCHED)


def model(each: Method, family: str) -> LM:
    """The model that the method is tried on: one that knows `FACTS`, and reads where the method makes it read."""
    return reader(family) if each.module == "paramem.editing.in_context" else knowing(family)


@cache
def trained(each: Method, family: str) -> Any:
    """The method's learned part for that model, None where it has none."""
    return TRAINERS[each.name](model(each, family)) if each.name in TRAINERS else None


def make(each: Method, family: str, *requests: EditRequest, **settings: Any) -> Intervention:
    """The edit, made anew."""
    return each.edit(
        model(each, family),
        requests or [REQUEST],
        layer=LAYER,
        texts=TEXTS["en"],
        facts=UNTOUCHED,
        trained=trained(each, family),
        **{**SMALL.get(each.name, {}), **settings},
    )


@cache
def made(each: Method, family: str) -> Intervention:
    """The edit, made once for the tests that only look at it."""
    return make(each, family)
