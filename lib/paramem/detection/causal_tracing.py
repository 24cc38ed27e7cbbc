r"""Causal tracing: which hidden states carry a fact from the subject to the answer (meng2022rome, section 2).

Three kinds of run of one prompt (section 2.1):

1. clean: the prompt as it is, all states recorded;
2. corrupted: Gaussian noise on the embeddings of the subject's tokens (``corrupt``), so that the answer is lost;
3. corrupted with restoration: the same, with the state of one token at one layer put back to its clean value
   (``restored_probability``). What comes back of the answer's probability is that state's indirect effect.

Two variants: MLPs or attention can be severed from the path, that is, held at the restored token as the corrupted run
left them (``hold``; section 2.2, Figure 3), and the relation's tokens can be corrupted in the place of the subject's
(wei2024localization).

=========================  =======================  =====================================================
paper                      code                     shape, unit
=========================  =======================  =====================================================
h_i^(l), clean             ``Runs.clean[l][i]``     (d_model,), after block l; for modules, what they add
h_i*^(l), corrupted        ``Runs.corrupted[l+1]``  (samples, tokens, d_model); index 0 is the embedding
epsilon ~ N(0; nu)         ``noise``                (samples, corrupted tokens, d_model), sd ``noise_level``
nu                         ``noise_level``          3 x the sd of the subjects' token embeddings (footnote 4)
P[o], P_*[o]               ``clean``, ``corrupted`` probability, mean over noise samples
P_*,clean h_i^(l)[o]       ``Trace.restored``       (tokens, layers)
IE                         ``indirect_effect``      (tokens, layers)
=========================  =======================  =====================================================

Cells share what they have in common: a restored state changes nothing in the layers below it, so all cells of a
layer start from the corrupted states recorded there; tokens in front of the first corrupted one are as in the clean
run, so restoring them is the corrupted run itself; windows cut off at the bottom or the top of the model to the same
layers are computed once; and a restored MLP output only adds to its block's output, so the lowest MLP of a window
needs no run of its block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.corruption import (
    SplitSubject,
    corrupt,
    corrupted_tokens,
    embedding_std,
    relation_tokens,
    subject_noise,
    subject_tokens,
)
from paramem.detection.neurons import require_known
from paramem.detection.traces import (
    ROLES,
    DoubtfulTrace,
    Trace,
    TraceSettings,
    average_indirect_effect,
    between_effects,
    effects,
    role_effects,
    token_roles,
)
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.hooks import Blocks, Patch
from paramem.models import LM
from paramem.tokens import Batch

__all__ = [
    "ROLES",
    "DoubtfulTrace",
    "SplitSubject",
    "Trace",
    "TraceSettings",
    "average_indirect_effect",
    "between_effects",
    "causal_tracing",
    "corrupt",
    "corrupted_tokens",
    "effects",
    "embedding_std",
    "hold",
    "relation_tokens",
    "restore",
    "role_effects",
    "subject_noise",
    "subject_tokens",
    "token_roles",
    "total_effects",
    "trace",
    "trace_facts",
    "window_of",
]

DEPARTURES = {
    "answer": (
        "o is the object of the knowledge tuple",
        "o is the first token the clean run predicts, as in the authors' released code",
        "on facts that the model knows the two are the same token, and `trace_facts` refuses others",
    ),
    "window": (
        "MLP and attention are restored over windows of 10 layers of 48",
        "the window is a setting, 1 by default, and may not be wider than the model",
        "a window of 10 covers the whole of a model with 6 layers",
    ),
    "relation": (
        "the subject's tokens are corrupted; wei2024localization corrupt those of the relation",
        "with `corrupted='relation'`, every token that is not the subject's gets noise of the same standard deviation",
        "the two maps are comparable only if the noise is the same; the prompt holds nothing but subject and relation",
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The clean and the corrupted run of one prompt.

    clean[l]: what is restored in layer l, (tokens, d_model). corrupted: input of every block and output of the last,
    each (samples, tokens, d_model). held: for severed modules, and for MLPs to restore, what they add in the
    corrupted run, by site.
    """

    blocks: Blocks = field(repr=False)
    noised: tuple[int, ...]
    clean: tuple[Tensor, ...] = field(repr=False)
    corrupted: tuple[Tensor, ...] = field(repr=False)
    held: dict[Site, Tensor] = field(repr=False)


def window_of(layer: int, window: int, n_layers: int) -> range:
    """The layers restored together for the cell named ``layer``, cut off at both ends of the model."""
    return range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2))


def restore(rows: Tensor, clean: Tensor, positions: Tensor) -> Tensor:
    """Put token ``positions[c]`` of the rows of cell c back to its clean value.

    rows (cells * samples, tokens, d), clean (tokens, d), positions (cells,).
    """
    return _put(rows, clean[positions].unsqueeze(1), positions)


def hold(rows: Tensor, corrupted: Tensor, positions: Tensor) -> Tensor:
    """Keep token ``positions[c]`` of the rows of cell c as the corrupted run had it, sample by sample.

    rows (cells * samples, tokens, d), corrupted (samples, tokens, d), positions (cells,).
    """
    return _put(rows, corrupted[:, positions].transpose(0, 1), positions)


def _put(rows: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    cells = rows.view(len(positions), -1, *rows.shape[1:]).clone()
    cells[torch.arange(len(positions)), :, positions] = values
    return cells.view_as(rows)


@torch.no_grad()
def trace(
    lm: LM,
    prompt: str,
    subject: str,
    settings: TraceSettings | None = None,
    *,
    answer: str | None = None,
    noise_level: float | None = None,
) -> Trace:
    """Trace one prompt: every token, every layer.

    answer: the right object; the trace is refused when the model's most probable token does not begin it. Without it
    the most probable token is traced, whatever it is. noise_level: absolute standard deviation of the noise; by
    default ``settings.noise`` x ``embedding_std`` of this subject.
    Raises SubjectNotInPrompt, PromptTooLong, BadParameter for a window wider than the model, BadInput for a prompt
    without a relation to corrupt and for an answer that the model does not give. Warns SplitSubject, and DoubtfulTrace
    when the map can mean little (``Trace.doubt``).
    """
    if answer is not None:
        require_answer(lm, prompt, answer)
    found = _trace(lm, prompt, subject, settings or TraceSettings(), noise_level)
    if found.doubt:
        warnings.warn(found.doubt, DoubtfulTrace, stacklevel=3)
    return found


@torch.no_grad()
def require_answer(lm: LM, prompt: str, answer: str) -> None:
    """Raises BadInput, naming what the model says instead, when its most probable next token does not begin the
    answer."""
    asked = lm.encode([prompt], [answer])
    wanted = int(asked.input_ids[0][asked.target_mask[0]][0])
    said = _last_probabilities(lm, lm.blocks(lm.encode([prompt])).resid_pre[-1])[0]
    if int(said.argmax()) != wanted:
        instead = str(lm.tokenizer.decode([int(said.argmax())])).strip()
        raise BadInput(
            f"{lm.name} does not answer {prompt!r} with {answer!r} (first token: p = {said[wanted]:.3f}) but with "
            f"{instead!r} (p = {said.max():.3f}). What it does not say cannot be located; ask something that it knows."
        )


def _trace(lm: LM, prompt: str, subject: str, settings: TraceSettings, noise_level: float | None) -> Trace:
    if settings.window > lm.n_layers:
        raise BadParameter(
            f"window={settings.window}: {lm.name} has {lm.n_layers} layers, and a wider window restores all of them in "
            "every cell. Choose a smaller one; the paper's 10 of 48 layers are about a fifth of the model."
        )
    level = settings.noise * embedding_std(lm, [subject]) if noise_level is None else noise_level
    return trace_tokens(lm, prompt, subject_tokens(lm, prompt, subject), settings, level)


@torch.no_grad()
def trace_tokens(lm: LM, prompt: str, subject: range, settings: TraceSettings, noise_level: float) -> Trace:
    """Trace one prompt whose subject stands at the given tokens; windows are cut off at the ends of the model."""
    batch = lm.encode([prompt])
    noised = corrupted_tokens(lm, batch, subject, settings)
    runs = record_runs(lm, batch, noised, settings, noise_level)
    clean = _last_probabilities(lm, runs.blocks.resid_pre[-1])[0]
    answer = int(clean.argmax())
    low = float(_last_probabilities(lm, runs.corrupted[-1])[:, answer].mean())
    restored = np.full((batch.input_ids.shape[1], lm.n_layers), low)
    restored[noised[0] :] = restored_probability(lm, runs, answer, settings)
    return Trace(
        prompt=prompt,
        answer=str(lm.tokenizer.decode([answer])),
        tokens=tuple(str(lm.tokenizer.decode([i])) for i in batch.input_ids[0].tolist()),
        subject=subject,
        noised=noised,
        settings=settings,
        clean=float(clean[answer]),
        corrupted=low,
        restored=restored,
    )


def record_runs(lm: LM, batch: Batch, noised: tuple[int, ...], settings: TraceSettings, noise_level: float) -> Runs:
    """The clean run and the corrupted run, one forward each."""
    modules = [] if settings.site == "resid_post" else [Site(settings.site, layer) for layer in range(lm.n_layers)]
    with lm.hooked(capture=modules) as states:
        blocks = lm.blocks(batch)
    draws = torch.from_numpy(subject_noise(len(noised), lm.d_model, settings)).to(blocks.resid_pre[0])
    corrupted = [corrupt(blocks.resid_pre[0], noised, noise_level * draws)]
    with lm.hooked(capture=[Site(kind, layer) for kind in settings.held for layer in range(lm.n_layers)]) as held:
        for layer in range(lm.n_layers):
            corrupted.append(blocks.forward(corrupted[-1], layer, layer + 1))
    return Runs(
        blocks=blocks,
        noised=noised,
        clean=tuple(states[site][0] for site in modules) or tuple(h[0] for h in blocks.resid_pre[1:]),
        corrupted=tuple(corrupted),
        held=dict(held),
    )


def restored_probability(lm: LM, runs: Runs, answer: int, settings: TraceSettings) -> np.ndarray:
    """P_*,clean h_i^(l)[o] for every layer and every token from the first corrupted one on: (tokens - first,
    layers)."""
    positions = torch.arange(runs.noised[0], len(runs.clean[0]), device=runs.clean[0].device)
    rows = lm.fitting_rows(settings.rows, len(runs.clean[0]))
    chunks = torch.split(positions, max(1, rows // settings.samples))
    windows = [window_of(layer, settings.window, lm.n_layers) for layer in range(lm.n_layers)]
    columns = {
        window: torch.cat([_cells(lm, runs, window, chunk, settings)[..., answer] for chunk in chunks])
        for window in dict.fromkeys(windows)
    }
    return torch.stack([columns[window].mean(1) for window in windows], 1).double().cpu().numpy()


def _cells(lm: LM, runs: Runs, window: range, positions: Tensor, settings: TraceSettings) -> Tensor:
    """Next-token probabilities (cells, samples, vocabulary) with the window restored at each position, one cell a
    position."""
    n, samples = len(positions), runs.corrupted[0].shape[0]

    def restorer(layer: int) -> Callable[[Tensor], Tensor]:
        return lambda rows: restore(rows, runs.clean[layer], positions)

    def holder(site: Site) -> Callable[[Tensor], Tensor]:
        return lambda rows: hold(rows, runs.held[site], positions)

    patch: dict[Site, Patch]
    if settings.site == "resid_post":
        start = window.start + 1
        hidden = restorer(window.start)(runs.corrupted[start].repeat(n, 1, 1))
        # Below the restored state the severed modules are what they were in the corrupted run anyway.
        patch = {site: holder(site) for site in runs.held if site.layer >= start}
    elif settings.site == "mlp_out":
        start = window.start + 1
        added = runs.clean[window.start] - runs.held[Site("mlp_out", window.start)]
        values = (runs.corrupted[start] + added)[:, positions].transpose(0, 1)
        hidden = _put(runs.corrupted[start].repeat(n, 1, 1), values, positions)
        patch = {Site("mlp_out", layer): restorer(layer) for layer in window if layer >= start}
    else:
        start, patch = window.start, {Site(settings.site, layer): restorer(layer) for layer in window}
        hidden = runs.corrupted[start].repeat(n, 1, 1)
    hidden = runs.blocks.forward(hidden, start, patch=patch)
    return _last_probabilities(lm, hidden).view(n, samples, -1)


def _last_probabilities(lm: LM, hidden: Tensor) -> Tensor:
    return lm.unembed(hidden[:, -1]).softmax(-1)


def trace_facts(
    lm: LM, facts: Iterable[Fact], settings: TraceSettings | None = None, *, noise_level: float | None = None
) -> list[Trace]:
    """Trace many facts with one noise level: by default ``settings.noise`` x the sd over all their
    subjects' embeddings.

    Raises BadInput for facts that the model does not know: there is no answer that could come back.
    """
    settings, facts = settings or TraceSettings(), list(facts)
    require_known(lm, facts)
    level = settings.noise * embedding_std(lm, [f.subject for f in facts]) if noise_level is None else noise_level
    return [_trace(lm, fact.prompt, fact.subject, settings, level) for fact in facts]


@torch.no_grad()
def total_effects(
    lm: LM, facts: Iterable[Fact], settings: TraceSettings | None = None, *, noise_level: float | None = None
) -> np.ndarray:
    """TE of each fact without the map: P[o] - P_*[o], (facts,); the same noise as in `trace_facts`.

    Raises BadInput for facts that the model does not know.
    """
    settings, facts = settings or TraceSettings(), list(facts)
    require_known(lm, facts)
    level = settings.noise * embedding_std(lm, [f.subject for f in facts]) if noise_level is None else noise_level
    found = []
    for fact in facts:
        batch = lm.encode([fact.prompt])
        noised = corrupted_tokens(lm, batch, subject_tokens(lm, fact.prompt, fact.subject), settings)
        runs = record_runs(lm, batch, noised, settings, level)
        clean = _last_probabilities(lm, runs.blocks.resid_pre[-1])[0]
        low = _last_probabilities(lm, runs.corrupted[-1])[:, clean.argmax()].mean()
        found.append(float(clean.max() - low))
    return np.array(found)


def causal_tracing(lm: LM, facts: Iterable[Fact], settings: TraceSettings | None = None) -> pd.DataFrame:
    """The indirect effect of every state of every fact as tidy rows: fact (its id), site, token, role, layer,
    indirect_effect; and clean, corrupted: the answer's probability in these two runs of the fact."""
    facts = list(facts)
    frames = [
        found.frame().assign(fact=fact.id, site=found.settings.site, clean=found.clean, corrupted=found.corrupted)
        for fact, found in zip(facts, trace_facts(lm, facts, settings), strict=True)
    ]
    named = ["fact", "site", "token", "role", "layer"]
    return pd.concat(frames, ignore_index=True)[[*named, "indirect_effect", "clean", "corrupted"]]
