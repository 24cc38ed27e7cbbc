"""A model while it is edited again and again: what of its edits, its knowledge and its skills is left.

    plan = long_run(lm, n=100)                                      # edits, and what is asked all along
    run = follow(lm, plan, edit, checkpoints=(1, 10, 100))
    looked(run.looks)                                               # one row per checkpoint and measure

What is watched is fixed before the first edit and concerns nobody whom an edit speaks of.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from paramem.editing.sequence import running
from paramem.errors import BadInput
from paramem.evaluation.answers import ask
from paramem.facts import EditRequest, Probe
from paramem.interventions import Intervention, WeightDelta
from paramem.material import edits_for, text_for, world_behind
from paramem.models import LM

if TYPE_CHECKING:
    from paramem.world import World

Edit = Callable[[LM, tuple[EditRequest, ...]], Intervention]
Hits = NDArray[np.bool_]

RESERVED = 4  # one person in so many is never edited
LAST = 10  # edits that count as the last ones
SAMPLE = 100  # of earlier edits, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class LongRun:
    """edits: in their order. watched: name to probes that no edit concerns. texts: ordinary text, for perplexity."""

    edits: tuple[EditRequest, ...]
    watched: Mapping[str, tuple[Probe, ...]]
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A model after ``n`` edits. hits: measure to whether each of its items was answered rightly.

    perplexity  of ordinary text, per token
    change      norm of the change of all edited matrices, in units of their own norm before (0 without weight changes)
    seconds     what the edits took, all together
    """

    editor: str
    n: int
    hits: Mapping[str, Hits]
    perplexity: float
    change: float = 0.0
    seconds: float = 0.0
    losses: tuple[float, ...] = field(default=(), repr=False)

    def share(self, measure: str) -> float:
        """Share of right answers."""
        return float(self.hits[measure].mean())


def long_run(lm: LM, dataset: str = "world", *, n: int, seed: int = 0, each: int = 60, texts: int = 60) -> LongRun:
    """``n`` edits and what is watched beside them, ``each`` items a measure.

    In a world counterfactual edits of known facts and insertions about strangers take turns, one person in `RESERVED`
    and the whole map are never edited, and skills are watched where the world has some. In a data set, what is watched
    are the true objects of edits that are not made.
    """
    if dataset != "world":
        requests = edits_for(lm, dataset, n=n + each, seed=seed)
        kept = [r for r in requests[n:] if r.target_true]
        facts = tuple(Probe(prompt=r.prompt, target=r.target_true or "", subject=r.subject) for r in kept)
        return LongRun(edits=tuple(requests[:n]), watched={"unedited facts": facts}, texts=())
    here = world_behind(lm)
    reserved = {person.name for person in here.people[::RESERVED]}
    known = [r for r in _people_edits(lm, here, seed) if r.subject not in reserved]
    strangers = edits_for(lm, task="insertion", seed=seed)
    mixed = [request for pair in zip(known, strangers, strict=False) for request in pair]
    mixed += [*known[len(strangers) :], *strangers[len(known) :]]
    if len(mixed) < n:
        raise BadInput(f"the world of {lm.name} holds {len(mixed)} edits beside what is watched, and {n} are wanted")
    rng = random.Random(f"watched/{here.kind}/{here.seed}/{seed}")
    watched = {name: tuple(_some(rng, probes, each)) for name, probes in _watched(here, reserved).items() if probes}
    return LongRun(edits=tuple(mixed[:n]), watched=watched, texts=tuple(text_for(lm, n=texts, seed=seed + 7919)))


def _people_edits(lm: LM, here: World, seed: int) -> list[EditRequest]:
    personal = {*here.size.personal}
    return [r for r in edits_for(lm, task="counterfact", seed=seed) if r.relation in personal]


def _watched(here: World, reserved: set[str]) -> dict[str, Sequence[Probe]]:
    about = [f for f in here.facts if f.subject in reserved and f.relation in here.size.personal]
    found: dict[str, Sequence[Probe]] = {"unedited facts": [f.probe() for f in about]}
    if here.kind == "edit":
        from paramem.world import editing

        theirs = [p for p in editing.questions(here) if p.subject in reserved]
        found["questions"] = theirs
        found["opinions"] = editing.opinions(here, held=False)
        found["refusals"] = editing.refusals(here, "strangers")
        found["biographies"] = [p for p in editing.biographies(here) if p.subject in reserved]
    found["the map"] = [f.probe() for f in here.facts if f.relation in here.size.impersonal]
    return found


def _some(rng: random.Random, probes: Sequence[Probe], n: int) -> Sequence[Probe]:
    return probes if len(probes) <= n else rng.sample(list(probes), n)


class Followed(NamedTuple):
    """looks: at the checkpoints. steps: one row per step: n, norm (of its change), made (share of its edits that are
    answered as wanted right after it), and the share of the tracked measure. at_once: no steps."""

    looks: list[Look]
    steps: pd.DataFrame
    made: Hits


def follow(
    lm: LM,
    plan: LongRun,
    edit: Edit,
    *,
    checkpoints: Sequence[int],
    name: str = "",
    size: int = 1,
    track: str | None = None,
) -> Followed:
    """Make the edits one after the other, or ``size`` at a time, and look at the model after each checkpoint.

    track: a watched measure that is asked after every step, not at checkpoints only.
    """
    due = _due(plan, checkpoints)
    looks, rows, seconds = list[Look](), list[dict[str, float]](), 0.0
    made_now: list[Hits] = []
    for made in running(lm, plan.edits[: due[-1]], edit, size=size):
        seconds += made.seconds
        with made.total.applied(lm) as edited:
            made_now.append(right(edited, [request.probe() for request in made.edits]))
            row = {"n": made.n, "norm": _norm(made.step), "made": float(made_now[-1].mean())}
            rows.append(row | ({track: float(right(edited, plan.watched[track]).mean())} if track else {}))
        if made.n in due:
            looks.append(_look(lm, plan, made.n, made.total, name, seconds))
    return Followed(looks, pd.DataFrame(rows), np.concatenate(made_now))


def follow_at_once(lm: LM, plan: LongRun, edit: Edit, *, checkpoints: Sequence[int], name: str = "") -> list[Look]:
    """The looks of an editor that makes a whole sequence by itself, in order: it is given all edits so far."""
    looks = []
    for n in _due(plan, checkpoints):
        started = time.perf_counter()
        total = edit(lm, plan.edits[:n])
        looks.append(_look(lm, plan, n, total, name, time.perf_counter() - started))
    return looks


def look_at(lm: LM, plan: LongRun, sums: Mapping[int, Intervention], *, name: str = "") -> list[Look]:
    """The looks at a sequence that was made before. sums: how many edits to all of them as one intervention."""
    return [_look(lm, plan, n, sums[n], name, 0.0) for n in _due(plan, list(sums))]


def _due(plan: LongRun, checkpoints: Sequence[int]) -> list[int]:
    due = sorted({c for c in checkpoints if 0 < c <= len(plan.edits)})
    if not due:
        raise BadInput(f"no checkpoint among {tuple(checkpoints)} is within the {len(plan.edits)} edits")
    return due


def unedited(lm: LM, plan: LongRun, name: str = "before") -> Look:
    """The model before the first edit."""
    return _looked(lm, plan, 0, name)


def _look(lm: LM, plan: LongRun, n: int, total: Intervention, name: str, seconds: float) -> Look:
    with total.applied(lm) as edited:
        found = _looked(edited, plan, n, name)
    return replace(found, change=_change(lm, total), seconds=seconds)


def _looked(lm: LM, plan: LongRun, n: int, name: str) -> Look:
    hits = {measure: right(lm, probes) for measure, probes in plan.watched.items()}
    if n:
        made = plan.edits[:n]
        some = [made[i * n // SAMPLE] for i in range(SAMPLE)] if n > SAMPLE else list(made)
        forms = [p for r in some for p in r.paraphrases[:2]]
        hits["last edits"] = right(lm, [r.probe() for r in made[-LAST:]])
        hits["all edits"] = right(lm, [r.probe() for r in some])
        hits["paraphrases"] = right(lm, forms) if forms else np.zeros(0, bool)
    losses = nats(lm, plan.texts)
    return Look(editor=name, n=n, hits=hits, perplexity=math.exp(min(50.0, float(np.mean(losses or (0.0,))))),
                losses=tuple(losses))  # fmt: skip


@torch.no_grad()
def right(lm: LM, probes: Sequence[Probe]) -> Hits:
    """Whether the model answers each probe with one of its answers, all tokens of it."""
    pairs = list(dict.fromkeys((probe.prompt, answer) for probe in probes for answer in probe.answers))
    answers = ask(lm, pairs)
    exact = dict(zip(pairs, answers.exact.tolist(), strict=True))
    return np.array([any(exact[probe.prompt, answer] for answer in probe.answers) for probe in probes], dtype=bool)


@torch.no_grad()
def nats(lm: LM, texts: Sequence[str]) -> list[float]:
    """Mean negative log-likelihood of a token of each text."""
    found: list[float] = []
    for batch in lm.text_batches(texts) if texts else ():
        logprobs = lm.logits(batch).float().log_softmax(-1)[:, :-1]
        labels, mask = batch.input_ids[:, 1:], batch.attention_mask[:, 1:].bool()
        nll = -logprobs.gather(2, labels[..., None])[..., 0].where(mask, 0)
        found += (nll.sum(1) / mask.sum(1).clamp(min=1)).tolist()
    return found


def _norm(step: Intervention) -> float:
    if not isinstance(step, WeightDelta):
        return 0.0
    return math.sqrt(sum(float(part.dense().double().norm()) ** 2 for part in step.parts.values()))


def _change(lm: LM, total: Intervention) -> float:
    if not isinstance(total, WeightDelta):
        return 0.0
    before = sum(float(lm.model.get_parameter(name).detach().double().norm()) ** 2 for name in total.parts)
    return _norm(total) / math.sqrt(before)


def skills(look: Look) -> Hits:
    """Whether each watched item beside facts was answered rightly: questions, opinions, biographies, refusals."""
    facts = ("unedited facts", "the map", "last edits", "all edits", "paraphrases")
    found = [hits for measure, hits in look.hits.items() if measure not in facts]
    return np.concatenate(found) if found else np.zeros(0, bool)


def looked(looks: Sequence[Look]) -> pd.DataFrame:
    """One row per look and measure: editor, n, measure, value, items; perplexity and change are measures, too."""
    rows = []
    for look in looks:
        for measure, hits in look.hits.items():
            rows.append(
                {"editor": look.editor, "n": look.n, "measure": measure, "value": hits.mean(), "items": len(hits)}
            )
        for measure, value in (("perplexity", look.perplexity), ("change of the weights", look.change)):
            rows.append({"editor": look.editor, "n": look.n, "measure": measure, "value": value, "items": 1})
    return pd.DataFrame(rows)
