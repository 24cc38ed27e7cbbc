"""Training editors that learn to edit: many different edits go through one forward, each with an update of its own.

Every step draws edits from the training facts, each with an object of its relation that is not its own; asks an editor
for their updates; and scores, under them, the edits in other wordings and unrelated facts:

- ``L_e``    - log P of the new object, in the edit's own wording and in others
- ``L_loc``  divergence of the edited model's predictions from the unedited one's, along the answers of unrelated facts

MEND weighs the two (mitchell2021mend, Eq. 4); KnowledgeEditor holds the second below a bound that it tightens
(decao2021editing).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paramem.editing.outer_products import (
    Place,
    Update,
    edited_forward,
    gradient_from,
    lowest,
    target_losses,
    together,
)
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.lm import LM, log_probs
from paramem.tokens import Batch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and on what an editor is trained.

    edits      different edits in a step
    wordings   other wordings of each that are scored beside its own
    unrelated  facts of other subjects that are held, for each edit (for each group of edits made at once)
    near       share of these that are of an edited relation, where there are such
    held       so many wordings of facts are there to draw the unrelated ones from
    at_once    so many edits are made together: their updates are summed, and each is asked for under the sum
    lr         of Adam, with a short warm-up, falling linearly to a twentieth from half of the steps on
    clip       norm to which gradients are cut
    """

    steps: int = 150
    edits: int = 16
    wordings: int = 1
    unrelated: int = 4
    near: float = 0.5
    held: int = 1024
    at_once: int = 1
    lr: float = 1e-3
    warmup: int = 20
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.edits, self.unrelated, self.at_once) < 1 or self.wordings < 0:
            raise BadParameter(f"{self}: steps, edits, unrelated and at_once are at least 1, wordings at least 0.")
        if not 0 <= self.near <= 1:
            raise BadParameter(f"near={self.near}: a share, between 0 and 1.")
        if self.edits % self.at_once:
            raise BadParameter(f"edits={self.edits} is no multiple of at_once={self.at_once}.")

    def rate(self, step: int) -> float:
        """The share of ``lr`` at a step."""
        left = (self.steps - step) / self.steps
        return min(1.0, (step + 1) / self.warmup) * min(1.0, max(0.05, 2 * left))


History = list[tuple[float, float, float]]  # of every step: L_e, L_loc, success


class Losses(NamedTuple):
    """Means over a step: L_e, L_loc, and the share of edits whose every token is now the most probable one."""

    edit: Tensor
    unrelated: Tensor
    success: float


Editor = Callable[[Sequence[EditRequest], Update], Update]  # edits and their gradients, to updates


class Examples:
    """Training edits with the objects that may take each other's place."""

    def __init__(self, requests: Sequence[EditRequest], seed: int) -> None:
        """Raises BadInput where there is nothing to learn from."""
        self.requests = [each for each in requests if each.target_true is not None]
        if len({each.subject for each in self.requests}) < 2:
            raise BadInput(
                f"{len(self.requests)} training edits with a known object, of fewer than two subjects: an editor is "
                "trained on edits of some facts while others must stay. Give edits of many subjects."
            )
        self.rng = random.Random(seed)
        objects: defaultdict[str | None, set[str]] = defaultdict(set)
        for each in self.requests:
            objects[each.relation] |= {each.target_new, str(each.target_true)}
        self.objects: Mapping[str | None, list[str]] = {name: sorted(found) for name, found in objects.items()}

    def draw(self, n: int) -> list[EditRequest]:
        """``n`` edits of different facts, each with a random object of its relation that is not the true one."""
        chosen = self.rng.sample(self.requests, min(n, len(self.requests)))
        while len(chosen) < n:
            chosen.append(self.rng.choice(self.requests))
        return [each.model_copy(update={"target_new": self._other(each)}) for each in chosen]

    def _other(self, request: EditRequest) -> str:
        choices = [thing for thing in self.objects[request.relation] if thing != request.target_true]
        return self.rng.choice(choices) if choices and request.relation is not None else request.target_new

    def wordings(self, request: EditRequest, n: int) -> list[str]:
        """The edit's own wording and ``n`` others, drawn with replacement; its own again where there is no other."""
        others = [probe.prompt for probe in request.paraphrases] or [request.prompt]
        return [request.prompt, *self.rng.choices(others, k=n)]


class Ground:
    """What all steps of a training share: blocks recorded once, and unrelated facts run once up to the lowest edit.

    All rows are padded to one width, so that the recorded calls fit each of them.
    """

    def __init__(self, lm: LM, examples: Examples, places: Sequence[Place], schedule: Schedule) -> None:
        self.lm, self.places, self.first = lm, tuple(places), lowest(places)
        asked = [(prompt, each) for each in examples.requests for prompt in _forms(each)]
        asked = examples.rng.sample(asked, min(schedule.held, len(asked)))
        self.facts = [each for _, each in asked]
        batch = lm.encode([prompt for prompt, _ in asked], [str(each.target_true) for _, each in asked])
        self.width = _longest(lm, examples)
        one = torch.zeros(1, self.width, dtype=torch.long, device=lm.device)
        length = torch.tensor([self.width], device=lm.device)
        with torch.no_grad():
            self.blocks = lm.blocks(Batch(input_ids=one, prompt_lengths=length, lengths=length))
            self.held = self.padded(batch)
            chunks = torch.split(torch.arange(len(batch), device=lm.device), 256)
            self.below = torch.cat([self.lower(self.held.rows(rows)) for rows in chunks])
            self.final = torch.cat([self.blocks.forward(self.below[rows], self.first) for rows in chunks])

    def padded(self, batch: Batch) -> Batch:
        """The batch in the common width."""
        ids = batch.input_ids
        return replace(batch, input_ids=torch.nn.functional.pad(ids, (0, self.width - ids.shape[1])))

    def unrelated(self, group: Sequence[EditRequest], schedule: Schedule, rng: random.Random) -> list[int]:
        """Rows of `held` about other subjects than the group's, some of them of its relations."""
        subjects, relations = {each.subject for each in group}, {each.relation for each in group}
        others = [row for row, fact in enumerate(self.facts) if fact.subject not in subjects]
        if not others:
            raise BadInput(
                f"edits of {len(subjects)} subjects at once leave no other subject among the training edits."
            )
        near = [row for row in others if self.facts[row].relation in relations] or others
        n_near = round(schedule.near * schedule.unrelated)
        return [*rng.choices(near, k=n_near), *rng.choices(others, k=schedule.unrelated - n_near)]

    @torch.no_grad()
    def lower(self, batch: Batch) -> Tensor:
        """The input of the lowest edited block, (rows, width, d_model)."""
        return self.blocks.forward(self.lm.embed(self.padded(batch).input_ids), 0, self.first)


def _forms(request: EditRequest) -> list[str]:
    return list(dict.fromkeys([request.prompt, *(probe.prompt for probe in request.paraphrases)]))


def _longest(lm: LM, examples: Examples) -> int:
    """Tokens of the longest row that may be drawn: each wording with its relation's longest object."""
    prompts, targets = [], []
    for each in examples.requests:
        longest = max(
            (*examples.objects[each.relation], each.target_new), key=lambda text: len(lm.tokenizer(text).input_ids)
        )
        prompts += _forms(each)
        targets += [longest] * len(_forms(each))
    return int(lm.encode(prompts, targets).lengths.max())


class Rows(NamedTuple):
    """One step: the wordings of its edits, group by group, and the unrelated facts of each group."""

    edits: Batch  # each edit in its own wording
    edits_below: Tensor
    asked: Batch
    asked_below: Tensor
    held: Tensor  # (groups x unrelated,) rows of `Ground.held`
    groups: int


def rows_of(ground: Ground, examples: Examples, requests: Sequence[EditRequest], schedule: Schedule) -> Rows:
    """What one step scores."""
    texts = [examples.wordings(each, schedule.wordings) for each in requests]
    targets = [each.target_new for each in requests for _ in range(1 + schedule.wordings)]
    asked = ground.padded(ground.lm.encode([text for some in texts for text in some], targets))
    below = ground.lower(asked)
    held = []
    for start in range(0, len(requests), schedule.at_once):
        held += ground.unrelated(requests[start : start + schedule.at_once], schedule, examples.rng)
    own = torch.arange(0, len(asked), 1 + schedule.wordings, device=ground.lm.device)
    return Rows(
        edits=ground.padded(asked.rows(own)),
        edits_below=below[own],
        asked=asked,
        asked_below=below,
        held=torch.tensor(held, device=ground.lm.device),
        groups=len(requests) // schedule.at_once,
    )


def losses(ground: Ground, rows: Rows, updates: Update, schedule: Schedule) -> Losses:
    """L_e and L_loc under the updates, which the losses are differentiable in."""
    lm, groups = ground.lm, rows.groups
    held = ground.padded(ground.held.rows(rows.held))

    def grouped(rows: Tensor) -> Tensor:
        return rows.reshape(groups, -1, *rows.shape[1:])

    below = torch.cat([grouped(rows.asked_below), grouped(ground.below[rows.held])], 1).flatten(0, 1)
    hidden = grouped(edited_forward(lm, ground.blocks, below, together(updates, schedule.at_once), groups))
    n = len(rows.asked) // groups
    edit = target_losses(lm, rows.asked, hidden[:, :n].flatten(0, 1))
    before = _answers(lm, held, ground.final[rows.held])
    after = _answers(lm, held, hidden[:, n:].flatten(0, 1))
    unrelated = (before.exp() * (before - after)).sum(-1).mean()
    return Losses(edit.mean(), unrelated, float((edit.detach() < math.log(2)).double().mean()))


def _answers(lm: LM, batch: Batch, hidden: Tensor) -> Tensor:
    """Log-probabilities at every token of the rows' answers, (tokens, vocabulary)."""
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    return log_probs(lm.unembed(hidden[rows, columns - 1]))


def train(
    lm: LM,
    requests: Sequence[EditRequest],
    places: Sequence[Place],
    editor: Editor,
    parameters: Sequence[Mapping[str, Any]],
    objective: Callable[[Losses], Tensor],
    schedule: Schedule,
    after_step: Callable[[History], None] | None = None,
) -> History:
    """Train what the editor's updates depend on; returns L_e, L_loc and success of every step. The model stays.

    parameters: groups as torch's optimisers take them, with "lr" where it is not the schedule's; a group that says
    "maximize" climbs (multipliers of a Lagrangian). after_step: called with the history so far.
    """
    examples = Examples(requests, schedule.seed)
    ground = Ground(lm, examples, places, schedule)
    optimiser = torch.optim.Adam([dict(group) for group in parameters], lr=schedule.lr)
    rates = [group["lr"] for group in optimiser.param_groups]
    leaves = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    descending = [tensor for group in optimiser.param_groups if not group["maximize"] for tensor in group["params"]]
    history: History = []
    for step in range(schedule.steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.rate(step)
        drawn = examples.draw(schedule.edits)
        rows = rows_of(ground, examples, drawn, schedule)
        gradient = gradient_from(lm, rows.edits, ground.places, ground.blocks, rows.edits_below)
        found = losses(ground, rows, editor(drawn, gradient), schedule)
        gradients = torch.autograd.grad(objective(found), leaves, allow_unused=True)
        for tensor, slope in zip(leaves, gradients, strict=True):
            tensor.grad = slope
        torch.nn.utils.clip_grad_norm_(descending, schedule.clip)
        optimiser.step()
        history.append((float(found.edit.detach()), float(found.unrelated.detach()), found.success))
        if after_step is not None:
            after_step(history)
    for tensor in leaves:
        tensor.grad = None
    return history
