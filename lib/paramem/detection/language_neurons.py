r"""Language-specific neurons: those whose activation probability has low entropy over languages (tang2024language).

1. ``activation_probability``: at which share of a language's tokens a neuron is active, that is, the output of the
   MLP's activation function is above zero (in gated MLPs: the gate's);
2. ``lape``: the entropy of these probabilities over languages, after they are divided by their sum;
3. ``select``: of the neurons that are often active in at least one language, those of lowest entropy; a language owns
   the ones that are often active in it;
4. ``deactivation``: what texts or answers of each language lose when a language's neurons are held at zero;
5. ``steering``: the neurons of one language at zero, those of another at their mean in texts of that language.

=========================  ==============================  ==================================
paper                      code                            shape, unit
=========================  ==============================  ==================================
p_{i,j}^k                  ``activation_probability``      (layers, d_mlp), one language k
LAPE_{i,j}                 ``lape(probabilities)``         (layers, d_mlp), nats
threshold on p             ``Settings.frequent``, ``own``  quantiles of all probabilities
lowest percentile of LAPE  ``Settings.share``              share of all neurons
=========================  ==============================  ==================================

The definitions are those of the abstract and of the authors' released code (identify.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.arch import HookPoint, Site
from paramem.detection.neurons import ask_prompts, at_a_time
from paramem.errors import BadInput, BadParameter
from paramem.hooks import attach
from paramem.interventions import Intervention, NeuronPatch
from paramem.interventions.neurons import Neuron, by_layer
from paramem.lm import log_probs
from paramem.models import LM

DEPARTURES = {
    "tokens": (
        "activations are counted at every token of Wikipedia text, packed to the model's context length",
        "at every token of separate statements, the start token left out",
        "the start token is the same in all languages, and a statement is all there is",
    ),
    "languages": (
        "six or seven languages",
        "any number, two in the bundled testbeds",
        "with two languages the entropy is a function of the ratio of two probabilities alone, and the neurons above "
        "the 0.95 quantile in either are at most a tenth of all: the lowest entropies are sought among few",
    ),
    "harm": (
        "perplexity on held-out text, one average a language",
        "mean log-probability of statements, and of answers, paired with the same fact in the other language",
        "differences by fact have intervals",
    ),
    "activating": (
        "the abstract speaks of activating neurons and does not say to which value",
        "they are set to their mean over the tokens of that language's texts",
        "the mean is the one value that the texts themselves give",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LanguageNeuronSettings:
    """share: of all neurons, how many are language-specific at most.

    frequent: a neuron counts if in some language its probability is above this quantile of all probabilities. own: a
    selected neuron is a language's own if its probability there is above this quantile. rows: most texts in a forward.
    """

    share: float = 0.01
    frequent: float = 0.95
    own: float = 0.95
    rows: int = 256

    def __post_init__(self) -> None:
        for name in ("share", "frequent", "own"):
            if not 0 < getattr(self, name) < 1:
                raise BadParameter(f"{name}={getattr(self, name)}: a share between 0 and 1 is wanted")
        if self.rows < 1:
            raise BadParameter(f"rows={self.rows}: at least one text goes through the model at once")


@contextmanager
def _activations(lm: LM) -> Iterator[dict[int, Tensor]]:
    """What the activation function is given in each layer, `[B, T, d_mlp]`; positive exactly where its output is."""
    role = "gate" if "gate" in lm.arch.layout.weights else "up"
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> None:
        def visit(state: Tensor) -> None:
            states[layer] = state

        point = HookPoint(lm.arch.linear(layer, role), "output")
        stack.callback(attach(point, visit, reads_only=True).remove)

    with ExitStack() as stack:
        for layer in range(lm.n_layers):
            keep(layer)
        yield states


@torch.no_grad()
def _over_tokens(lm: LM, texts: Sequence[str], rows: int, what: Literal["active", "hidden"]) -> Tensor:
    """Mean over tokens, the start token left out, of 1[active] or of the hidden state (layers, d_mlp), float64."""
    if not texts:
        raise BadInput("no texts: a probability is a share of at least one token")
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    total, tokens = torch.zeros(lm.n_layers, lm.d_mlp, dtype=torch.float64, device=lm.device), 0
    every = lm.encode(list(texts))
    for index in at_a_time(lm, every, rows):
        batch = every.rows(index)
        real = batch.attention_mask.bool()
        real[:, 0] &= ~torch.isin(batch.input_ids[:, 0], torch.tensor(lm.tokenizer.all_special_ids, device=lm.device))
        with _activations(lm) as given:
            hidden = lm.states(batch, sites)
        for layer, site in enumerate(sites):
            state = given[layer] > 0 if what == "active" else hidden[site]
            total[layer] += state[real].double().sum(0)
        tokens += int(real.sum())
    if not tokens:
        raise BadInput(f"the {len(texts)} texts hold no tokens but special ones: give some words")
    return total / tokens


def activation_probability(lm: LM, texts: Sequence[str], settings: LanguageNeuronSettings | None = None) -> Tensor:
    """p^k of every neuron for the language of the texts: the share of tokens at which it is active (layers, d_mlp).

    Raises BadInput without texts.
    """
    return _over_tokens(lm, texts, (settings or LanguageNeuronSettings()).rows, "active")


def mean_activation(lm: LM, texts: Sequence[str], settings: LanguageNeuronSettings | None = None) -> Tensor:
    """Mean of ``mlp_hidden`` over the tokens of the texts (layers, d_mlp). Raises BadInput without texts."""
    return _over_tokens(lm, texts, (settings or LanguageNeuronSettings()).rows, "hidden")


def lape(probabilities: Tensor) -> Tensor:
    """Entropy over languages of (..., languages) after division by their sum: 0 (one language) to log(languages).

    A neuron that is never active tells no language from another: it gets the largest entropy.
    """
    total = probabilities.sum(-1, keepdim=True)
    uniform = torch.full_like(probabilities, 1 / probabilities.shape[-1])
    found: Tensor = torch.special.entr(torch.where(total > 0, probabilities / total, uniform)).sum(-1)
    return found


def quantile(probabilities: Tensor, share: float) -> float:
    """The smallest value that at least ``share`` of all numbers do not exceed."""
    flat = probabilities.flatten()
    return float(flat.kthvalue(max(1, round(len(flat) * share))).values)


def select(probabilities: Tensor, settings: LanguageNeuronSettings | None = None) -> Tensor:
    """Which neurons (layers, d_mlp, languages) are a language's own; a neuron can be that of several languages.

    probabilities: (layers, d_mlp, languages). Of the frequent neurons the ``share`` of all neurons with the lowest
    entropy is taken; ties by layer and index.
    """
    settings = settings or LanguageNeuronSettings()
    frequent = (probabilities > quantile(probabilities, settings.frequent)).any(-1)
    entropy = torch.where(frequent, lape(probabilities), torch.inf).flatten()
    lowest = entropy.argsort(stable=True)[: round(len(entropy) * settings.share)]
    chosen = torch.zeros_like(entropy, dtype=torch.bool)
    chosen[lowest] = entropy[lowest].isfinite()
    own = probabilities > quantile(probabilities, settings.own)
    return chosen.view(frequent.shape)[..., None] & own


def language_neurons(
    lm: LM, texts_by_language: Mapping[str, Sequence[str]], settings: LanguageNeuronSettings | None = None
) -> pd.DataFrame:
    """One row per neuron and language: layer, neuron, language, probability, entropy (nats), own.

    Raises BadInput for fewer than two languages, or a language without texts.
    """
    settings = settings or LanguageNeuronSettings()
    languages = sorted(texts_by_language)
    if len(languages) < 2:
        raise BadInput(f"texts of {languages}: a neuron is specific to a language only beside another one")
    for language in languages:
        if not texts_by_language[language]:
            raise BadInput(f"no texts in {language!r}: give some of every language")
    p = torch.stack([activation_probability(lm, texts_by_language[each], settings) for each in languages], -1).cpu()
    layers, neurons, names = np.indices(p.shape).reshape(3, -1)
    return pd.DataFrame(
        {
            "layer": layers,
            "neuron": neurons,
            "language": [languages[i] for i in names],
            "probability": p.flatten().numpy(),
            "entropy": lape(p).flatten().repeat_interleave(len(languages)).numpy(),
            "own": select(p, settings).flatten().numpy(),
        }
    )


def neurons_of(frame: pd.DataFrame, language: str) -> list[Neuron]:
    """The language's own neurons in what `language_neurons` found, by layer and index."""
    rows = frame[frame["own"] & (frame["language"] == language)]
    return sorted(zip(rows["layer"].tolist(), rows["neuron"].tolist(), strict=True))


def reselected(frame: pd.DataFrame, settings: LanguageNeuronSettings) -> pd.DataFrame:
    """The same table with ``own`` under other thresholds; nothing is run again."""
    shape = (frame["layer"].nunique(), frame["neuron"].nunique(), frame["language"].nunique())
    ordered = frame.sort_values(["layer", "neuron", "language"], kind="stable")
    p = torch.from_numpy(ordered["probability"].to_numpy(copy=True)).view(shape)
    return ordered.assign(own=select(p, settings).flatten().numpy())


@torch.no_grad()
def text_logprob(lm: LM, texts: Sequence[str], *, rows: int = 256) -> Tensor:
    """Mean log-probability a token (nats) of each text `[texts]`, from its second token on: minus log perplexity."""
    every, parts = lm.encode(list(texts)), []
    for index in at_a_time(lm, every, rows, layers=1, everywhere=True):
        batch = every.rows(index)
        said = log_probs(lm.logits(batch)[:, :-1]).gather(2, batch.input_ids[:, 1:, None])[..., 0]
        real = batch.attention_mask[:, 1:].to(said)
        parts.append((said * real).sum(1) / real.sum(1))
    return torch.cat(parts)


def deactivation(
    lm: LM,
    items: Mapping[str, Sequence[tuple[str, str]]],
    sets: Mapping[str, Sequence[Sequence[Neuron]]],
    *,
    measure: Literal["text", "answer"] = "text",
    rows: int = 256,
) -> pd.DataFrame:
    """What each item loses with a set of neurons at zero: item, language, neurons, drop (nats).

    items: language -> (prompt, answer), the same facts in the same order. sets: name -> sets of neurons; the drop is
    the mean over the sets of a name (several random draws). measure: log-probability of the answer, or the mean of
    all tokens of prompt and answer.
    """
    frames = []
    for language, pairs in items.items():
        whole = _logprob(lm, pairs, measure, rows)
        for name, draws in sets.items():
            drops = []
            for neurons in draws:
                with NeuronPatch.at(neurons).applied(lm) as without:
                    drops.append(whole - _logprob(without, pairs, measure, rows))
            drop = torch.stack(drops).double().mean(0).tolist()
            frames.append(
                pd.DataFrame({"item": range(len(pairs)), "language": language, "neurons": name, "drop": drop})
            )
    return pd.concat(frames, ignore_index=True)


def _logprob(lm: LM, pairs: Sequence[tuple[str, str]], measure: str, rows: int) -> Tensor:
    if measure == "text":
        return text_logprob(lm, [f"{prompt} {answer}" for prompt, answer in pairs], rows=rows)
    prompts, answers = zip(*pairs, strict=True)
    longest = lm.encode(prompts, answers).input_ids.shape[1]
    return lm.score(prompts, answers, batch_size=lm.fitting_rows(rows, longest, read=longest)).logprob


def steering(off: Sequence[Neuron], on: Sequence[Neuron], level: Tensor) -> Intervention:
    """Neurons ``off`` at zero and neurons ``on`` at their ``level`` (layers, d_mlp), at every token.

    A neuron of both is switched on. Raises BadParameter when there is nothing to change.
    """
    kept = sorted(set(off) - set(on))
    indices = by_layer(on)
    values = {layer: level[layer, found] for layer, found in indices.items()}
    parts = ([NeuronPatch.at(kept)] if kept else []) + ([NeuronPatch(neurons=indices, values=values)] if on else [])
    if not parts:
        raise BadParameter("no neurons to switch off or on: the languages own none; take a larger share")
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def preference(lm: LM, prompts: Sequence[str], words: Sequence[str], others: Sequence[str]) -> Tensor:
    """log p(word) - log p(other word) of what comes after each prompt, by the words' first tokens `[prompts]`, nats."""
    first, second = (ask_prompts(lm, prompts, said).answers for said in (words, others))
    said = lm.next_logprobs(prompts)
    return (said.gather(1, first[:, None]) - said.gather(1, second[:, None]))[:, 0]
