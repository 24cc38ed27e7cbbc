r"""T-Patcher: one new neuron in the last feed-forward layer for each mistake (huang2023patcher).

1. ``mistakes``        where the model goes wrong along the target: one neuron for each such token
2. ``memory_states``   M: what the layer reads in ordinary text, where the new neurons must keep silent
3. ``train_neurons``   k, b, v: say the target (l_e), fire at the mistake (l_a), keep silent in memory (l_m1), and be
                       there far below the value at the mistake (l_m2)

==============  ==============  =======================================================================
paper           code            meaning, shape
==============  ==============  =======================================================================
q               ``queries``     what the feed-forward layer reads, (places, d_model)
k_p, b_p        ``keys``, ``biases``  (neurons, d_model), (neurons,): the neuron's input is q k_p + b_p
v_p             ``values``      (neurons, d_model): what it adds, times its activation
M               ``memory``      (tokens, d_model)
a, m            ``fire``, ``silence``  the weights of l_a and of l_m1 + l_m2
beta, gamma     ``beta``, ``gamma``    the bound of l_m1 and the margin of l_m2
k               ``top``         the mean of l_m1 and l_m2 is over so many largest terms
==============  ==============  =======================================================================

The layer is the last one, so nothing but the final norm and the head follows: an edit runs no block at all, and what
is read at the layer does not depend on earlier edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from paramem.arch import Site
from paramem.editing.added_neurons import AddedNeurons
from paramem.editing.requests import check_requests
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.models import LM

DEPARTURES = {
    "text": (
        "the losses are those of the paper's method section",
        "as the authors' released code computes them; equation numbers are not cited",
        "the paper's own text was not at hand beyond its introduction",
    ),
    "initial value": (
        "the released code draws v at random, ten times as large as a unit normal",
        "v starts at zero, so that an untrained neuron changes nothing",
        "the model is then exactly the old one before the first step, which can be tested",
    ),
    "gated layers": (
        "the models edited there have plain feed-forward layers, and a new neuron is like the old ones",
        "in a gated layer the new neuron has the layer's nonlinearity and no gate",
        "a gate would be a second key; the losses speak of one",
    ),
    "memory": (
        "hidden states of inputs seen before, tens of thousands of them",
        "hidden states of ordinary text that does not mention the edited subject, and of earlier edits",
        "text of the bundled worlds states the old fact; a neuron cannot both fire and keep silent on it",
    ),
    "steps": (
        "training ends by a validation set, with a learning rate that falls",
        "a fixed number of steps with one learning rate",
        "an edit then costs the same each time, and no second set of examples is needed",
    ),
}


@dataclass(frozen=True, kw_only=True)
class PatcherSettings:
    """fire, silence: weights of the activation loss and of the memory losses; 0 leaves them out. activation: that of
    the model's own neurons, or ReLU. memory: largest number of ordinary hidden states."""

    steps: int = 100
    lr: float = 1e-2
    fire: float = 1.0
    silence: float = 10.0
    beta: float = -3.0
    gamma: float = 3.0
    top: int = 1000
    memory: int = 4000
    activation: Literal["model", "relu"] = "model"

    def __post_init__(self) -> None:
        if self.steps < 0 or self.lr <= 0 or self.fire < 0 or self.silence < 0:
            raise BadParameter(
                f"steps={self.steps}, lr={self.lr}, fire={self.fire}, silence={self.silence}: none is negative, "
                "and lr is above zero."
            )
        if self.top < 1 or self.memory < 1:
            raise BadParameter(f"top={self.top}, memory={self.memory}: at least one hidden state each.")


class Places(NamedTuple):
    """Every place where a target token is predicted: what the layer reads there, the stream behind it, the token."""

    queries: Tensor  # (places, d_model)
    hidden: Tensor  # (places, d_model)
    tokens: Tensor  # (places,)
    edit: Tensor  # (places,) which request

    def of(self, edit: int) -> Places:
        """The places of one edit, as the only one."""
        mine = self.edit == edit
        return Places(self.queries[mine], self.hidden[mine], self.tokens[mine], torch.zeros_like(self.edit[mine]))


class Memory(NamedTuple):
    """Hidden states with the text that each comes from."""

    states: Tensor  # (tokens, d_model)
    text: Tensor  # (tokens,) index into texts
    texts: tuple[str, ...]

    def without(self, subject: str) -> Tensor:
        """Which states come from texts that do not mention the subject, (tokens,) bool."""
        silent = torch.tensor([subject not in text for text in self.texts])
        return silent[self.text.cpu()]


class Trained(NamedTuple):
    """Neurons, what the layer reads at the mistake of each, and the losses l_e, l_a, l_m1, l_m2 by step, each summed
    over the edits."""

    neurons: AddedNeurons
    own: Tensor  # (neurons, d_model)
    losses: Tensor  # (steps, 4)


@torch.no_grad()
def mistakes(lm: LM, requests: Sequence[EditRequest], *, batch_size: int = 256) -> Places:
    """The places of all targets, in one forward for so many requests."""
    site, parts = Site("mlp_in", lm.n_layers - 1), []
    for start in range(0, len(requests), batch_size):
        part = requests[start : start + batch_size]
        batch = lm.encode([r.prompt for r in part], [r.target_new for r in part])
        with lm.hooked(capture=[site]) as states:
            hidden = lm.blocks(batch).resid_pre[-1]
        rows, columns = batch.target_mask.nonzero(as_tuple=True)
        at = (rows, columns - 1)
        parts.append(Places(states[site][at], hidden[at], batch.input_ids[rows, columns], rows + start))
    return Places(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def memory_states(lm: LM, texts: Sequence[str], n: int) -> Memory:
    """At most ``n`` hidden states at the input of the last feed-forward layer, evenly from all tokens of the texts.

    Raises BadInput when there is no text.
    """
    if not texts:
        raise BadInput("t_patcher: no texts. Pass ordinary text: the new neurons learn to keep silent on it.")
    site, states, owners, names = Site("mlp_in", lm.n_layers - 1), [], [], list[str]()
    for batch in lm.text_batches(texts):
        real = batch.attention_mask.bool()
        states.append(lm.states(batch, [site])[site][real])
        owners.append(real.nonzero()[:, 0] + len(names))
        rows = zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)
        names += lm.tokenizer.batch_decode([ids[:length] for ids, length in rows], skip_special_tokens=True)
    found, owner = torch.cat(states), torch.cat(owners)
    chosen = torch.linspace(0, len(found) - 1, min(n, len(found)), device=found.device).long()
    return Memory(found[chosen], owner[chosen], tuple(names))


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """The four losses of new neurons, which see their own edit only; each is a mean over an edit's tokens or neurons,
    summed over the edits."""

    lm: LM
    places: Places
    hidden: Tensor  # (places, d_model) the stream behind the layer, without the new neurons
    memory: Tensor  # (tokens, d_model)
    own: Tensor  # (neurons, d_model) what the layer reads at the mistake of each
    owner: Tensor  # (neurons,) the edit of each
    excluded: Tensor  # (neurons, tokens) bool, memory that does not count for it
    activation: str
    settings: PatcherSettings

    @cached_property
    def same(self) -> Tensor:
        """(places, neurons): whether a neuron belongs to the place's edit, as a number."""
        return (self.places.edit[:, None] == self.owner[None]).to(self.hidden)

    def shares(self, edit: Tensor) -> Tensor:
        """Weights that give every edit the same sum, for tokens or neurons of these edits."""
        counts = torch.bincount(edit, minlength=max(1, int(self.places.edit.max()) + 1))
        return (1.0 / counts.clamp(min=1))[edit].to(self.hidden)

    def __call__(self, keys: Tensor, biases: Tensor, values: Tensor) -> Tensor:
        """l_e, l_a, l_m1, l_m2, (4,)."""
        settings, each = self.settings, self.shares(self.owner)
        fired = ACT2FN[self.activation](self.places.queries @ keys.T + biases) * self.same
        said = self.lm.unembed(self.hidden + fired @ values).log_softmax(-1)
        l_e = (-said.gather(1, self.places.tokens[:, None])[:, 0] * self.shares(self.places.edit)).sum()
        here = (self.own * keys).sum(1) + biases
        l_a = ((-here).exp() * each).sum()
        there = (keys @ self.memory.T + biases[:, None]).masked_fill(self.excluded, -torch.inf)
        # the same tokens are loudest in both losses
        loudest = there.topk(min(settings.top, len(self.memory)), dim=1, sorted=False).values
        l_m1 = ((loudest - settings.beta).exp().mean(1) * each).sum()
        l_m2 = ((loudest - here[:, None] + settings.gamma).exp().mean(1) * each).sum()
        return torch.stack([l_e, l_a, l_m1, l_m2])


def train_neurons(
    lm: LM,
    places: Places,
    memory: Tensor,
    usable: Tensor,
    settings: PatcherSettings,
    earlier: AddedNeurons | None = None,
) -> Trained:
    """The neurons of one edit, or of several that know nothing of each other.

    memory: hidden states (tokens, d_model). usable: (edits, tokens) bool, which of them count for which edit.
    earlier: neurons that are there already, and stay as they are.
    """
    with torch.no_grad():
        hidden = places.hidden if earlier is None else places.hidden + earlier.added(places.queries)
        wrong = lm.unembed(hidden).argmax(-1) != places.tokens
    own, owner = places.queries[wrong], places.edit[wrong]
    name = lm.arch.activation if settings.activation == "model" else "relu"
    objective = Objective(
        lm=lm,
        places=places,
        hidden=hidden,
        memory=memory,
        own=own,
        owner=owner,
        excluded=~usable[owner],
        activation=name,
        settings=settings,
    )
    keys, biases, values, losses = _trained(objective)
    found = AddedNeurons(
        reads=Site("mlp_in", lm.n_layers - 1),
        writes=Site("mlp_out", lm.n_layers - 1),
        keys=keys,
        biases=biases,
        values=values,
        activation=name,
        owners=tuple(owner.tolist()),
    )
    return Trained(found, own, losses)


def _trained(objective: Objective) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys, biases, values, and the losses by step, (steps, 4)."""
    own, settings = objective.own, objective.settings
    keys = (own / own.norm(dim=1, keepdim=True) ** 2).clone().requires_grad_(True)  # input 1 at its own mistake
    biases = own.new_zeros(len(own), requires_grad=True)
    values = torch.zeros_like(own, requires_grad=True)
    weights = own.new_tensor([1.0, settings.fire, settings.silence, settings.silence])
    parameters, losses = [keys, biases, values], list[Tensor]()
    optimiser = torch.optim.Adam(parameters, lr=settings.lr)
    for _ in range(settings.steps if len(own) else 0):
        found = objective(keys, biases, values)
        losses.append(found.detach())
        gradients = torch.autograd.grad((weights * found).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    history = torch.stack(losses) if losses else own.new_zeros(0, 4)
    return keys.detach(), biases.detach(), values.detach(), history


def t_patcher(lm: LM, requests: Sequence[EditRequest], settings: PatcherSettings, texts: Sequence[str]) -> AddedNeurons:
    """Edits one after the other: each gets its neurons, with those before it in place and the states that they were
    trained on in the memory.

    Raises BadInput without texts; and as `check_requests`.
    """
    many = check_requests(lm, requests, [lm.n_layers - 1])
    places, memory = mistakes(lm, many), memory_states(lm, texts, settings.memory)
    total: AddedNeurons | None = None
    before = memory.states.new_zeros(0, memory.states.shape[1])  # what the neurons so far were trained on
    for edit, request in enumerate(many):
        usable = torch.cat([memory.without(request.subject), torch.ones(len(before), dtype=torch.bool)])
        states = torch.cat([memory.states, before])
        new = train_neurons(lm, places.of(edit), states, usable[None].to(lm.device), settings, total)
        before = torch.cat([before, new.own])
        total = _next(total, replace(new.neurons, owners=(edit,) * len(new.neurons)))
    assert total is not None  # check_requests refuses an empty sequence
    return total


def _next(total: AddedNeurons | None, new: AddedNeurons) -> AddedNeurons:
    if total is None:
        return new
    return replace(
        total,
        keys=torch.cat([total.keys, new.keys]),
        biases=torch.cat([total.biases, new.biases]),
        values=torch.cat([total.values, new.values]),
        owners=total.owners + new.owners,
    )


def t_patcher_each(
    lm: LM, requests: Sequence[EditRequest], settings: PatcherSettings, texts: Sequence[str]
) -> list[AddedNeurons]:
    """Every request as an edit of its own, trained side by side."""
    many = check_requests(lm, requests, [lm.n_layers - 1], together=False)
    places, memory = mistakes(lm, many), memory_states(lm, texts, settings.memory)
    usable = torch.stack([memory.without(request.subject) for request in many]).to(lm.device)
    found = train_neurons(lm, places, memory.states, usable, settings).neurons
    return [found.of([edit]) for edit in range(len(many))]
