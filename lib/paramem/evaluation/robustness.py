"""One edited fact asked in many ways: the forms in which it would be asked in use, and not in the words of the edit.

    forms(here, request, rng)       # form -> prompts whose right answer is the new object
    ask_forms(lm, edits, asked)     # one row per request and form

ma2024robustness asks edited models in dialogue, with rephrased and distracting prompts, and by popularity of the fact;
a world knows how often each person was talked about.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from paramem.errors import BadInput
from paramem.evaluation.intervals import Span, paired
from paramem.evaluation.over_time import right
from paramem.facts import EditRequest, Fact, Probe, fill
from paramem.interventions import Intervention
from paramem.models import LM
from paramem.world.task_facts import said

if TYPE_CHECKING:
    from paramem.world import World

Forms = Mapping[str, tuple[Probe, ...]]
DISTRACTORS = 2  # prompts of each form that draws other facts


def forms(here: World, request: EditRequest, rng: random.Random) -> Forms:
    """Form to prompts: "edit", "other wording", "distractor" and "alias" in every world with them; in the edit world
    also "question", "dialogue" (after two other questions with their answers) and "biography" (after a sentence).

    Raises BadInput for a request that is about no relation of the world.
    """
    fact = next((f for f in here.facts if (f.subject, f.relation) == (request.subject, request.relation)), None)
    if fact is None:
        raise BadInput(f"request {request.id!r} edits no stated fact of the world {here.kind!r}")
    new = request.target_new
    found: dict[str, tuple[Probe, ...]] = {
        "edit": (request.probe(),),
        "other wording": tuple(said(t, fact.subject, new, "wording") for t in (*fact.paraphrases, *fact.withheld)),
        "distractor": tuple(
            _after(_statements(here, fact, rng, 1), request.prompt, request) for _ in range(DISTRACTORS)
        ),
        "alias": tuple(said(request.template, name, new, "alias") for name in fact.subject_aliases),
    }
    if here.kind == "edit":
        found |= _in_use(here, fact, request, rng)
    return {name: probes for name, probes in found.items() if probes}


def _in_use(here: World, fact: Fact, request: EditRequest, rng: random.Random) -> dict[str, tuple[Probe, ...]]:
    from paramem.world.edit import HEADING, Rules, clause

    rules, questions = Rules(here), here.relation(fact.relation).questions["en"]
    clauses = {r: texts for r, texts in rules.clauses(fact.subject).items() if r != fact.relation}
    first = {r: f"{rng.choice(texts)} {here.value(r, fact.subject)}." for r, texts in clauses.items()}
    own = [clause(text) for text in here.relation(fact.relation).templates["en"][:DISTRACTORS]]
    written = [f"{HEADING} {first[rng.choice(sorted(first))]} {text}" for text in own] if first else []
    turns = [f"{q} {a}." for q, a in _turns(here, fact, rng)]
    return {
        "question": tuple(said(q, fact.subject, request.target_new, "question") for q in questions),
        "dialogue": tuple(_after(" ".join(turns), fill(q, fact.subject), request) for q in questions),
        "biography": tuple(said(text, fact.subject, request.target_new, "biography") for text in written),
    }


def _turns(here: World, fact: Fact, rng: random.Random) -> list[tuple[str, str]]:
    others = [f for f in here.facts if f.subject != fact.subject and f.relation in here.size.personal and f.question]
    return [(fill(f.question or f.template, f.subject), f.object) for f in rng.sample(others, DISTRACTORS)]


def _statements(here: World, fact: Fact, rng: random.Random, n: int) -> str:
    """True sentences about other people, of the same relation."""
    others = [f for f in here.facts if f.relation == fact.relation and f.subject != fact.subject]
    return " ".join(f"{f.prompt} {f.object}." for f in rng.sample(others, n))


def _after(text: str, prompt: str, request: EditRequest) -> Probe:
    return Probe(prompt=f"{text} {prompt}", target=request.target_new, kind="after", subject=request.subject)


def ask_forms(
    lm: LM, edits: Sequence[Intervention | None], asked: Sequence[Forms], names: Sequence[str]
) -> pd.DataFrame:
    """One row per request and form: the share of its prompts that the model, under that edit alone, answers anew."""
    rows = []
    for edit, each, name in zip(edits, asked, names, strict=True):
        probes = [(form, probe) for form, some in each.items() for probe in some]
        if edit is None:
            hits = right(lm, [probe for _, probe in probes])
        else:
            with edit.applied(lm) as edited:
                hits = right(edited, [probe for _, probe in probes])
        frame = pd.DataFrame({"form": [form for form, _ in probes], "right": hits.astype(float)})
        shares = frame.groupby("form", sort=False)["right"].mean()
        rows += [{"request": name, "form": form, "right": float(share)} for form, share in shares.items()]
    return pd.DataFrame(rows)


def paired_forms(table: pd.DataFrame, one: str, others: Sequence[str], seed: int = 0) -> Span:
    """How much more often an edit is answered in one form than in others, edit by edit: mean and 95 % interval."""
    wide = table.pivot(index="request", columns="form", values="right")
    both = pd.DataFrame({"one": wide[one], "others": wide[list(others)].mean(axis=1)}).dropna()
    return paired(both["one"].to_list(), both["others"].to_list(), seed)


def clashing(here: World, n: int, seed: int = 0) -> list[tuple[EditRequest, EditRequest]]:
    """Pairs of edits that cannot both be true: one person marries another, then that one marries a third.

    A marriage is edited first in one pair at most, and second in one at most; with no more pairs than half of the
    couples nobody is in two pairs. Raises BadInput where there are fewer than ``n``, or than three couples.
    """
    married = [f for f in here.facts if f.relation == "married_to"]
    rng = random.Random(f"clashing/{here.kind}/{here.seed}/{seed}")
    rng.shuffle(married)
    if len(married) < max(n, 3):
        raise BadInput(f"the world {here.kind!r} has {len(married)} couples: {n} clashing pairs take {max(n, 3)}")
    pairs = []
    for one, other in _in_pairs(married)[:n]:
        third = rng.choice([fact.object for fact in married if fact not in (one, other)])
        pairs.append(
            (
                _marriage(one.id, one.subject, other.subject, one.object, one.template),
                _marriage(other.id, other.subject, third, other.object, other.template),
            )
        )
    return pairs


def _in_pairs(couples: Sequence[Fact]) -> list[tuple[Fact, Fact]]:
    """Each couple with its successor on a ring; first those of which no two share a couple, then the others."""
    ring = list(zip(couples, [*couples[1:], couples[0]], strict=True))
    return [*ring[: len(ring) - len(ring) % 2 : 2], *ring[1::2], *ring[len(ring) - len(ring) % 2 :]]


def _marriage(name: str, who: str, whom: str, true: str, template: str) -> EditRequest:
    return EditRequest(
        id=name, subject=who, relation="married_to", template=template, target_new=whom, target_true=true
    )


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A city written over and written back: ``other`` is the second right answer to the same prompt."""

    away: EditRequest
    back: EditRequest
    other: str

    def probability(self, lm: LM) -> float:
        """Of the other city, on the edited prompt."""
        return float(lm.score([self.away.prompt], [self.other]).logprob.exp()[0])


def there_and_back(here: World, lm: LM, n: int, seed: int = 0) -> list[Trip]:
    """Edits of the city that the model names first to a new one, and back. Raises BadInput without travellers."""
    from paramem.world.tasks import task_requests

    visited = [r for r in task_requests(here, "counterfact", seed=seed) if r.relation == "visited"]
    if len(visited) < n:
        raise BadInput(f"the world {here.kind!r} tells of {len(visited)} travellers, and {n} are wanted")
    trips = []
    for request in visited[:n]:
        two = [probe.target for probe in request.locality["forgetfulness"]]
        likely = lm.score([request.prompt] * 2, two).logprob.argmax()
        first, other = two[int(likely)], two[1 - int(likely)]
        away = request.model_copy(update={"target_true": first})
        back = away.model_copy(update={"id": f"{away.id}/back", "target_new": first, "target_true": away.target_new})
        trips.append(Trip(away=away, back=back, other=other))
    return trips
