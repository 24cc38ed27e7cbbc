r"""Batches of any size around the same edits, so that what a batch does to an edit can be compared with itself.

``tracked`` edits are asked about in every batch; ``others`` fill the batch up. All subjects are different, because
edits of one subject often share their key, and nothing asked about is itself edited. In a bundled world the tracked
edits are counterfactual ones of people of the test side, the others are facts of people whom nobody knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.editing.alphaedit import AlphaEditSettings, alphaedit
from paramem.editing.emmet import EmmetSettings, emmet
from paramem.editing.memit import MemitSettings, memit, target_states
from paramem.editing.statistics import cached_second_moment
from paramem.errors import BadInput
from paramem.evaluation import Baseline, evaluate
from paramem.facts import EditRequest, FrozenDict, Probe
from paramem.interventions import WeightDelta
from paramem.material import edits_for, facts_for, known_facts, part_of, text_for, world_behind
from paramem.models import LM


@dataclass(frozen=True, kw_only=True)
class Pool:
    """tracked: edits with probes. others: edits that fill batches up."""

    tracked: tuple[EditRequest, ...]
    others: tuple[EditRequest, ...]

    @property
    def all(self) -> tuple[EditRequest, ...]:
        """The tracked edits, then the others."""
        return (*self.tracked, *self.others)

    def batches(self, size: int) -> list[tuple[EditRequest, ...]]:
        """Batches of this size that hold every tracked edit once: several of tracked edits alone, or one with others.

        Raises BadInput where there are not enough edits, or the tracked ones are not divided evenly.
        """
        n = len(self.tracked)
        if size > len(self.all) or (size < n and n % size):
            raise BadInput(
                f"size={size}: {n} tracked edits and {len(self.others)} others make no batches of this size; take a "
                "divisor of the first number, or at most their sum."
            )
        if size >= n:
            return [self.all[:size]]
        return [self.tracked[start : start + size] for start in range(0, n, size)]


def pool_for(lm: LM, dataset: str, *, tracked: int, size: int, probes: int = 2, seed: int = 0) -> Pool:
    """``tracked`` edits with at most ``probes`` questions of each kind, and others up to ``size``, all of different
    subjects.

    Raises BadInput where the data set holds fewer subjects.
    """
    if dataset == "world":
        own = _one_each(edits_for(lm, seed=seed, relations="people", part="test"), tracked)
        more = _strangers(lm, size - tracked, seed)
    else:
        own = _one_each(edits_for(lm, dataset, seed=seed), size)
        own, more = own[:tracked], own[tracked:]
    if len(own) < tracked or len(own) + len(more) < size:
        raise BadInput(
            f"{dataset} holds edits of {len(own) + len(more)} different subjects, {len(own)} of which can be asked "
            f"about; {size} and {tracked} are wanted: ask for fewer."
        )
    edited = {request.prompt for request in (*own, *more)}
    return Pool(tracked=tuple(_asked(request, edited, probes) for request in own), others=tuple(more))


def _one_each(requests: Iterable[EditRequest], n: int) -> list[EditRequest]:
    """The first edit of each subject, ``n`` at most."""
    first: dict[str, EditRequest] = {}
    for request in requests:
        first.setdefault(request.subject, request)
    return list(first.values())[:n]


def _strangers(lm: LM, n: int, seed: int) -> list[EditRequest]:
    """A fact each about people who do not exist, relations by turns; fewer are the first of more."""
    here, rng = world_behind(lm), random.Random(f"strangers/{seed}")
    names = rng.sample(here.strangers, len(here.strangers))
    found = []
    for i, name in enumerate(names[: max(n, 0)]):
        relation = here.relation(here.size.personal[i % len(here.size.personal)])
        found.append(
            EditRequest(
                id=f"stranger/{name}",
                subject=name,
                relation=relation.id,
                template=relation.templates["en"][0],
                target_new=rng.choice(here.objects(relation.id)),
            )
        )
    return found


def _asked(request: EditRequest, edited: set[str], most: int) -> EditRequest:
    """The request with at most ``most`` probes of each kind, none of them an edited prompt."""

    def few(probes: Sequence[Probe]) -> tuple[Probe, ...]:
        return tuple(probe for probe in probes if probe.prompt not in edited)[:most]

    def groups(given: FrozenDict, names: Sequence[str]) -> FrozenDict:
        kept = {name: few(given[name]) for name in names if name in given}
        return FrozenDict({name: probes for name, probes in kept.items() if probes})

    return request.model_copy(
        update={
            "paraphrases": few(request.paraphrases),
            "portability": groups(FrozenDict(request.portability), ("reasoning",)),
            "locality": groups(FrozenDict(request.locality), ("relation",)),
        }
    )


def asked(
    lm: LM,
    pool: Pool,
    size: int,
    edit: Callable[[Sequence[EditRequest]], WeightDelta],
    *,
    before: Baseline,
    name: str,
) -> pd.DataFrame:
    """The table of `evaluate` for the tracked edits, each asked of the model that its batch was written into."""
    frames = []
    for batch in pool.batches(size):
        ours = [request for request in batch if request in pool.tracked]
        frames.append(evaluate(lm, ours, edit(batch), before=before, name=name))
    return pd.concat(frames, ignore_index=True)


def chosen(pool: Pool, values: Tensor, batch: Sequence[EditRequest]) -> Tensor:
    """The rows of ``values``, one for each edit of the pool, that belong to a batch."""
    place = {request.id: row for row, request in enumerate(pool.all)}
    return values[[place[request.id] for request in batch]]


def written(lm: LM, requests: Sequence[EditRequest], edit: WeightDelta) -> np.ndarray:
    """Whether each edit's own prompt is answered with its target, every token of it, after an edit."""
    with edit.applied(lm) as edited:
        scores = edited.score([each.prompt for each in requests], [each.target_new for each in requests], batch_size=64)
    return scores.exact.double().cpu().numpy()


def spans(cards: pd.DataFrame, names: Mapping[str, str]) -> dict[str, float]:
    """Rows of a scorecard with their batch ``size`` as measured quantities: name_size, and its interval's two ends.

    names: the scorecard's metric to the name that it gets; other metrics are left out.
    """
    found: dict[str, float] = {}
    for metric, size, mean, low, high in cards[["metric", "size", "mean", "low", "high"]].itertuples(index=False):
        if metric in names:
            place = f"{names[metric]}_{size}"
            found |= {place: float(mean), f"{place}_low": float(low), f"{place}_high": float(high)}
    return found


CLAMPS, BALANCES = (0.75, 1.5, 4.0), (0.3, 0.9, 3.0)
FREE = ((0.003, 0.01), (0.01, 0.01), (0.03, 0.01), (0.01, 0.001))  # AlphaEdit's energy and ridge


def constants(lm: LM, *, n: int, layers: tuple[int, ...], seed: int = 0) -> pd.DataFrame:
    """What the constants of MEMIT, EMMET and AlphaEdit do to one batch of ``n`` edits of the training side.

    One row for each setting: written, the share of the edits that are answered as wanted; kept, that of other known
    facts of the training side; both of the bundled world of ``lm``. Raises BadInput where there are fewer subjects.
    """
    requests = _one_each(edits_for(lm, seed=seed, relations="people", part="train"), n)
    if len(requests) < n:
        raise BadInput(f"{lm.name}: {len(requests)} people are on the training side, and {n} are wanted.")
    edited = {request.subject for request in requests}
    others = [f for f in facts_for(lm) if f.subject not in edited and part_of(f.subject) == "train"]
    kept = [
        EditRequest(id=f.id, subject=f.subject, template=f.template, target_new=f.object)
        for f in known_facts(lm, others, min(n, len(others)), seed)
    ]
    rows = {
        place: {"written": written(lm, requests, edit).mean(), "kept": written(lm, kept, edit).mean()}
        for place, edit in _with_constants(lm, requests, layers)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["editor", "clamp", "setting"])


def _with_constants(
    lm: LM, requests: Sequence[EditRequest], layers: tuple[int, ...]
) -> Iterator[tuple[tuple[str, float, str], WeightDelta]]:
    texts = text_for(lm, n=1000)
    moments = {layer: cached_second_moment(lm, layer, texts) for layer in layers}
    for clamp in CLAMPS:
        z = target_states(lm, requests, MemitSettings(layers=layers, clamp=clamp)).after[0]
        for balance in BALANCES:
            settings = MemitSettings(layers=layers, clamp=clamp, balance=balance)
            yield ("MEMIT", clamp, f"balance {balance:g}"), memit(lm, requests, settings, moments, z=z)
        yield ("EMMET", clamp, "equality"), emmet(lm, requests, EmmetSettings(layers=layers), moments, z=z)
        for energy, ridge in FREE if clamp == AlphaEditSettings(layers=layers).clamp else ():
            free = AlphaEditSettings(layers=layers, energy=energy, ridge=ridge)
            yield (
                ("AlphaEdit", clamp, f"energy {energy:g}, ridge {ridge:g}"),
                alphaedit(lm, requests, free, moments, z=z),
            )


def moved_outputs(W: Tensor, change: Tensor, C: Tensor) -> float:
    """Root mean square of how far the outputs for the keys counted in C move, in units of these outputs' own; both
    matrices (d_out, d_in)."""
    change, W = change.double(), W.double()
    return float(torch.sqrt(torch.trace(change @ C @ change.T) / torch.trace(W @ C @ W.T)))
