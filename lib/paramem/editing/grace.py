r"""GRACE: a codebook beside one layer; inputs near a stored key get a learned output there (hartvigsen2022grace).

1. ``query``         h: what the wrapped module reads at the last token of the prompt
2. ``arrange``       where h goes in the codebook: a new entry (add), a wider ball around an entry with the same label
                     (expand), or two balls of half the distance (split)
3. ``learn_values``  v: what the module must put out there, so that the model says the target
4. ``Codebook``      at inference: v in the place of the module's output, if the nearest key's ball holds the query

==============  ==============  ==============================================================
paper           code            shape
==============  ==============  ==============================================================
h^(l-1)         ``query``       (d_model,)
K, V            ``keys``, ``values``  (entries, d_model) each
epsilon         ``radii``       (entries,)
epsilon_init    ``epsilon``     a number: the radius of a new entry
Y               ``labels``      the target of each entry
==============  ==============  ==============================================================

Keys are read below everything that the codebook changes. So the geometry of a whole sequence follows from the keys
alone, and all values of entries that never meet again are learned side by side: a sequence costs what single edits
cost. Only the blocks above the layer are run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.editing.codebook import SLACK, Codebook, distances
from paramem.editing.requests import check_requests
from paramem.editing.targets import alike
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "text": (
        "the steps are those of the paper's method section",
        "as its public summaries and the authors' released code have them; section numbers are not cited",
        "the paper's own text was not at hand",
    ),
    "module": (
        "any layer can be wrapped; the released configuration for GPT-2 XL wraps the first linear map of one MLP",
        "the whole MLP (`module='mlp'`, same key, value behind the down projection) or the whole block",
        "these exist in every family, gated MLPs included",
    ),
    "replaced tokens": (
        "the released configuration for GPT-2 XL replaces the output at the prompt's tokens before the query token;"
        " its other choices are the query token or all tokens",
        "the query token alone (`replace='last'`), or all prompt tokens up to it (`replace='prompt'`)",
        "the query token is where the answer is read; both work the same with and without a cache",
    ),
    "generated tokens": (
        "with a cache, the released code looks up every generated token as a query of its own",
        "only the prompt's last token is looked up",
        "scoring a target and generating it then agree",
    ),
    "label": (
        "entries are told apart by their labels; the released code compares the mean token id of two labels",
        "the target texts are compared",
        "different targets can have the same mean id",
    ),
    "split": (
        "both balls get half the distance between their keys",
        "the same, but the old ball never grows by it; and a query that is the old key takes over its entry",
        "growing would let it run into a third ball, and two entries at one place cannot both answer",
    ),
    "rounding": (
        "a query on the edge of a ball is inside",
        "also one that is outside by less than 1e-5 of its norm",
        "the same prompt in another batch has the same key only up to rounding",
    ),
    "stopping": (
        "100 steps of Adam with learning rate 1, in the released configuration",
        "the same, ended when the loss is below `stop_below`",
        "an edit that is made needs no further steps",
    ),
}
# module: the sites of its input and its output
MODULES: Mapping[str, tuple[str, str]] = {"mlp": ("mlp_in", "mlp_out"), "block": ("resid_pre", "resid_post")}


@dataclass(frozen=True, kw_only=True)
class GraceSettings:
    """layer: where the codebook stands. epsilon: radius of a new ball, in units of the keys. init: new values are drawn
    uniformly from [0, 1) ("cold") or are the module's own output ("warm")."""

    layer: int
    epsilon: float = 1.0
    module: Literal["mlp", "block"] = "mlp"
    replace: Literal["last", "prompt"] = "last"
    init: Literal["cold", "warm"] = "cold"
    steps: int = 100
    lr: float = 1.0
    stop_below: float = 1e-2
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epsilon <= 0:
            raise BadParameter(f"epsilon={self.epsilon}: the radius of a new ball is positive.")
        if self.steps < 1 or self.lr <= 0 or self.batch_size < 1:
            raise BadParameter(f"steps={self.steps}, lr={self.lr}, batch_size={self.batch_size}: all are positive.")
        if self.module not in MODULES:
            raise BadParameter(f"module={self.module!r}: one of {', '.join(MODULES)}.")

    @property
    def sites(self) -> tuple[Site, Site]:
        """What the wrapped module reads, and what it writes."""
        reads, writes = MODULES[self.module]
        return Site(reads, self.layer), Site(writes, self.layer)


@torch.no_grad()
def query(lm: LM, prompts: Sequence[str], site: Site) -> Tensor:
    """What the wrapped module reads (at `site`) at the last token of each prompt, (prompts, width)."""
    batch = lm.encode(prompts)
    return lm.states(batch, [site])[site][torch.arange(len(batch)), batch.prompt_lengths - 1]


class Arranged(NamedTuple):
    """Entries after some edits; ``owner[i]`` is the entry of edit ``i``, ``how[i]`` what was done for it."""

    keys: Tensor
    radii: Tensor
    labels: tuple[str, ...]
    owner: tuple[int, ...]
    how: tuple[str, ...]


def arrange(queries: Tensor, labels: Sequence[str], epsilon: float) -> Arranged:
    """Take in queries (n, width) with their labels one after the other: add, expand or split."""
    keys, radii, names = queries[:0], queries.new_zeros(0), list[str]()
    owner, how = [], []
    for query, label in zip(queries, labels, strict=True):
        step, place = _place(keys, radii, names, query, label, epsilon)
        if step in ("add", "split"):
            radius = queries.new_full((1,), epsilon)
            if step == "split":
                radius = distances(query[None], keys[place : place + 1])[0] / 2
                radii[place] = radii[place].minimum((radius - SLACK * query.norm()).clamp(min=0)[0])
            keys, radii = torch.cat([keys, query[None]]), torch.cat([radii, radius])
            names.append(label)
            place = len(names) - 1
        elif step == "expand":
            radii[place] = radii[place].maximum(distances(query[None], keys[place : place + 1])[0, 0])
        else:
            names[place] = label
        owner.append(place)
        how.append(step)
    return Arranged(keys, radii, tuple(names), tuple(owner), tuple(how))


def _place(
    keys: Tensor, radii: Tensor, labels: Sequence[str], query: Tensor, label: str, epsilon: float
) -> tuple[str, int]:
    """What to do with a query, and the nearest entry."""
    if not len(keys):
        return "add", 0
    distance, nearest = distances(query[None], keys)[0].min(0)
    place = int(nearest)
    if distance > epsilon + radii[place]:
        return "add", place
    if labels[place] == label:
        return "expand", place
    return ("overwrite" if distance <= 2 * SLACK * query.norm() else "split"), place


def learn_values(
    lm: LM, requests: Sequence[EditRequest], owner: Sequence[int], settings: GraceSettings
) -> tuple[Tensor, list[list[float]]]:
    """Values of all entries, (entries, width), and the losses of each edit by step.

    The value of entry ``owner[i]`` is trained on edit ``i``. Edits of different entries know nothing of each other, so
    they are trained side by side; those of one entry come one after the other, in their order.
    Raises EmptyTarget, PromptTooLong.
    """
    turns: list[list[int]] = []  # the first edits of all entries, the second ones, ...
    seen: dict[int, int] = {}
    for edit, entry in enumerate(owner):
        turn = seen[entry] = seen.get(entry, -1) + 1
        turns.extend([[]] if turn == len(turns) else [])
        turns[turn].append(edit)
    values: dict[int, Tensor] = {}
    losses: dict[int, list[float]] = {}
    for turn_edits in turns:
        for places in alike(lm, [requests[edit] for edit in turn_edits], settings.batch_size):
            part = [turn_edits[place] for place in places]
            begin = [values.get(owner[edit]) for edit in part]
            found, history = _train(lm, [requests[edit] for edit in part], begin, settings)
            values.update({owner[edit]: value for edit, value in zip(part, found, strict=True)})
            losses.update(zip(part, history, strict=True))
    return torch.stack([values[entry] for entry in sorted(values)]), [losses[edit] for edit in range(len(requests))]


def _train(
    lm: LM, requests: Sequence[EditRequest], begin: Sequence[Tensor | None], settings: GraceSettings
) -> tuple[Tensor, list[list[float]]]:
    batch = lm.encode([r.prompt for r in requests], [r.target_new for r in requests])
    with torch.no_grad(), lm.hooked(capture=[settings.sites[1]]) as states:
        blocks = lm.blocks(batch)
    own, above = states[settings.sites[1]], blocks.resid_pre[settings.layer + 1]
    every = torch.arange(len(batch), device=lm.device)
    fresh = own[every, batch.prompt_lengths - 1] if settings.init == "warm" else _drawn(requests, own, settings.seed)
    start = torch.stack([new if old is None else old for new, old in zip(fresh, begin, strict=True)])
    mask = _replaced(batch, settings)[..., None]
    below = torch.where(mask, above - own, above)  # the stream without what the module adds
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    targets, share = batch.input_ids[rows, columns], 1.0 / batch.target_mask.sum(1)[rows]

    values = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([values], lr=settings.lr)
    done = torch.zeros(len(batch), dtype=torch.bool, device=lm.device)
    history: list[list[float]] = [[] for _ in requests]
    for step in range(settings.steps + 1):
        hidden = blocks.forward(below + mask * values[:, None], settings.layer + 1)
        said = lm.unembed(hidden[rows, columns - 1]).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        loss = values.new_zeros(len(batch)).index_add(0, rows, -said * share)
        for each, now in zip((~done).nonzero()[:, 0].tolist(), loss[~done].tolist(), strict=True):
            history[each].append(now)
        done |= loss.detach() < settings.stop_below
        if done.all() or step == settings.steps:
            break
        (values.grad,) = torch.autograd.grad(loss.sum(), [values])
        still = values.detach().clone()
        optimiser.step()
        with torch.no_grad():
            values[done] = still[done]
    return values.detach(), history


def _replaced(batch: Batch, settings: GraceSettings) -> Tensor:
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)[None]
    last = batch.prompt_lengths[:, None] - 1
    return columns == last if settings.replace == "last" else columns <= last


def _drawn(requests: Sequence[EditRequest], like: Tensor, seed: int) -> Tensor:
    """Numbers from [0, 1) that depend on the edit and the seed, and not on the edits beside it."""
    drawn = []
    for request in requests:
        digest = hashlib.sha256(f"{seed}\n{request.prompt}\n{request.target_new}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        drawn.append(torch.rand(like.shape[-1], generator=generator, dtype=torch.float64))
    return torch.stack(drawn).to(like)


def grace(lm: LM, requests: Sequence[EditRequest], settings: GraceSettings) -> Codebook:
    """One codebook for a sequence of edits, in their order.

    Raises BadInput, BadParameter, EmptyTarget, SubjectNotInPrompt (see `check_requests`), PromptTooLong.
    """
    many = check_requests(lm, requests, [settings.layer])
    reads, writes = settings.sites
    labels = [request.target_new for request in many]
    found = arrange(query(lm, [request.prompt for request in many], reads), labels, settings.epsilon)
    values, _ = learn_values(lm, many, found.owner, settings)
    return Codebook(
        reads=reads,
        writes=writes,
        keys=found.keys,
        values=values,
        radii=found.radii,
        labels=found.labels,
        replace=settings.replace,
    )


def grace_each(lm: LM, requests: Sequence[EditRequest], settings: GraceSettings) -> list[Codebook]:
    """Every request as a codebook of its own, computed side by side."""
    many = check_requests(lm, requests, [settings.layer], together=False)
    reads, writes = settings.sites
    keys = query(lm, [request.prompt for request in many], reads)
    values, _ = learn_values(lm, many, range(len(many)), settings)
    radii = keys.new_full((1,), settings.epsilon)
    return [
        Codebook(
            reads=reads,
            writes=writes,
            keys=key[None],
            values=value[None],
            radii=radii,
            labels=(request.target_new,),
            replace=settings.replace,
        )
        for request, key, value in zip(many, keys, values, strict=True)
    ]
