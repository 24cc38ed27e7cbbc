"""What learned updates are, beside the gradients that they come from, and what becomes of many of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from paramem.editing.outer_products import (
    Place,
    Terms,
    Update,
    edit_batch,
    gradient_terms,
    of_edit,
    terms_added,
    together,
    weight_delta,
)
from paramem.errors import BadInput
from paramem.evaluation.intervals import Span, span
from paramem.facts import EditRequest
from paramem.interventions import Intervention, WeightDelta
from paramem.models import LM


def inner_products(one: Terms, other: Terms) -> Tensor:
    """<A_e, B_f> of every update of ``one`` with every update of ``other``, (edits, edits), without building them."""
    left = torch.einsum("ejd,fkd->efjk", one.left, other.left)
    right = torch.einsum("ejd,fkd->efjk", one.right, other.right)
    return torch.einsum("efjk,efjk->ef", left, right)


def norms(updates: Update) -> dict[Place, Tensor]:
    """Frobenius norm of every edit's update of each matrix, (edits,)."""
    found = {}
    for place, terms in updates.items():
        gram = (terms.left @ terms.left.mT) * (terms.right @ terms.right.mT)  # (edits, terms, terms)
        found[place] = gram.sum((1, 2)).clamp(min=0).sqrt()
    return found


def gradient_steps(lm: LM, requests: Sequence[EditRequest], like: Update) -> dict[Place, Terms]:
    """Steps against the plain gradient of each edit, in every matrix of the norm that ``like`` has there."""
    gradient = gradient_terms(lm, edit_batch(lm, requests), tuple(like))
    wanted, there, steps = norms(like), norms(gradient), {}
    for place, terms in gradient.items():
        factor = wanted[place] / there[place].clamp(min=torch.finfo(terms.left.dtype).tiny)
        steps[place] = Terms(-factor[:, None, None] * terms.left, terms.right)
    return steps


def random_steps(like: Update, seed: int = 0) -> dict[Place, Terms]:
    """Random updates of rank one, in every matrix of the norm that ``like`` has there."""
    steps = {}
    for number, (place, size) in enumerate(norms(like).items()):
        generator = torch.Generator().manual_seed(1000 * seed + number)

        def direction(side: Tensor, generator: torch.Generator = generator) -> Tensor:
            drawn = torch.randn(len(side), 1, side.shape[-1], generator=generator).to(side)
            return torch.nn.functional.normalize(drawn, dim=-1)

        steps[place] = Terms(size[:, None, None] * direction(like[place].left), direction(like[place].right))
    return steps


def each(lm: LM, updates: Update) -> list[WeightDelta]:
    """The update of every edit as an intervention of its own."""
    return [weight_delta(lm, of_edit(updates, edit)) for edit in range(len(next(iter(updates.values())).left))]


def likeness(updates: Update) -> NDArray[np.float64]:
    """How much an edit's update is like those of other edits: mean cosine over these, all matrices in one, (edits,)."""
    total = sum(inner_products(terms, terms) for terms in updates.values())
    if not isinstance(total, Tensor) or len(total) < 2:
        raise BadInput("likeness compares updates of several edits: pass two or more")
    size = total.diagonal().clamp(min=0).sqrt()
    cosines = total / (size[:, None] * size[None]).clamp(min=torch.finfo(total.dtype).tiny)
    found: NDArray[np.float64] = ((cosines.sum(1) - cosines.diagonal()) / (len(total) - 1)).double().cpu().numpy()
    return found


def agreement(one: Update, other: Update) -> pd.DataFrame:
    """place, edit, cosine: how much two updates of the same edit point the same way, matrix by matrix."""
    sizes, others, rows = norms(one), norms(other), []
    for place in one:
        products = inner_products(one[place], other[place]).diagonal()
        cosines = products / (sizes[place] * others[place]).clamp(min=torch.finfo(products.dtype).tiny)
        rows += [{"place": str(place), "edit": edit, "cosine": float(value)} for edit, value in enumerate(cosines)]
    return pd.DataFrame(rows)


def shares(updates: Update) -> pd.DataFrame:
    """What share of an edit's squared norm lies in each matrix: (edits, places)."""
    squares = pd.DataFrame({str(place): size.double().cpu() ** 2 for place, size in norms(updates).items()})
    return squares.div(squares.sum(axis=1), axis=0)


@torch.no_grad()
def asked_together(
    lm: LM, requests: Sequence[EditRequest], updates: Update, size: int, kept: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Edits made ``size`` at a time, their updates summed, each group on the unedited model, all in one forward.

    kept: prompts with their answers that no edit speaks of, as many for each group as go into equal shares.
    One row for each edit: request, edit, wording (its first other wording, nan where there is none), kept (share of its
    group's), each whether every token is the most probable one. Raises BadInput where groups do not come out even.
    """
    groups = len(requests) // size
    if len(requests) % size or len(kept) < groups:
        raise BadInput(f"{len(requests)} edits and {len(kept)} kept facts do not make equal groups of {size} edits")
    share, pairs = len(kept) // groups, list[tuple[str, str]]()
    for group in range(groups):
        own = requests[group * size : (group + 1) * size]
        pairs += [(one.prompt, one.target_new) for one in own]
        pairs += [(one.paraphrases[0].prompt if one.paraphrases else one.prompt, one.target_new) for one in own]
        pairs += kept[group * share : (group + 1) * share]
    with terms_added(lm, together(updates, size), groups):
        exact = lm.score([prompt for prompt, _ in pairs], [target for _, target in pairs]).exact
    table = exact.double().cpu().numpy().reshape(groups, 2 * size + share)
    rows = []
    for number, one in enumerate(requests):
        group, place = divmod(number, size)
        wording = table[group, size + place] if one.paraphrases else np.nan
        rows.append({"request": one.id, "edit": table[group, place], "wording": wording})
    return pd.DataFrame(rows).assign(kept=np.repeat(table[:, 2 * size :].mean(1), size))


@torch.no_grad()
def asked_each(
    lm: LM, requests: Sequence[EditRequest], edits: Sequence[Intervention], kept: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """The same table as `asked_together`, for interventions of any kind, each put on the unedited model by itself."""
    rows, share = [], len(kept) // len(requests)
    for number, (one, edit) in enumerate(zip(requests, edits, strict=True)):
        wording = one.paraphrases[0].prompt if one.paraphrases else one.prompt
        pairs = [(one.prompt, one.target_new), (wording, one.target_new), *kept[number * share : (number + 1) * share]]
        with edit.applied(lm) as edited:
            exact = edited.score([prompt for prompt, _ in pairs], [target for _, target in pairs]).exact.double().cpu()
        other = float(exact[1]) if one.paraphrases else np.nan
        rows.append({"request": one.id, "edit": float(exact[0]), "wording": other, "kept": float(exact[2:].mean())})
    return pd.DataFrame(rows)


def by_request(one: Mapping[str, float] | pd.Series, other: Mapping[str, float] | pd.Series) -> Span:
    """``one`` minus ``other`` over the requests of both."""
    return span((pd.Series(one) - pd.Series(other)).to_numpy())
