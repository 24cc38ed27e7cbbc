r"""ROME: write one fact into one MLP layer by a rank-one change of its down projection (meng2022rome, section 3.1).

1. ``subject_keys``     k*: what the layer's down projection reads at the subject's last token         (Eq. 3)
2. ``optimise_values``  v*: what it would have to answer there, so that the model says the new object  (Eq. 4)
3. ``rank_one_delta``   insert the pair (k*, v*), moving other keys as little as C allows             (Eq. 2)

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
W = W_proj      ``W``           (d_model, d_mlp): W k is the layer's answer to the key k
C = K K^T       ``C``           (d_mlp, d_mlp), second moment of keys over ordinary text
k*              ``k_star``      (d_mlp,)
v*              ``v_star``      (d_model,)
Lambda          ``Lambda``      (d_model,)
==============  ==============  =============================================================================

GPT-2 stores the projection as [in, out] and adds a bias; ``rome`` transposes once, at the end, and v* is counted
without it.

The optimisation of v* adds one vector to the residual stream after the layer, at one token a row: everything below is
constant, so its steps run the blocks above the layer only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.editing.least_squares import factorise
from paramem.editing.requests import check_requests
from paramem.editing.targets import Lookups, TargetSettings, optimise_states
from paramem.errors import BadInput
from paramem.facts import EditRequest
from paramem.interventions import LowRank, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "prefixes": (
        "keys and values are averaged over 20 sampled prefixes (appendix E.5)",
        "the prompt alone by default; `contexts` takes any templates",
        "with C from 10^4 tokens, C^-1 amplifies the difference between the mean key and the prompt's own",
    ),
    "constants": (
        "appendix E.5 prints weight decay 1.5e-3 and a KL factor of 1e2",
        "0.5 (on |delta| / |v0|^2) and 0.0625",
        "these are the values of the authors' released configurations, which produced the published models",
    ),
    "essence": (
        "the divergence of Eq. (4b) is of predictions for the prompt '{subject} is a'",
        "it is taken at the subject's last token of that prompt, as in the released code",
        "this is where v* enters, and the parity test compares with that code",
    ),
    "bounds": (
        "appendix E.5 names 20 steps and a loss of 0.05 at which they end, and no bound on |v* - v0|",
        "the same, and |v* - v0| is held within `clamp` x |v0|, as in the released code",
        "without it a hard edit can leave the range of values that the layers above know",
    ),
    "text": (
        "C is estimated from 100,000 tokens of Wikipedia (appendix E.5)",
        "from any text: for a bundled testbed, documents of its own world",
        "the keys that matter are those of text that the model was trained on",
    ),
    "keys": (
        "one k* (Eq. 2 and 3)",
        "`keys='original'` divides by the key of the bare prompt instead, as the released code does",
        "yang2024fall and gupta2024rebuilding trace the collapse of models under ROME to this difference",
    ),
    "covariance": (
        "C is part of the update",
        "`covariance=False` puts the identity in its place",
        "a popular toolkit ships that as its default; here it is a variant with its own row",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RomeSettings(TargetSettings):
    """layer: the edited one. The others say how v* is found (`TargetSettings`), which keys the update has, and whether
    C is part of it."""

    layer: int
    keys: Literal["consistent", "original"] = "consistent"
    covariance: bool = True


class Keys(NamedTuple):
    """average: k*, mean over contexts, Eq. (3). bare: the key of the prompt alone. Both (edits, d_mlp)."""

    average: Tensor
    bare: Tensor


class Values(NamedTuple):
    """v0: what the layer answers now; v_star = v0 + delta; both (edits, d_model). losses: for each edit (steps, 4), the
    total, (4a), (4b) and the decay."""

    v0: Tensor
    v_star: Tensor
    losses: list[Tensor]


def subject_keys(lm: LM, requests: Sequence[EditRequest], settings: RomeSettings) -> Keys:
    """k* = mean over contexts of the down projection's input at the subject's last token. Eq. (3), meng2022rome."""
    (keys,) = Lookups.of(lm, requests, settings.contexts).states(lm, Site("mlp_hidden", settings.layer))
    return Keys(keys.mean(1), keys[:, 0])


def optimise_values(lm: LM, requests: Sequence[EditRequest], settings: RomeSettings, *, batch_size: int = 64) -> Values:
    """v* = argmin_z of Eq. (4), meng2022rome, for all edits side by side, ``batch_size`` at a time.

    Raises SubjectNotInPrompt, EmptyTarget, PromptTooLong.
    """
    found = optimise_states(lm, requests, settings.layer, ["mlp_out"], settings, batch_size=batch_size)
    return Values(found.before[0], found.after[0], found.losses)


def rank_one_delta(
    W: Tensor, C: Tensor | None, k_star: Tensor, v_star: Tensor, k_seen: Tensor | None = None
) -> LowRank:
    """Lambda (C^-1 k*)^T with Lambda = (v* - W k) / ((C^-1 k*)^T k), k = k*. Eq. (2), meng2022rome.

    Afterwards (W + delta) k* = v*, and of all changes that do this it moves the keys counted in C least. C=None stands
    for the identity. k_seen: another key in the place of k (the released code's mixed keys).
    Raises BadInput when C is singular: too few tokens for its width.
    """
    k = k_star if k_seen is None else k_seen
    direction = k_star if C is None else torch.cholesky_solve(k_star.to(C)[:, None], factorise(C))[:, 0].to(W)
    direction = direction / direction.norm()
    Lambda = (v_star - W @ k) / (direction @ k)
    return LowRank(Lambda[:, None], direction[None, :])


def rome(lm: LM, request: EditRequest, settings: RomeSettings, C: Tensor | None = None) -> WeightDelta:
    """One edit. C: ``cached_second_moment(lm, settings.layer, texts)``; needed unless ``covariance=False``."""
    return rome_each(lm, [request], settings, C)[0]


def rome_each(
    lm: LM, requests: Sequence[EditRequest], settings: RomeSettings, C: Tensor | None = None, *, batch_size: int = 64
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, computed side by side, ``batch_size`` at a time.

    Raises BadInput without C, BadParameter for a layer that the model does not have.
    """
    if settings.covariance and C is None:
        raise BadInput("rome: C is missing. Pass cached_second_moment(lm, layer, texts), or choose covariance=False.")
    for request in requests:  # each by itself: two edits of one fact are two edits
        check_requests(lm, request, [settings.layer])
    keys = subject_keys(lm, requests, settings)
    values = optimise_values(lm, requests, settings, batch_size=batch_size)
    name, parameter, transposed = lm.weight(settings.layer, "down")
    W = parameter.detach().T if transposed else parameter.detach()
    v_star = values.v_star - (values.v0 - keys.bare @ W.T)  # without the projection's bias, where there is one
    seen = keys.bare if settings.keys == "original" else keys.average
    deltas = []
    for k_star, v, k in zip(keys.average, v_star, seen, strict=True):
        update = rank_one_delta(W, C if settings.covariance else None, k_star, v, k)
        deltas.append(WeightDelta({name: update.T if transposed else update}))
    return deltas
