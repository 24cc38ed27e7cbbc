r"""Feed-forward layers as key-value memories (geva2020keyvalue).

Row i of the first matrix is a key, matched against the input; row i of the second is the value that is added to the
stream in proportion to the match.

1. ``triggers``: the prefixes with the largest memory coefficient of every key (section 3.1);
2. ``annotate``: which patterns those prefixes share, shallow (words) or semantic (relation or answer, in other words);
3. ``read_values``: each value read as a ranking of the vocabulary, beside the next token of its key's best prefix
   (section 4);
4. ``mutation_effects``: how far a coefficient falls when a token of its prefix is removed (section 3.2);
5. ``composition``: whether a layer's top token is the top token of any one of its memories (section 5.1).

``key_value_memories`` does steps 1 to 3 and gives one row per memory.

=====================  ===================  ======================================================
paper                  code                 shape
=====================  ===================  ======================================================
K, V (in the model)    up, down             V as ``value_vectors`` gives it
m_i, coefficient       ``coefficients``     (layers, memories, t); the state at ``mlp_hidden``
top-t trigger examples ``places``           (layers, memories, t), numbers of prefixes
p_i = softmax(v_i E)   ``value_logits``     (memories, vocabulary), before the softmax
w_i                    ``next_token``       token after the top-1 trigger
=====================  ===================  ======================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.ablation import value_vectors
from paramem.detection.patterns import binomial_tail, distinct, in_other_words, strongest
from paramem.detection.prefixes import KINDS, Prefixes, base_rates, prefixes_of
from paramem.errors import BadParameter
from paramem.facts import Fact
from paramem.interventions import WeightDelta
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "annotation": (
        "people look at the best 25 prefixes of a key and name what at least three of them share",
        "a machine names the last token, the relation, the subject and the answer; three must share one, and so many "
        "must be improbable under a random draw",
        "in a world whose every sentence is known the labels are exact, and three of 25 often share one of few "
        "relations by chance",
    ),
    "meaning without form": (
        "people tell shared topics from shared word sequences",
        "a shared relation is semantic only for a trigger with which two others share it in other templates, a shared "
        "answer only where two others have other subjects; all else that is shared, names included, is shallow",
        "a world has few templates, so prefixes of one relation often share their words",
    ),
    "sign": (
        "coefficients pass a ReLU and are never negative",
        "a memory is read in the direction of its strongest coefficient: with the sign turned where that is negative",
        "GELU and gated layers have negative coefficients, which subtract their value",
    ),
    "repeated prefixes": (
        "every prefix of every sentence is a candidate",
        "a prefix that begins several sentences counts once, followed by its most frequent next token",
        "many sentences about one person begin with the same words and would fill the list with copies",
    ),
}

REMOVED = ("first", "last", "random")


@dataclass(frozen=True, kw_only=True)
class KeyValueSettings:
    """How many trigger prefixes, and what counts as a pattern.

    t: trigger prefixes per key.
    shared: least number of triggers that share a pattern.
    alpha: largest probability of so many under a random draw of prefixes.
    rows: most statements in one forward.
    """

    t: int = 25
    shared: int = 3
    alpha: float = 1e-3
    rows: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.shared <= self.t or not 0 < self.alpha < 1 or self.rows < 1:
            raise BadParameter(
                f"t={self.t}, shared={self.shared}, alpha={self.alpha}, rows={self.rows}: 1 <= shared <= t, "
                "0 < alpha < 1 and at least one row are needed"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Triggers:
    """The best prefixes of every memory.

    coefficients, places: (layers, memories, t), in decreasing order; turned by the sign.
    sign: (layers, memories), -1 where the strongest coefficient is negative.
    """

    coefficients: Tensor
    places: Tensor
    sign: Tensor


def triggers(
    lm: LM, prefixes: Prefixes, settings: KeyValueSettings | None = None, *, keys: WeightDelta | None = None
) -> Triggers:
    """The t prefixes with the largest coefficient of every key, in one pass over the statements.

    keys: other keys to hold against the model's own hidden states, such as `random_keys`: what every layer adds to the
    stream stays as it was, only what is looked for in it changes.
    Raises BadParameter when there are fewer prefixes than t.
    """
    settings = settings or KeyValueSettings()
    if len(prefixes) < settings.t:
        raise BadParameter(f"t={settings.t}: there are only {len(prefixes)} prefixes; give more facts or a smaller t")
    shape = (2, lm.n_layers, lm.d_mlp, settings.t)  # positive and negative coefficients apart
    best = torch.full(shape, -torch.inf, dtype=lm.dtype, device=lm.device)
    places = torch.zeros(shape, dtype=torch.long, device=lm.device)
    for numbers, states in _coefficients(lm, prefixes, settings.rows, keys):
        for layer, m in enumerate(states):
            for side, signed in enumerate((m.T, -m.T)):  # [memories, prefixes here]
                here = numbers.expand(len(signed), -1)
                pool = torch.cat([best[side, layer], signed], 1)
                best[side, layer], order = pool.topk(settings.t, 1)
                places[side, layer] = torch.cat([places[side, layer], here], 1).gather(1, order)
    negative = best[1, ..., 0] > best[0, ..., 0]
    return Triggers(
        coefficients=torch.where(negative[..., None], best[1], best[0]),
        places=torch.where(negative[..., None], places[1], places[0]),
        sign=torch.where(negative, -1, 1),
    )


@torch.no_grad()
def _coefficients(
    lm: LM, prefixes: Prefixes, rows: int, keys: WeightDelta | None
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Numbers of prefixes and their coefficients, per layer (prefixes here, memories), statement by statement."""
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    order = prefixes.statement.argsort(stable=True)
    rows = lm.fitting_rows(rows, max(map(len, prefixes.ids)), layers=lm.n_layers)
    bounds = torch.searchsorted(prefixes.statement[order], torch.arange(0, len(prefixes.ids) + rows, rows))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        numbers = order[start:stop]
        if not len(numbers):
            continue
        wanted = sorted(set(prefixes.statement[numbers].tolist()))
        states = _states(lm, _batch(lm, [prefixes.ids[i] for i in wanted]), keys)
        row = torch.searchsorted(torch.tensor(wanted), prefixes.statement[numbers])
        at = (row.to(lm.device), prefixes.end[numbers].to(lm.device))
        yield numbers.to(lm.device), [states[site][at] for site in sites]


def _states(lm: LM, batch: Batch, keys: WeightDelta | None) -> Mapping[Site, Tensor]:
    """The coefficients of every layer; of other keys in the same stream, because every MLP's output is put back."""
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    if keys is None:
        return lm.states(batch, sites)
    added = lm.states(batch, [Site("mlp_out", layer) for layer in range(lm.n_layers)])

    def put_back(out: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda _: out

    with keys.applied(lm) as other, other.hooked(patch={site: put_back(out) for site, out in added.items()}):
        return other.states(batch, sites)


def _batch(lm: LM, ids: Sequence[Sequence[int]]) -> Batch:
    width = max(map(len, ids))
    lengths = torch.tensor([len(row) for row in ids], device=lm.device)
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids], device=lm.device)
    return Batch(input_ids=padded, prompt_lengths=lengths, lengths=lengths)


def annotate(places: Tensor, prefixes: Prefixes, settings: KeyValueSettings | None = None) -> pd.DataFrame:
    """What the triggers of each key share.

    places: numbers of prefixes (keys, t). One row a key: ``patterns``, how many there are; ``pattern``, the one that
    most triggers share; and the shares of triggers that belong to a pattern, ``shallow`` only, ``both``, ``semantic``
    only (see DEPARTURES for what is semantic), or none (``uncovered``).
    """
    settings = settings or KeyValueSettings()
    covered: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    shallow = semantic = np.zeros(tuple(places.shape), bool)
    for kind in KINDS:
        label = prefixes.labels[kind][places.cpu()].numpy()  # [keys, t]
        same = (label[:, :, None] == label[:, None, :]).sum(-1)
        rate = np.append(base_rates(prefixes, kind), 1.0)[label]  # label -1, unknown, reads the 1 at the end
        rare = binomial_tail(same, label.shape[1], rate) < settings.alpha
        covered[kind] = (same >= settings.shared) & rare & (label >= 0)
        counts[kind] = np.where(covered[kind], same, 0)
        meant = covered[kind] & in_other_words(places, prefixes, kind, settings.shared - 1)
        shallow, semantic = shallow | (covered[kind] & ~meant), semantic | meant
    return pd.DataFrame(
        {
            "patterns": sum(distinct(counts[kind]) for kind in KINDS),
            "pattern": strongest(places.cpu(), prefixes, counts),
            "shallow": (shallow & ~semantic).mean(1),
            "both": (shallow & semantic).mean(1),
            "semantic": (semantic & ~shallow).mean(1),
            "uncovered": (~shallow & ~semantic).mean(1),
        }
    )


def value_logits(lm: LM, layer: int) -> Tensor:
    """v_i E for every memory of a layer (memories, vocabulary); no norm in between, as in section 4."""
    return value_vectors(lm, layer).detach() @ cast(Tensor, lm.arch.head.weight).detach().T.to(lm.device)


def read_values(lm: LM, found: Triggers, prefixes: Prefixes) -> pd.DataFrame:
    """Each value's top token beside the next token of its key's best trigger: one row a memory.

    rank: the next token's place in the value's ranking, from 1; ``shuffled_agrees`` compares with the
    next token of another memory of the layer, one further round: the control.
    """
    parts = []
    for layer in range(lm.n_layers):
        logits = value_logits(lm, layer) * found.sign[layer, :, None]
        following = prefixes.next_token[found.places[layer, :, 0].cpu()].to(logits.device)
        top = logits.argmax(1)
        own = logits.gather(1, following[:, None])
        part = {
            "value_token": top.tolist(),
            "value_probability": logits.softmax(1).amax(1).double().cpu().numpy(),
            "next_token": following.tolist(),
            "rank": (logits > own).sum(1).cpu().numpy() + 1,
            "agrees": (top == following).cpu().numpy(),
            "shuffled_agrees": (top == following.roll(len(top) // 2)).cpu().numpy(),
        }
        parts.append(pd.DataFrame(part).assign(layer=layer, neuron=range(len(top))))
    table = pd.concat(parts, ignore_index=True)
    decoded = {i: str(lm.tokenizer.decode([i])) for i in {*table["value_token"], *table["next_token"]}}
    return table.replace({"value_token": decoded, "next_token": decoded})


def key_value_memories(lm: LM, facts: Sequence[Fact], settings: KeyValueSettings | None = None) -> pd.DataFrame:
    """Every memory with what its key looks for and what its value says: one row per layer and neuron.

    Columns: layer, neuron, sign, coefficient and trigger (the best prefix), then those of `read_values` and `annotate`.
    """
    settings = settings or KeyValueSettings()
    prefixes = prefixes_of(lm, facts)
    return describe(lm, triggers(lm, prefixes, settings), prefixes, settings)


def describe(lm: LM, found: Triggers, prefixes: Prefixes, settings: KeyValueSettings | None = None) -> pd.DataFrame:
    """Steps 2 and 3 for triggers already found; see `key_value_memories`."""
    table = read_values(lm, found, prefixes)
    best = found.places[..., 0].flatten().tolist()
    texts = {place: prefixes.text(lm, place) for place in set(best)}
    head = pd.DataFrame(
        {
            "sign": found.sign.flatten().cpu().numpy(),
            "coefficient": found.coefficients[..., 0].flatten().double().cpu().numpy(),
            "trigger": [texts[place] for place in best],
        }
    )
    patterns = annotate(found.places.flatten(0, 1), prefixes, settings)
    return pd.concat([table[["layer", "neuron"]], head, table.drop(columns=["layer", "neuron"]), patterns], axis=1)


def mutation_effects(
    lm: LM,
    prefixes: Prefixes,
    found: Triggers,
    generator: torch.Generator,
    *,
    keys: int = 40,
    examples: int = 10,
    rows: int = 1024,
) -> pd.DataFrame:
    """Relative change of the coefficient when the first, the last or a random token of a trigger is removed.

    keys: keys drawn per layer; examples: of each one's best triggers, those of at least two tokens. One row per layer,
    neuron and removed token with the mean change (-1: all of the coefficient is gone).
    """
    jobs: list[tuple[int, int, str, float, float]] = []
    mutants: list[tuple[int, ...]] = []
    for layer in range(lm.n_layers):
        for key in torch.randperm(lm.d_mlp, generator=generator)[:keys].tolist():
            sign = float(found.sign[layer, key])
            best = zip(found.places[layer, key].tolist(), found.coefficients[layer, key].tolist(), strict=True)
            usable = [(place, before) for place, before in best if int(prefixes.end[place]) > prefixes.start]
            for place, before in usable[:examples]:
                ids = prefixes.tokens(place)
                drawn = int(torch.randint(prefixes.start, len(ids), (1,), generator=generator))
                for removed, at in zip(REMOVED, (prefixes.start, len(ids) - 1, drawn), strict=True):
                    jobs.append((layer, key, removed, sign, before))
                    mutants.append(ids[:at] + ids[at + 1 :])
    table = pd.DataFrame(jobs, columns=["layer", "neuron", "removed", "sign", "before"])
    after = _last_coefficients(lm, mutants, [(layer, key) for layer, key, *_ in jobs], rows)
    table["change"] = after * table["sign"] / table["before"] - 1
    return table.groupby(["layer", "neuron", "removed"], sort=False)["change"].mean().reset_index()


@torch.no_grad()
def _last_coefficients(
    lm: LM, ids: Sequence[tuple[int, ...]], memories: Sequence[tuple[int, int]], rows: int
) -> np.ndarray:
    """The coefficient of one memory each (layer, neuron) at the last token of each text."""
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    out = np.empty(len(ids))
    rows = lm.fitting_rows(rows, max(map(len, ids), default=1), layers=lm.n_layers)
    for numbers in torch.split(torch.tensor([len(row) for row in ids]).argsort(stable=True), rows):
        batch = _batch(lm, [ids[i] for i in numbers.tolist()])
        states = lm.states(batch, sites)
        at = (torch.arange(len(batch), device=lm.device), batch.lengths - 1)
        last = torch.stack([states[site][at] for site in sites]).double().cpu().numpy()  # [layers, here, memories]
        for here, number in enumerate(numbers.tolist()):
            layer, key = memories[number]
            out[number] = last[layer, here, key]
    return out


@torch.no_grad()
def composition(lm: LM, prefixes: Prefixes, numbers: Tensor, *, rows: int = 256) -> pd.DataFrame:
    """Is a layer's top token the top token of one of its memories? One row per prefix (of ``numbers``) and layer.

    A memory says the top token of its value times its coefficient, so what it says depends on the coefficient's sign.
    ``composed``: no memory says the layer's top token; ``chance``: the share of the vocabulary that no memory says.
    """
    head = cast(Tensor, lm.arch.head.weight).detach()
    said = [(logits.argmax(1), logits.argmin(1)) for logits in (value_logits(lm, i) for i in range(lm.n_layers))]
    sites = [Site(name, layer) for layer in range(lm.n_layers) for name in ("mlp_out", "mlp_hidden")]
    parts = []
    longest = max(map(len, prefixes.ids))
    for chunk in torch.split(numbers, lm.fitting_rows(rows, longest, layers=lm.n_layers)):
        batch = _batch(lm, [prefixes.tokens(i) for i in chunk.tolist()])
        states = lm.states(batch, sites)
        at = (torch.arange(len(batch), device=lm.device), batch.lengths - 1)
        for layer, (upwards, downwards) in enumerate(said):
            top = (states[Site("mlp_out", layer)][at] @ head.T).argmax(1)
            spoken = torch.where(states[Site("mlp_hidden", layer)][at] > 0, upwards, downwards)  # [prefixes, memories]
            silent = [1 - len(set(row)) / len(head) for row in spoken.tolist()]
            new = (spoken != top[:, None]).all(1).cpu().numpy()
            parts.append(pd.DataFrame({"prefix": chunk.tolist(), "layer": layer, "composed": new, "chance": silent}))
    return pd.concat(parts, ignore_index=True)
