"""Facts planted at known places, so that a localiser can be right or wrong: the INJ benchmark of chang2023localization.

    neurons = random_site(lm, share=0.01, generator=generator)     # or layer_site(lm, 3)
    with plant(lm, fact, neurons).applied(lm) as planted:
        scores = all_localisers(planted, [fact])
    recall(scores["slimming"][0], neurons, share=0.01)

Only the value vectors of the chosen neurons are trained, on the object after the prompt, until it is memorised
(algorithm 1); everything else stays. Nothing but these weights can therefore hold the fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.detection.neurons import Neuron, by_layer, top_neurons
from paramem.detection.tuning import TuneSettings, mean_loss, tune
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.interventions import WeightDelta
from paramem.models import LM


@dataclass(frozen=True, kw_only=True)
class PlantSettings:
    """Adam at a constant rate until the loss per token falls below ``stop_below`` (the paper's 0.05)."""

    lr: float = 0.02
    steps: int = 300
    stop_below: float = 0.05

    def training(self) -> TuneSettings:
        """As settings of `tune`."""
        return TuneSettings(
            steps=self.steps,
            lr=self.lr,
            batch=1,
            warmup=0.0,
            decay=False,
            betas=(0.9, 0.999),
            stop_below=self.stop_below,
        )


def random_site(lm: LM, *, share: float, generator: np.random.Generator) -> list[Neuron]:
    """A share of all neurons, drawn over all layers together. Raises BadParameter when that is none."""
    n = round(share * lm.n_layers * lm.d_mlp)
    if not 1 <= n <= lm.n_layers * lm.d_mlp:
        raise BadParameter(f"share={share} of {lm.n_layers * lm.d_mlp} neurons is {n}: at least one is needed")
    places = generator.choice(lm.n_layers * lm.d_mlp, size=n, replace=False)
    return [divmod(int(place), lm.d_mlp) for place in sorted(places)]


def layer_site(lm: LM, layer: int) -> list[Neuron]:
    """Every neuron of one layer. Raises BadParameter."""
    if not 0 <= layer < lm.n_layers:
        raise BadParameter(f"layer={layer}: {lm.name} has layers 0 to {lm.n_layers - 1}; choose one of these.")
    return [(layer, i) for i in range(lm.d_mlp)]


def plant(lm: LM, fact: Fact, neurons: Iterable[Neuron], settings: PlantSettings | None = None) -> WeightDelta:
    """The change of these neurons' value vectors that makes the model say the object after the prompt.

    Raises BadInput when the loss does not get low enough.
    """
    settings = settings or PlantSettings()
    only: dict[str, Tensor | None] = {}
    for layer, indices in by_layer(neurons).items():
        name, weight, transposed = lm.weight(layer, "down")
        mask = torch.zeros_like(weight)
        mask[indices if transposed else (slice(None), indices)] = 1
        only[name] = mask
    batch = lm.encode([fact.prompt], [fact.object])
    delta = tune(lm, batch, settings.training(), only=only)
    with delta.applied(lm), torch.no_grad():
        loss = float(mean_loss(lm, batch))
    if loss > settings.stop_below:
        raise BadInput(
            f"{fact.prompt!r} -> {fact.object!r}: the loss is {loss:.3f} after {settings.steps} steps and should be "
            f"below {settings.stop_below}; give more steps, a higher lr or more neurons"
        )
    return delta


def plant_somewhere(
    lm: LM,
    fact: Fact,
    *,
    share: float,
    generator: np.random.Generator,
    settings: PlantSettings | None = None,
    tries: int = 10,
) -> tuple[list[Neuron], WeightDelta]:
    """A `random_site` that can hold the fact, and the fact planted there.

    A few neurons may all be silent at the prompt's tokens; then others are drawn. Raises BadInput after ``tries``.
    """
    for attempt in range(tries):
        neurons = random_site(lm, share=share, generator=generator)
        try:
            return neurons, plant(lm, fact, neurons, settings)
        except BadInput:
            if attempt == tries - 1:
                raise
    raise BadParameter(f"tries={tries}: at least one site has to be tried")


def value_change(lm: LM, delta: WeightDelta, layer: int) -> Tensor:
    """How far each neuron's value vector of a layer moves, `[d_mlp]`."""
    name, _, transposed = lm.weight(layer, "down")
    if name not in delta.parts:
        return torch.zeros(lm.d_mlp, device=lm.device)
    moved: Tensor = delta.parts[name].dense().norm(dim=1 if transposed else 0)
    return moved


def top_of_each_layer(scores: Tensor, share: float) -> list[Neuron]:
    """The best ``share`` of the neurons of every layer, at least one in each; scores (layers, d_mlp)."""
    k = max(1, round(share * scores.shape[1]))
    return [(layer, i) for layer, row in enumerate(scores) for _, i in top_neurons(row[None], k)]


def recall(scores: Tensor, truth: Iterable[Neuron], *, share: float) -> float:
    """|truth and prediction| / |truth|, where ``share`` of the neurons of each layer is predicted (section 3.1)."""
    wanted = set(truth)
    return len(wanted & set(top_of_each_layer(scores, share))) / len(wanted)


def recall_of_best(scores: Tensor, truth: Iterable[Neuron]) -> float:
    """|truth and prediction| / |truth|, where the best neurons of all layers are predicted, as many as are in truth.

    The numbers named and planted are equal then, however few they are. Raises BadParameter for an empty truth.
    """
    wanted = set(truth)
    if not wanted:
        raise BadParameter("truth is empty: there is nothing to find; give the neurons that were planted")
    return len(wanted & set(top_neurons(scores, len(wanted)))) / len(wanted)


def chance(lm: LM, *, share: float) -> float:
    """The recall of a random prediction of the same size."""
    return max(1, round(share * lm.d_mlp)) / lm.d_mlp


def favourite_layer(scores: Tensor) -> int:
    """The layer whose neurons have the largest sum of scores (layers, d_mlp)."""
    return int(scores.sum(1).argmax())


def grades(
    lm: LM, scores: dict[str, Tensor], fact: Fact, truth: Sequence[Neuron], shares: Sequence[float]
) -> pd.DataFrame:
    """One row per localiser and share: localiser, fact, share, recall, chance. Scores (1, layers, d_mlp) each."""
    rows = [
        {
            "localiser": name,
            "fact": fact.id,
            "share": share,
            "recall": recall(table[0], truth, share=share),
            "chance": chance(lm, share=share),
        }
        for name, table in scores.items()
        for share in shares
    ]
    return pd.DataFrame(rows)
