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
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.hooks import Blocks
from paramem.interventions import WeightDelta
from paramem.interventions.abreast import abreast
from paramem.models import LM
from paramem.tokens import Batch

Place: TypeAlias = Literal["attn_out", "mlp_out", "resid_post"]

ROWS = 256  # prompts read in one forward, where the model is narrow enough


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
    EmptyTarget, PromptTooLong.
    """
    places_of = list(of_like_length(requests, batch_size))
    parts = [
        _optimised(lm, _Problem.of(lm, [requests[i] for i in some], layer, places, settings), settings)
        for some in places_of
    ]
    order = [i for some in places_of for i in some]
    back = sorted(range(len(order)), key=order.__getitem__)
    losses = [each for part in parts for each in part.losses]
    return States(
        before=tuple(torch.cat(some)[back] for some in zip(*(part.before for part in parts), strict=True)),
        after=tuple(torch.cat(some)[back] for some in zip(*(part.after for part in parts), strict=True)),
        losses=[losses[i] for i in back],
    )


def of_like_length(requests: Sequence[EditRequest], most: int) -> Iterator[list[int]]:
    """Numbers of the requests, at most so many together; eight or more part where prompts become half as long again."""
    held: list[int] = []
    for i in sorted(range(len(requests)), key=lambda i: len(requests[i].prompt)):
        longer = held and len(requests[i].prompt) > 1.5 * len(requests[held[0]].prompt)
        if len(held) == most or (longer and len(held) >= 8):
            yield held
            held = []
        held.append(i)
    yield held


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """The rows of some edits, every prompt in its contexts and then the essences, and what is constant in them."""

    blocks: Blocks
    layer: int
    places: tuple[Place, ...]
    before: tuple[Tensor, ...]
    n: int
    at: tuple[Tensor, Tensor]  # where the changes enter, (rows,) each
    owner: Tensor  # the edit that each row belongs to
    asked: tuple[Tensor, Tensor]  # (row, column) of every target token
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
        rows, edits = torch.arange(len(lookup), device=lm.device), torch.arange(n, device=lm.device)
        sites = [Site(place, layer) for place in places]
        with torch.no_grad(), lm.hooked(capture=sites) as states:
            blocks = lm.blocks(Batch.join([rewrite, lm.encode(essences)]))
        bare = slice(0, n * n_contexts, n_contexts)
        at, columns = rewrite.target_mask.nonzero(as_tuple=True)
        return cls(
            blocks=blocks,
            layer=layer,
            places=tuple(places),
            before=tuple(states[site][rows, lookup][bare].clone() for site in sites),
            n=n,
            at=(rows, lookup),
            owner=torch.cat([edits.repeat_interleave(n_contexts), edits]),
            asked=(at, columns),
            targets=rewrite.input_ids[at, columns],
            share=1.0 / rewrite.target_mask.sum(1)[at] / n_contexts,
        )

    def forward(self, deltas: Sequence[Tensor]) -> Tensor:
        """The last block's output with the changes (edits, d_model) in place, (rows, tokens, d_model)."""
        if self.places in (("mlp_out",), ("resid_post",)):  # both are added to the stream right after the layer
            return self.blocks.forward(self._added(self.blocks.resid_pre[self.layer + 1], deltas[0]), self.layer + 1)
        patch = {Site(place, self.layer): self._adding(delta) for place, delta in zip(self.places, deltas, strict=True)}
        return self.blocks.forward(self.blocks.resid_pre[self.layer], self.layer, patch=patch)

    def _added(self, state: Tensor, delta: Tensor) -> Tensor:
        return state.index_put(self.at, delta[self.owner], accumulate=True)

    def _adding(self, delta: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda state: self._added(state, delta)


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
    hidden = problem.forward(deltas)
    at, columns = problem.asked
    logprobs = lm.unembed(hidden[at, columns - 1]).log_softmax(-1)
    said = logprobs.gather(1, problem.targets[:, None])[:, 0]
    none = torch.zeros_like(problem.before[0][:, 0])
    nll = none.index_add(0, problem.owner[at], -said * problem.share)  # Eq. (4a)
    rows, lookup = (index[-problem.n :] for index in problem.at)
    essence = lm.unembed(hidden[rows, lookup]).log_softmax(-1)
    unchanged = essence.detach() if unchanged is None else unchanged
    kl = settings.kl * (essence.exp() * (essence - unchanged)).sum(-1)  # Eq. (4b)
    decays = [delta.norm(dim=1) / state.norm(dim=1) ** 2 for delta, state in zip(deltas, problem.before, strict=True)]
    first = None
    if settings.ease != 1.0 or settings.stop_kl:
        missed = (logprobs.detach().argmax(-1) != problem.targets).to(none)
        first = none.index_add(0, problem.owner[at], missed) == 0
    return _Step(nll, kl, settings.weight_decay * torch.stack(decays).sum(0), first), unchanged


def _optimised(lm: LM, problem: _Problem, settings: TargetSettings) -> States:
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
    return States(problem.before, after, [each[~each[:, 0].isnan()] for each in losses])


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
