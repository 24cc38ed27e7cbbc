r"""Target states: what a layer would have to say at a subject's last token, so that the model says the new object.

Locate-then-edit methods share this step. ROME asks it of one MLP (meng2022rome, Eq. 4), MEMIT of the whole block,
hence of the residual stream (meng2022memit), PMET of attention and MLP at once (li2023pmet).

1. ``Lookups``          every prompt in every context, encoded once; states at the subject's last token
2. ``optimise_states``  gradient descent on changes of these states, for all edits side by side

A change enters the stream at one layer and one token a row, so everything below is constant and is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.editing.sharing import each_once
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.hooks import Blocks
from paramem.interventions import WeightDelta
from paramem.interventions.abreast import abreast
from paramem.models import LM
from paramem.tokens import Batch

Place: TypeAlias = Literal["attn_out", "mlp_out", "resid_post"]

ROWS = 256  # prompts read in one forward, where the model is narrow enough
ROWS_APART = 16  # from so many on, rows of another length are worth a forward of their own


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """contexts: templates around the prompt, the bare one first. essence: prompt in which what follows the subject is
    held. clamp: largest change of a state in units of its norm. stop_below: loss at which the optimisation ends.
    ease: factor on the new object's loss while it is the most probable answer in every context; such an edit ends when
    its divergence falls to stop_kl."""

    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    stop_below: float = 0.05
    contexts: tuple[str, ...] = ("{}",)
    essence: str = "{} is a"
    ease: float = 1.0
    stop_kl: float = 0.0

    def __post_init__(self) -> None:
        if not self.contexts or self.contexts[0] != "{}" or any(c.count("{}") != 1 for c in self.contexts):
            raise BadParameter(f"contexts={self.contexts!r}: templates with one '{{}}' each, the bare '{{}}' first.")
        if self.steps < 1:
            raise BadParameter(f"steps={self.steps}: at least one.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookups:
    """The edits' prompts in every context, and where each one's subject ends."""

    n_contexts: int
    chunks: tuple[tuple[Batch, Tensor], ...]  # rows, and the column of the subject's last token in each

    @classmethod
    def of(cls, lm: LM, requests: Sequence[EditRequest], contexts: Sequence[str] = ("{}",)) -> Lookups:
        """Raises SubjectNotInPrompt, PromptTooLong."""
        prompts = in_contexts(requests, contexts)
        columns = subject_last(lm, prompts, [each.subject for each in requests for _ in contexts])
        batch = lm.encode(prompts)
        size = lm.fitting_rows(ROWS, batch.input_ids.shape[1])
        parts = torch.split(torch.arange(len(prompts), device=lm.device), size)
        return cls(n_contexts=len(contexts), chunks=tuple((batch.rows(part), columns[part]) for part in parts))

    @torch.no_grad()
    def states(self, lm: LM, *sites: Site, edits: Sequence[WeightDelta] | None = None) -> list[Tensor]:
        """The states at these sites, each (edits, contexts, width), in one forward of every prompt.

        edits: for each request the change of weights that its own prompts are read under.
        """
        found: list[list[Tensor]] = [[] for _ in sites]
        read = 0
        for batch, columns in self.chunks:
            owners = [row // self.n_contexts for row in range(read, read + len(batch))]
            with nullcontext(lm) if edits is None else abreast(lm, edits, owners) as edited:
                states = edited.states(batch, sites)
            read += len(batch)
            for site, some in zip(sites, found, strict=True):
                some.append(states[site][torch.arange(len(batch), device=columns.device), columns])
        joined = [torch.cat(some) for some in found]
        return [states.view(-1, self.n_contexts, states.shape[-1]) for states in joined]


class States(NamedTuple):
    """before: the states in the bare prompts; after: where they should be; one tensor (edits, d_model) for each place.
    losses: for each edit (steps, 4), the total, (4a), (4b) and the decay."""

    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    losses: list[Tensor]


class _Found(NamedTuple):
    """The `States` of one edit, (d_model,) for each place."""

    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    losses: Tensor


def optimise_states(
    lm: LM,
    requests: Sequence[EditRequest],
    layer: int,
    places: Sequence[Place],
    settings: TargetSettings,
    *,
    batch_size: int = 64,
) -> States:
    """argmin of Eq. (4), meng2022rome, over changes at these places of one layer: the new object's negative
    log-likelihood in every context (4a), the divergence, after the subject in the essence prompt, from the model as it
    is (4b), and a decay on each change.

    The edits are optimised side by side, ``batch_size`` at a time, and know nothing of each other: their losses are
    summed, Adam works on each component by itself, and an edit that is done stands still. Raises SubjectNotInPrompt,
    EmptyTarget, PromptTooLong. Inside of `sharing` the states of an edit are looked for once.
    """

    def find(numbers: list[int]) -> Iterator[_Found]:
        for start in range(0, len(numbers), batch_size):
            some = [requests[i] for i in numbers[start : start + batch_size]]
            yield from _optimised(lm, _Problem.of(lm, some, layer, places, settings), settings)

    def about() -> tuple[object, ...]:
        return lm.fingerprint(), layer, *places, *(getattr(settings, each.name) for each in fields(TargetSettings))

    edits = [(each.prompt, each.subject, each.target_new) for each in requests]  # all that is looked at
    found = each_once(about, edits, lambda numbers: list(find(numbers)), lm.device)
    return States(
        before=tuple(torch.stack(some) for some in zip(*(each.before for each in found), strict=True)),
        after=tuple(torch.stack(some) for some in zip(*(each.after for each in found), strict=True)),
        losses=[each.losses for each in found],
    )


def of_like_length(lengths: Sequence[int], most: int, least: int = 8) -> Iterator[list[int]]:
    """Numbers of the rows, at most so many together; ``least`` or more part where rows become half as long again."""
    held: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        longer = held and lengths[i] > 1.5 * lengths[held[0]]
        if len(held) == most or (longer and len(held) >= least):
            yield held
            held = []
        held.append(i)
    yield held


def alike(lm: LM, requests: Sequence[EditRequest], most: int) -> Iterator[list[int]]:
    """Numbers of the requests that are run together, at most so many: `of_like_length`, of prompts with targets."""
    lengths = lm.encode([r.prompt for r in requests], [r.target_new for r in requests]).lengths
    yield from of_like_length(lengths.tolist(), most)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Rows of like length, run together: how, where the changes of which edits enter, and where they are read."""

    blocks: Blocks
    at: tuple[Tensor, Tensor]  # where the changes enter, (rows,) each
    owner: Tensor  # the edit that each row belongs to
    read: tuple[Tensor, Tensor]  # (row, column) of every place that a loss looks at

    def forward(self, layer: int, places: Sequence[Place], deltas: Sequence[Tensor]) -> Tensor:
        """The last block's output with the changes (edits, d_model) in place, where it is read, (places, d_model)."""
        if tuple(places) in (("mlp_out",), ("resid_post",)):  # both are added to the stream right after the layer
            hidden = self.blocks.forward(self._added(self.blocks.resid_pre[layer + 1], deltas[0]), layer + 1)
        else:
            patch = {Site(place, layer): self._adding(delta) for place, delta in zip(places, deltas, strict=True)}
            hidden = self.blocks.forward(self.blocks.resid_pre[layer], layer, patch=patch)
        return hidden[self.read]

    def _added(self, state: Tensor, delta: Tensor) -> Tensor:
        return state.index_put(self.at, delta[self.owner], accumulate=True)

    def _adding(self, delta: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda state: self._added(state, delta)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """Some edits, the rows that their losses look at, and what is constant in them.

    Rows are every prompt in its contexts and then the essences; places are every target token and then the essences'.
    """

    rows: tuple[_Rows, ...]
    back: Tensor  # the order of the places, from that in which the rows are run
    layer: int
    places: tuple[Place, ...]
    before: tuple[Tensor, ...]
    n: int
    owner: Tensor  # the edit of each target token
    targets: Tensor  # the token there
    share: Tensor  # its weight in its edit's loss

    @classmethod
    def of(
        cls,
        lm: LM,
        requests: Sequence[EditRequest],
        layer: int,
        places: Sequence[Place],
        settings: TargetSettings,
    ) -> _Problem:
        n, n_contexts = len(requests), len(settings.contexts)
        prompts = in_contexts(requests, settings.contexts)
        essences = [settings.essence.replace("{}", request.subject) for request in requests]
        rewrite = lm.encode(prompts, [request.target_new for request in requests for _ in settings.contexts])
        subjects = [request.subject for request in requests for _ in settings.contexts]
        lookup = subject_last(lm, prompts + essences, subjects + [request.subject for request in requests])
        edits = torch.arange(n, device=lm.device)
        at, columns = rewrite.target_mask.nonzero(as_tuple=True)
        ends = torch.arange(len(prompts), len(lookup), device=lm.device)  # the essences' rows
        read = torch.cat([at, ends]), torch.cat([columns - 1, lookup[ends]])
        owner = torch.cat([edits.repeat_interleave(n_contexts), edits])
        rows, numbers, before = _rows(
            lm, Batch.join([rewrite, lm.encode(essences)]), lookup, owner, read, [Site(p, layer) for p in places]
        )
        bare = slice(0, n * n_contexts, n_contexts)
        return cls(
            rows=rows,
            back=numbers.argsort(),
            layer=layer,
            places=tuple(places),
            before=tuple(states[bare] for states in before),
            n=n,
            owner=owner[at],
            targets=rewrite.input_ids[at, columns],
            share=1.0 / rewrite.target_mask.sum(1)[at] / n_contexts,
        )

    def forward(self, deltas: Sequence[Tensor]) -> Tensor:
        """The last block's output with the changes (edits, d_model) in place, (places, d_model)."""
        return torch.cat([rows.forward(self.layer, self.places, deltas) for rows in self.rows])[self.back]


@torch.no_grad()
def _rows(
    lm: LM, batch: Batch, lookup: Tensor, owner: Tensor, read: tuple[Tensor, Tensor], sites: Sequence[Site]
) -> tuple[tuple[_Rows, ...], Tensor, list[Tensor]]:
    """The rows of a batch in groups of like length, each cut behind the last token that is read; the numbers of the
    places of all groups; and the states of each site at ``lookup``, (rows, width)."""
    needed = torch.zeros_like(lookup).scatter_reduce(0, read[0], read[1] + 1, "amax")
    before = [lookup.new_empty(len(lookup), lm.arch.width(site), dtype=lm.dtype) for site in sites]
    found, numbers = [], []
    for some in of_like_length(needed.tolist(), len(needed), least=ROWS_APART):
        mine = torch.tensor(some, device=lm.device)
        place = torch.full_like(lookup, -1).index_put((mine,), torch.arange(len(mine), device=lm.device))
        numbers.append((place[read[0]] >= 0).nonzero()[:, 0])
        here = place[read[0][numbers[-1]]], read[1][numbers[-1]]
        with lm.hooked(capture=sites) as states:
            blocks = lm.blocks(batch.rows(mine), read=here)
        at = place[mine], lookup[mine]
        for states_of, site in zip(before, sites, strict=True):
            states_of[mine] = states[site][at]
        found.append(_Rows(blocks=blocks, at=at, owner=owner[mine], read=here))
    return tuple(found), torch.cat(numbers), before


class _Step(NamedTuple):
    """One look at the losses; all (edits,)."""

    nll: Tensor
    kl: Tensor
    decay: Tensor
    first: Tensor | None  # whether every target token is the most probable one


def _losses(
    lm: LM, problem: _Problem, deltas: Sequence[Tensor], unchanged: Tensor | None, settings: TargetSettings
) -> tuple[_Step, Tensor]:
    """The terms of Eq. (4), and the essence's distribution as it was at the start."""
    everything = lm.unembed(problem.forward(deltas)).log_softmax(-1)
    logprobs, essence = everything[: -problem.n], everything[-problem.n :]
    said = logprobs.gather(1, problem.targets[:, None])[:, 0]
    none = torch.zeros_like(problem.before[0][:, 0])
    nll = none.index_add(0, problem.owner, -said * problem.share)  # Eq. (4a)
    unchanged = essence.detach() if unchanged is None else unchanged
    kl = settings.kl * (essence.exp() * (essence - unchanged)).sum(-1)  # Eq. (4b)
    decays = [delta.norm(dim=1) / state.norm(dim=1) ** 2 for delta, state in zip(deltas, problem.before, strict=True)]
    first = None
    if settings.ease != 1.0 or settings.stop_kl:
        missed = (logprobs.detach().argmax(-1) != problem.targets).to(none)
        first = none.index_add(0, problem.owner, missed) == 0
    return _Step(nll, kl, settings.weight_decay * torch.stack(decays).sum(0), first), unchanged


def _optimised(lm: LM, problem: _Problem, settings: TargetSettings) -> Iterator[_Found]:
    deltas = [torch.zeros_like(state, requires_grad=True) for state in problem.before]
    radii = [settings.clamp * state.norm(dim=1, keepdim=True) for state in problem.before]
    optimiser = torch.optim.Adam(deltas, lr=settings.lr)
    done = torch.zeros(problem.n, dtype=torch.bool, device=lm.device)
    factor = torch.ones_like(problem.before[0][:, 0])
    unchanged, history = None, []
    for step in range(settings.steps):
        found, unchanged = _losses(lm, problem, deltas, unchanged, settings)
        nll = factor * found.nll
        loss = nll + found.kl + found.decay
        seen = torch.stack([loss, nll, found.kl, found.decay], 1).detach()
        history.append(seen.where(~done[:, None], torch.nan))
        done |= loss.detach() < settings.stop_below
        if found.first is not None:
            factor = torch.where(found.first, settings.ease, 1.0).to(factor)
            done |= found.first & (found.kl.detach() <= settings.stop_kl)
        if done.all() or step == settings.steps - 1:
            break
        for delta, gradient in zip(deltas, torch.autograd.grad(loss.sum(), deltas), strict=True):
            delta.grad = gradient
        _step_within(optimiser, deltas, radii, done)
    losses = torch.stack(history, 1)  # (edits, steps, 4), nan once an edit stands still
    after = tuple(state + delta.detach() for state, delta in zip(problem.before, deltas, strict=True))
    for edit in range(problem.n):
        own = losses[edit]
        yield _Found(
            before=tuple(each[edit] for each in problem.before),
            after=tuple(each[edit] for each in after),
            losses=own[~own[:, 0].isnan()],
        )


def _step_within(
    optimiser: torch.optim.Optimizer, deltas: Sequence[Tensor], radii: Sequence[Tensor], done: Tensor
) -> None:
    """One step, back into the balls; edits that are done stay where they are."""
    still = [delta.detach().clone() for delta in deltas]
    optimiser.step()
    with torch.no_grad():
        for delta, radius, old in zip(deltas, radii, still, strict=True):
            delta *= (radius / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
            delta[done] = old[done]


def in_contexts(requests: Sequence[EditRequest], contexts: Sequence[str]) -> list[str]:
    """Every request's prompt in every context, request by request."""
    return [context.replace("{}", request.prompt) for request in requests for context in contexts]


def subject_last(lm: LM, prompts: Sequence[str], subjects: Sequence[str]) -> Tensor:
    """The column of each subject's last token, (prompts,)."""
    spans: Iterator[range] = (lm.subject_span(p, s) for p, s in zip(prompts, subjects, strict=True))
    return torch.tensor([span.stop - 1 for span in spans], device=lm.device)
