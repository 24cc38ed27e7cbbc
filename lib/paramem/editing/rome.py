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
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import LowRank, WeightDelta
from paramem.models import LM
from paramem.tokens import Batch

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
class RomeSettings:
    """layer: the edited one. contexts: templates around the prompt, the bare one first. essence: prompt in which
    what follows the subject is held. clamp: largest |delta| in units of |v0|. stop_below: loss at which the
    optimisation ends."""

    layer: int
    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    stop_below: float = 0.05
    contexts: tuple[str, ...] = ("{}",)
    essence: str = "{} is a"
    keys: Literal["consistent", "original"] = "consistent"
    covariance: bool = True

    def __post_init__(self) -> None:
        if not self.contexts or self.contexts[0] != "{}" or any(c.count("{}") != 1 for c in self.contexts):
            raise BadParameter(f"contexts={self.contexts!r}: templates with one '{{}}' each, the bare '{{}}' first.")
        if self.steps < 1:
            raise BadParameter(f"steps={self.steps}: at least one.")


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


@torch.no_grad()
def subject_keys(lm: LM, requests: Sequence[EditRequest], settings: RomeSettings) -> Keys:
    """k* = mean over contexts of the down projection's input at the subject's last token. Eq. (3), meng2022rome."""
    prompts = _in_contexts(requests, settings)
    site = Site("mlp_hidden", settings.layer)
    found = lm.states(lm.encode(prompts), [site])[site]
    keys = found[torch.arange(len(prompts)), _subject_last(lm, prompts, _subjects(requests, settings))]
    keys = keys.view(len(requests), len(settings.contexts), -1)
    return Keys(keys.mean(1), keys[:, 0])


def optimise_values(lm: LM, requests: Sequence[EditRequest], settings: RomeSettings) -> Values:
    """v* = argmin_z of Eq. (4), meng2022rome: the new object's negative log-likelihood in every context (4a), the
    divergence, after the subject in the essence prompt, from the unedited model (4b), and a decay on the change.

    The edits are optimised side by side and know nothing of each other: their losses are summed, Adam works on each
    component by itself, and an edit that has reached ``stop_below`` stands still. Raises SubjectNotInPrompt,
    EmptyTarget, PromptTooLong.
    """
    n, n_contexts = len(requests), len(settings.contexts)
    prompts = _in_contexts(requests, settings)
    essences = [settings.essence.replace("{}", request.subject) for request in requests]
    rewrite = lm.encode(prompts, [request.target_new for request in requests for _ in settings.contexts])
    batch = Batch.join([rewrite, lm.encode(essences)])
    subjects = _subjects(requests, settings) + [request.subject for request in requests]
    lookup = _subject_last(lm, prompts + essences, subjects)
    rows, edits = torch.arange(len(lookup), device=lm.device), torch.arange(n, device=lm.device)
    owner = torch.cat([edits.repeat_interleave(n_contexts), edits])  # the edit that each row belongs to

    with torch.no_grad():
        answer = Site("mlp_out", settings.layer)
        with lm.hooked(capture=[answer]) as states:
            blocks = lm.blocks(batch)
        above = blocks.resid_pre[settings.layer + 1]  # the residual stream right after the edited layer
        v0 = states[answer][rows, lookup][: n * n_contexts : n_contexts].clone()  # in the bare prompts
    at, columns = rewrite.target_mask.nonzero(as_tuple=True)
    targets = rewrite.input_ids[at, columns]
    share = 1.0 / rewrite.target_mask.sum(1)[at] / n_contexts
    unchanged: Tensor | None = None

    delta = torch.zeros_like(v0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr)
    radius, losses = settings.clamp * v0.norm(dim=1, keepdim=True), []
    done = torch.zeros(n, dtype=torch.bool, device=lm.device)
    for step in range(settings.steps):
        changed = above.index_put((rows, lookup), delta[owner], accumulate=True)
        hidden = blocks.forward(changed, settings.layer + 1)
        said = lm.unembed(hidden[at, columns - 1]).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        nll = torch.zeros_like(v0[:, 0]).index_add(0, owner[at], -said * share)  # Eq. (4a)
        essence = lm.unembed(hidden[rows[-n:], lookup[-n:]]).log_softmax(-1)
        unchanged = essence.detach() if unchanged is None else unchanged
        kl = settings.kl * (essence.exp() * (essence - unchanged)).sum(-1)  # Eq. (4b)
        decay = settings.weight_decay * delta.norm(dim=1) / v0.norm(dim=1) ** 2
        loss = nll + kl + decay
        losses.append(torch.stack([loss, nll, kl, decay], 1).detach().where(~done[:, None], torch.nan))
        done |= loss.detach() < settings.stop_below
        if done.all() or step == settings.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss.sum(), [delta])
        still = delta.detach().clone()
        optimiser.step()
        with torch.no_grad():
            delta *= (radius / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
            delta[done] = still[done]
    history = torch.stack(losses, 1)  # (edits, steps, 4), nan once an edit stands still
    return Values(v0, v0 + delta.detach(), [each[~each[:, 0].isnan()] for each in history])


def rank_one_delta(
    W: Tensor, C: Tensor | None, k_star: Tensor, v_star: Tensor, k_seen: Tensor | None = None
) -> LowRank:
    """Lambda (C^-1 k*)^T with Lambda = (v* - W k) / ((C^-1 k*)^T k), k = k*. Eq. (2), meng2022rome.

    Afterwards (W + delta) k* = v*, and of all changes that do this it moves the keys counted in C least. C=None stands
    for the identity. k_seen: another key in the place of k (the released code's mixed keys).
    Raises BadInput when C is singular: too few tokens for its width.
    """
    k = k_star if k_seen is None else k_seen
    if C is None:
        direction = k_star
    else:
        factor, info = torch.linalg.cholesky_ex(C)
        if info.item():
            raise BadInput(
                f"the second moment C ({C.shape[0]} x {C.shape[0]}) is singular: estimate it from more tokens "
                "than it has rows, and from more varied text."
            )
        direction = torch.cholesky_solve(k_star.to(C)[:, None], factor)[:, 0].to(W)
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
    if not 0 <= settings.layer < lm.n_layers:
        raise BadParameter(f"layer={settings.layer}: {lm.name} has layers 0 to {lm.n_layers - 1}.")
    if len(requests) > batch_size:
        parts = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
        return [delta for part in parts for delta in rome_each(lm, part, settings, C, batch_size=batch_size)]
    keys = subject_keys(lm, requests, settings)
    values = optimise_values(lm, requests, settings)
    name, parameter, transposed = lm.weight(settings.layer, "down")
    W = parameter.detach().T if transposed else parameter.detach()
    v_star = values.v_star - (values.v0 - keys.bare @ W.T)  # without the projection's bias, where there is one
    seen = keys.bare if settings.keys == "original" else keys.average
    deltas = []
    for k_star, v, k in zip(keys.average, v_star, seen, strict=True):
        update = rank_one_delta(W, C if settings.covariance else None, k_star, v, k)
        deltas.append(WeightDelta({name: update.T if transposed else update}))
    return deltas


def rome_sequence(
    lm: LM, requests: Sequence[EditRequest], settings: RomeSettings, C: Tensor | None = None
) -> WeightDelta:
    """Edits one after the other, each made on the model that the earlier ones left; their sum."""
    total = WeightDelta({})
    for request in requests:
        with total.applied(lm) as edited:
            step = rome(edited, request, settings, C)
        total = total + step
    return total


def _in_contexts(requests: Sequence[EditRequest], settings: RomeSettings) -> list[str]:
    return [context.replace("{}", request.prompt) for request in requests for context in settings.contexts]


def _subjects(requests: Sequence[EditRequest], settings: RomeSettings) -> list[str]:
    return [request.subject for request in requests for _ in settings.contexts]


def _subject_last(lm: LM, prompts: Sequence[str], subjects: Sequence[str]) -> Tensor:
    spans = [lm.subject_span(prompt, subject) for prompt, subject in zip(prompts, subjects, strict=True)]
    return torch.tensor([span.stop - 1 for span in spans], device=lm.device)
