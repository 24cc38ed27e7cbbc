r"""Editing by what the model reads: ICE (cohen2023ripple) and IKE (zheng2023ike). No weight changes.

ICE puts the new fact in front of every prompt, "Imagine that {fact}." first. IKE shows by demonstrations what to do
with a new fact, each a fact, a prompt and the right answer:

=======  ================================  ==============================
kind     its prompt                        its answer
=======  ================================  ==============================
copy     that of the fact itself           the fact's new object
update   the fact in other words           the fact's new object
retain   the same relation of another one  what is true of that one
=======  ================================  ==============================

1. ``demonstrable``   facts that nobody edits, each with an object that is not its own: the demonstrations' new facts
2. ``nearest``        those most like the edit, by a retriever, the most similar one last
3. ``demonstration``  each as a copy, an update or a retain example, in fixed proportions and shuffled order
4. the edit itself as a copy example, the new fact once more, and the prompt

With several edits the texts are a memory: each prompt gets that of the edit most similar to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from paramem.editing.requests import check_requests
from paramem.editing.retrieval import index, nearest
from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.facts import EditRequest, Fact
from paramem.interventions import MemoryPrompt, PromptRewrite
from paramem.interventions.prompt import PLACE
from paramem.models import LM

DEPARTURES = {
    "several edits": (
        "ICE and IKE are evaluated one edit at a time",
        "several edits are a memory, and each prompt reads the text of the edit most similar to it",
        "all facts at once exceed a small context, and a memory with a retriever is what the survey describes",
    ),
    "form": (
        "IKE writes 'New Fact: {fact}', a line break, 'Prompt: {prompt}' and the answer",
        "plain sentences by default; the released form is the variant 'ike-released-form'",
        "the bundled models never read these words nor a line break",
    ),
    "layout": (
        "IKE writes every fact directly before its prompt",
        "the same; 'ike-passage' writes all facts first, then the answered prompts, and shows four demonstrations",
        "the bundled models learned to read passages of up to five sentences with questions behind them",
    ),
    "imagine": (
        "ICE puts 'Imagine that' in front of the fact",
        "the same; `template` takes any other words, and 'ice-plain' is the fact alone",
        "the bundled models never read 'Imagine that'",
    ),
    "number": (
        "IKE shows 32 demonstrations, of which 4 copy, 12 update and 16 retain",
        "8 by default in the same proportions: 1, 3 and 4",
        "the bundled models that read have a context of 192 tokens",
    ),
    "room": (
        "all 32 demonstrations are shown",
        "those that leave room for the longest question about the edit: the shortest ones, in the retriever's order; "
        "an edit beside which not even one fits is refused",
        "the bundled models that learned the six tasks have a context of 128 tokens",
    ),
    "demonstrations": (
        "IKE takes counterfactual records that are not evaluated, with paraphrases and neighbours written for them",
        "facts of the model, each with the object of another of its relation, asked in the relation's other wordings",
        "a world has facts, not records; retain examples ask a fact that the model knows",
    ),
    "retriever": (
        "IKE compares sentence embeddings",
        "word and word-pair counts by default; `retriever='st:MODEL'` takes sentence embeddings",
        "needs no downloaded model; in the bundled world what two facts share are their words",
    ),
}

DemonstrationKind: TypeAlias = Literal["copy", "update", "retain"]


@dataclass(frozen=True, kw_only=True)
class IceSettings:
    """template: what is put around a prompt, with one {fact} and one {prompt}. retriever, threshold: which prompt gets
    which of several facts, see `MemoryPrompt`."""

    template: str = "Imagine that {fact}. {prompt}"
    retriever: str = "tfidf"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _check_template(self.template, "{fact}", PLACE)


@dataclass(frozen=True, kw_only=True)
class IkeSettings:
    """copy, update, retain: how many demonstrations of each kind; fewer where facts are few. demonstration: one,
    with {fact}, {prompt} and {answer}; what stands before {prompt} also introduces the prompt that is to be answered.
    layout: each fact before its prompt, or all facts first, as in a passage that questions follow.
    seed: of the new objects, the order of kinds and the choice of wordings."""

    copy: int = 1
    update: int = 3
    retain: int = 4
    demonstration: str = "{fact}. {prompt} {answer}. "
    layout: Literal["interleaved", "facts-first"] = "interleaved"
    retriever: str = "tfidf"
    threshold: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.copy, self.update, self.retain) < 0:
            raise BadParameter(f"copy={self.copy}, update={self.update}, retain={self.retain}: none can be negative")
        _check_template(self.demonstration, "{fact}", PLACE, "{answer}")
        if "{fact}" not in self.demonstration.partition(PLACE)[0]:
            raise BadParameter(
                f"a demonstration begins with its fact: {{fact}} before {{prompt}} in {self.demonstration!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A new fact, a prompt and the right answer."""

    kind: DemonstrationKind
    fact: str
    prompt: str
    answer: str


def ice(lm: LM, requests: Sequence[EditRequest], settings: IceSettings) -> PromptRewrite | MemoryPrompt:
    """The new fact in front of every prompt; of several facts the one most similar to it."""
    many = check_requests(lm, requests)
    templates = [_filled(settings.template, fact=statement(request)) for request in many]
    return _memory(many, templates, settings)


def ike(
    lm: LM, requests: Sequence[EditRequest], settings: IkeSettings, facts: Sequence[Fact]
) -> PromptRewrite | MemoryPrompt:
    """Demonstrations, then the new fact, in front of every prompt. facts: those that demonstrations are made of.

    Raises BadInput when too few of them are left that nobody edits, PromptTooLong when the context has room for none.
    """
    many = check_requests(lm, requests)
    pool = demonstrable(facts, many)
    wanted = settings.copy + settings.update + settings.retain
    if wanted and not pool:
        raise BadInput(
            f"{wanted} demonstrations are wanted, and none of {len(facts)} facts can be shown (of no edited "
            "subject, and of a relation with other subjects and objects): pass more facts."
        )
    texts = index(settings.retriever, [_sentence(fact.prompt, fact.object) for fact in pool]) if wanted else None
    templates = []
    for request in many:
        near = nearest(texts, statement(request), wanted) if texts else []
        shown = demonstrations([pool[i] for i in near], pool, settings, key=request.id)
        templates.append(_context(fitting(lm, shown, request, settings), request, settings))
    return _memory(many, templates, settings)


def demonstrable(facts: Iterable[Fact], requests: Sequence[EditRequest]) -> list[Fact]:
    """Facts of subjects that no request edits or has as its object, of relations with other subjects and objects."""
    edited = {request.subject for request in requests} | {request.target_new for request in requests}
    left = [fact for fact in facts if fact.subject not in edited]
    objects: dict[str, set[str]] = {}
    subjects: dict[str, set[str]] = {}
    for fact in left:
        objects.setdefault(fact.relation, set()).add(fact.object)
        subjects.setdefault(fact.relation, set()).add(fact.subject)
    return [fact for fact in left if len(objects[fact.relation]) > 1 and len(subjects[fact.relation]) > 1]


def unasked(facts: Iterable[Fact], requests: Sequence[EditRequest]) -> list[Fact]:
    """The facts that none of the requests' probes asks after: showing them gives nothing away and spoils nothing."""
    asked = {probe.subject for request in requests for _, _, probe in request.groups()}
    prompts = [probe.prompt for request in requests for _, _, probe in request.groups()]
    spoken = " ".join(prompts)
    return [fact for fact in facts if fact.subject not in asked or fact.prompt not in spoken]


def demonstrations(
    near: Sequence[Fact], pool: Sequence[Fact], settings: IkeSettings, key: str = ""
) -> list[Demonstration]:
    """One demonstration for each of the facts, given nearest first and returned nearest last."""
    rng = random.Random(f"ike/{settings.seed}/{key}")
    counts: dict[DemonstrationKind, int] = {
        "copy": settings.copy,
        "update": settings.update,
        "retain": settings.retain,
    }
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    rng.shuffle(kinds)
    shown = [demonstration(kind, fact, pool, rng) for kind, fact in zip(kinds, near, strict=False)]
    return shown[::-1]


def demonstration(kind: DemonstrationKind, fact: Fact, pool: Sequence[Fact], rng: random.Random) -> Demonstration:
    """One example of that kind, about a fact that is said to have another object than it has."""
    relatives = [other for other in pool if other.relation == fact.relation]
    new = rng.choice(sorted({other.object for other in relatives} - {fact.object}))
    said = _sentence(fact.prompt, new)
    if kind == "retain":
        others = [other for other in relatives if other.subject != fact.subject]
        other = rng.choice(others)
        return Demonstration(kind=kind, fact=said, prompt=other.prompt, answer=other.object)
    forms = [fact.template] if kind == "copy" else list(fact.paraphrases or (fact.template,))
    prompt = fact.probe(rng.choice(forms)).prompt
    return Demonstration(kind=kind, fact=said, prompt=prompt, answer=new)


def fitting(lm: LM, shown: Sequence[Demonstration], request: EditRequest, settings: IkeSettings) -> list[Demonstration]:
    """As many demonstrations, in their order, as leave room for the longest question about the edit: the shortest.

    Raises PromptTooLong when there is room for none.
    """
    asked = [f"{probe.prompt} {probe.target}" for _, _, probe in request.groups()] or [statement(request)]
    room = lm.max_length - max(_length(lm, text) for text in asked)
    lengths = [_length(lm, f"{each.fact} {each.prompt} {each.answer}") for each in shown]
    shortest = sorted(range(len(shown)), key=lambda i: (lengths[i], -i))
    for n in range(len(shown), 0, -1):
        kept = [shown[i] for i in sorted(shortest[:n])]
        if _length(lm, _context(kept, request, settings)) <= room:
            return kept
    if shown:
        raise PromptTooLong(
            f"edit {request.id!r}: beside its fact and a question of {lm.max_length - room} tokens, the context of "
            f"{lm.max_length} has room for no demonstration; ask for none (copy=0, update=0, retain=0), or shorten them"
        )
    return []


def _length(lm: LM, text: str) -> int:
    return len(lm.tokenizer(text)["input_ids"])


def statement(request: EditRequest) -> str:
    """The new fact as a sentence, without its full stop."""
    return _sentence(request.prompt, request.target_new)


def _context(shown: Sequence[Demonstration], request: EditRequest, settings: IkeSettings) -> str:
    """Demonstrations, the edit's own copy example, and the new fact before the place of the prompt."""
    own = Demonstration(kind="copy", fact=statement(request), prompt=request.prompt, answer=request.target_new)
    head, place, tail = settings.demonstration.partition(PLACE)
    facts = [_filled(head, fact=each.fact) for each in (*shown, own)]
    asked = [_filled(place + tail, prompt=each.prompt, answer=each.answer) for each in (*shown, own)]
    if settings.layout == "facts-first":
        return "".join(facts + asked) + PLACE
    return "".join(fact + question for fact, question in zip(facts, asked, strict=True)) + facts[-1] + PLACE


def _memory(
    requests: Sequence[EditRequest], templates: Sequence[str], settings: IceSettings | IkeSettings
) -> PromptRewrite | MemoryPrompt:
    if len(templates) == 1 and settings.threshold <= 0:
        return PromptRewrite(templates[0])
    return MemoryPrompt(
        keys=tuple(statement(request) for request in requests),
        templates=tuple(templates),
        retriever=settings.retriever,
        threshold=settings.threshold,
    )


def _sentence(prompt: str, answer: str) -> str:
    return f"{prompt} {answer}"


def _filled(template: str, **texts: str) -> str:
    """The places of a template filled at once, so that braces in a text stay what they are."""
    parts, rest = [], template
    while rest:
        places = {name: rest.find(f"{{{name}}}") for name in texts}
        found = {place: name for name, place in places.items() if place >= 0}
        if not found:
            break
        place = min(found)
        parts += [rest[:place], texts[found[place]]]
        rest = rest[place + len(found[place]) + 2 :]
    return "".join(parts) + rest


def _check_template(template: str, *places: str) -> None:
    for place in places:
        if template.count(place) != 1:
            raise BadParameter(f"a template needs {place} exactly once: {template!r}")
