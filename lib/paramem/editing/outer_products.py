"""Gradients and updates of weight matrices as sums of outer products, one term for each token of an edit.

For a matrix that answers W x at every token, the gradient of an edit's loss is a sum over tokens of delta u^T, with u
what the matrix reads at the token and delta the loss's gradient with respect to what it answers there
(mitchell2021mend, section 3.1 and appendix D). So neither the gradient nor an update made of such terms has to be
written out, and many edits, each with an update of its own, go through one forward together:

    terms = gradient_terms(lm, batch, places)              # Place -> Terms, one row for each edit
    with terms_added(lm, updates, edits=len(batch)):       # the rows of a forward belong to the edits in equal shares
        blocks.forward(...)
    weight_delta(lm, updates)                              # the same updates, summed, as an intervention

==========  ==========================================================================
symbol      code, shape
==========  ==========================================================================
u           ``right`` (edits, terms, d_in)
delta       ``left``  (edits, terms, d_out), zero where a row is padded
==========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from paramem.arch import HookPoint
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.hooks import Blocks, attach
from paramem.interventions import LowRank, WeightDelta
from paramem.lm import LM, log_probs
from paramem.tokens import Batch


class Place(NamedTuple):
    """A weight matrix by layer and role."""

    layer: int
    role: str

    def __str__(self) -> str:
        return f"{self.role}.{self.layer}"


class Terms(NamedTuple):
    """For each edit a sum of outer products, sum_j left[e, j] right[e, j]^T, (d_out, d_in)."""

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """(edits, d_out, d_in)."""
        return self.left.mT @ self.right


Update = Mapping[Place, Terms]


def places_of(lm: LM, layers: Sequence[int], roles: Sequence[str]) -> tuple[Place, ...]:
    """The matrices of these roles in these layers, from below. Raises BadParameter for what the model does not have."""
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < lm.n_layers for layer in layers):
        raise BadParameter(f"layers={tuple(layers)}: name layers of {lm.name}, 0 to {lm.n_layers - 1}, each once")
    for role in roles:
        lm.weight(layers[0], role)
    return tuple(Place(layer, role) for layer in sorted(layers) for role in roles)


def last_layers(lm: LM, n: int) -> tuple[int, ...]:
    """The last ``n`` layers, or all where there are fewer."""
    return tuple(range(max(0, lm.n_layers - n), lm.n_layers))


def sizes(lm: LM, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
    """(d_in, d_out) of each matrix."""
    found = {}
    for place in places:
        ref = lm.weight(*place)
        one, other = ref.parameter.shape
        found[place] = (one, other) if ref.transposed else (other, one)
    return found


def edit_batch(lm: LM, requests: Sequence[EditRequest]) -> Batch:
    """Prompts with their new objects, a row for each edit."""
    return lm.encode([each.prompt for each in requests], [each.target_new for each in requests])


def target_losses(lm: LM, batch: Batch, hidden: Tensor) -> Tensor:
    """- log P of each row's target, mean over its tokens, (rows,); hidden: the last block's output."""
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    said = log_probs(lm.unembed(hidden[rows, columns - 1])).gather(1, batch.input_ids[rows, columns, None])[:, 0]
    share = 1.0 / batch.target_mask.sum(1)[rows]
    return said.new_zeros(len(batch)).index_add(0, rows, -said * share)


def gradient_terms(lm: LM, batch: Batch, places: Sequence[Place]) -> dict[Place, Terms]:
    """The gradient of each row's `target_losses` with respect to each matrix; nothing of the model changes.

    Only the blocks from the lowest matrix on are differentiated.
    """
    with torch.no_grad():
        blocks = lm.blocks(batch)
    return gradient_from(lm, batch, places, blocks, blocks.resid_pre[lowest(places)])


def lowest(places: Iterable[Place]) -> int:
    """The lowest layer that holds one of the matrices."""
    return min(place.layer for place in places)


def gradient_from(lm: LM, batch: Batch, places: Sequence[Place], blocks: Blocks, below: Tensor) -> dict[Place, Terms]:
    """`gradient_terms`, given the input of the `lowest` edited block, (rows, tokens, d_model)."""
    read: dict[Place, Tensor] = {}
    answered: dict[Place, Tensor] = {}
    with torch.enable_grad(), ExitStack() as stack:
        for place in places:
            module = lm.arch.linear(*place)
            stack.callback(attach(HookPoint(module, "input"), _keeper(read, place), reads_only=True).remove)
            stack.callback(attach(HookPoint(module, "output"), _keeper(answered, place), reads_only=True).remove)
        start = below.detach().requires_grad_(True)  # weights need no gradient: this starts the graph
        loss = target_losses(lm, batch, blocks.forward(start, lowest(places))).sum()
        gradients = torch.autograd.grad(loss, [answered[place] for place in places])
    real = batch.attention_mask[:, :, None].to(loss.dtype)
    return {
        place: Terms(gradient * real, read[place].detach() * real)
        for place, gradient in zip(places, gradients, strict=True)
    }


def _keeper(states: dict[Place, Tensor], place: Place) -> Callable[[Tensor], None]:
    def keep(state: Tensor) -> None:
        states[place] = state

    return keep


@contextmanager
def terms_added(lm: LM, updates: Update, edits: int) -> Iterator[None]:
    """Inside, every matrix is W + its update, and each row of a forward sees that of its own edit.

    The rows come edit by edit, equally many for each. Differentiable with respect to the updates.
    """
    with ExitStack() as stack:
        for place, terms in updates.items():
            module = lm.arch.linear(*place)
            seen: list[Tensor] = []
            stack.callback(attach(HookPoint(module, "input"), seen.append, reads_only=True).remove)

            def add(answer: Tensor, seen: list[Tensor] = seen, terms: Terms = terms) -> Tensor:
                x = seen.pop().reshape(edits, -1, terms.right.shape[-1])  # (edits, rows x tokens, d_in)
                return answer + times(terms, x).reshape(answer.shape)

            stack.callback(attach(HookPoint(module, "output"), add).remove)
        yield


def times(terms: Terms, x: Tensor) -> Tensor:
    """Every edit's update times its own vectors, (edits, n, d_in) to (edits, n, d_out), in the cheaper order."""
    (count, d_in), d_out = terms.right.shape[1:], terms.left.shape[-1]
    if count * (d_in + d_out) < d_in * d_out:
        return (x @ terms.right.mT) @ terms.left
    return x @ terms.dense().mT


def edited_forward(lm: LM, blocks: Blocks, below: Tensor, updates: Update, edits: int) -> Tensor:
    """The last block's output under the updates, given the input of the `lowest` edited block; (rows, tokens, d)."""
    with terms_added(lm, updates, edits):
        return blocks.forward(below.detach(), lowest(updates))


def weight_delta(lm: LM, updates: Update) -> WeightDelta:
    """The updates of all edits, summed: terms side by side. Terms that are zero are left out."""
    parts = {}
    for place, terms in updates.items():
        left, right = terms.left.flatten(0, 1).detach(), terms.right.flatten(0, 1).detach()  # (terms, width)
        used = (left != 0).any(1) & (right != 0).any(1)
        ref = lm.weight(*place)
        change = LowRank(left[used].T.to(ref.parameter), right[used].to(ref.parameter))
        parts[ref.name] = change.T if ref.transposed else change
    return WeightDelta(parts)


def of_edit(updates: Update, edit: int) -> dict[Place, Terms]:
    """The updates of one edit alone."""
    return {place: Terms(terms.left[edit : edit + 1], terms.right[edit : edit + 1]) for place, terms in updates.items()}


def together(updates: Update, size: int) -> dict[Place, Terms]:
    """Neighbouring edits joined, ``size`` at a time, as if made at once: (edits / size, terms x size, width)."""

    def joined(side: Tensor) -> Tensor:
        return side.reshape(side.shape[0] // size, -1, side.shape[-1])

    return {place: Terms(joined(terms.left), joined(terms.right)) for place, terms in updates.items()}
