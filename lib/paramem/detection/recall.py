r"""Dissecting recall: how an attribute of the subject gets to the last token (geva2023dissecting).

1. ``information_flow``: take the last token's attention edges to some tokens out of a window of layers, and see what
   the answer loses: where does information of the subject, and of the relation, reach the last token?
2. ``attributes_rate`` (in `paramem.detection.attributes`): how many attributes of the subject does a state hold?
3. ``extraction``: project what attention and MLPs write at the last token: where is the answer the first token?
   ``head_extraction`` asks it of single heads, and of what they read from the subject alone.

=============================  ========================  =====================================================
paper                          code                      shape, unit
=============================  ========================  =====================================================
attention knock-out            ``edges_to_last``         (rows, 1, queries, keys), true where taken out
k layers around the l-th       ``window_of``             layers, cut off at both ends of the model
% change of p(answer)          ``change``                share of p(answer), -1 when nothing is left
E h                            ``project``               (..., vocabulary), no norm in front
extraction event               ``extracted``             the answer is the top token of what a sublayer writes
=============================  ========================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from paramem.arch import Site
from paramem.attention import head_outputs, head_values, knocked_out, patterns
from paramem.detection.causal_tracing import window_of
from paramem.detection.neurons import Asked, at_a_time, require_known
from paramem.errors import BadParameter
from paramem.facts import Fact
from paramem.models import LM

DEPARTURES = {
    "start token": (
        "every token but the subject's and the last one is the relation's",
        "a start token that the tokenizer puts in front is blocked on its own",
        "it says nothing about the relation, and attention rests on it",
    ),
    "window": (
        "9 layers of 48 around one for edges, 10 from one on for sublayers",
        "9 of 48 of the layers, and at least one, for both",
        "the models here have six, of which either share is one layer; the notebook shows two and three as well",
    ),
}

SOURCES = ("subject", "relation", "start", "last")
POSITIONS = ("subject first", "subject last", "last")
Sublayer = Literal["mlp_out", "attn_out"]
SUBLAYERS: tuple[Sublayer, ...] = ("attn_out", "mlp_out")


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """How recall is looked at.

    window: layers changed together; 0 for the paper's share of the layers, 9 of 48, and at least one.
    top: candidates looked at for the attributes rate; 0 for as many as the subject has attributes.
    rows: most prompts in one forward.
    """

    window: int = 0
    top: int = 0
    rows: int = 256

    def __post_init__(self) -> None:
        if self.window < 0 or self.top < 0 or self.rows < 1:
            raise BadParameter(
                f"window={self.window}, top={self.top}, rows={self.rows}: a window spans one layer or more (0: the "
                "paper's share of the layers), top counts candidates (0: as many as there are attributes), and at "
                "least one row goes through the model."
            )

    def layers(self, lm: LM) -> int:
        """The window in layers of this model. Raises BadParameter when it is wider than the model."""
        if self.window > lm.n_layers:
            raise BadParameter(
                f"window={self.window} is wider than {lm.name}, which has {lm.n_layers} layers: every cell would be "
                "the whole model. Use a smaller window."
            )
        return self.window or max(1, round(lm.n_layers * 9 / 48))


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Some facts as asked, with the subject's tokens of each."""

    asked: Asked
    index: list[int]
    subjects: list[range]

    def sources(self, lm: LM) -> dict[str, Tensor]:
        """Which tokens are which: masks `[B, T]`."""
        ids, lengths = self.asked.batch.input_ids, self.asked.batch.prompt_lengths
        columns = torch.arange(ids.shape[1], device=ids.device)
        starts = torch.tensor([span.start for span in self.subjects], device=ids.device)[:, None]
        stops = torch.tensor([span.stop for span in self.subjects], device=ids.device)[:, None]
        found = {"last": columns == lengths[:, None] - 1}
        found["start"] = (columns == 0) & (ids == lm.tokenizer.bos_token_id) & (starts > 0)
        found["subject"] = (columns >= starts) & (columns < stops) & ~found["last"]
        taken = found["last"] | found["start"] | found["subject"]
        return {**found, "relation": ~taken & (columns < lengths[:, None])}

    def places(self) -> dict[str, Tensor]:
        """One token of each fact: columns `[B]`."""
        device = self.asked.answers.device
        first, last = ([span.start for span in self.subjects], [span.stop - 1 for span in self.subjects])
        return {
            "subject first": torch.tensor(first, device=device),
            "subject last": torch.tensor(last, device=device),
            "last": self.asked.batch.prompt_lengths - 1,
        }


def chunks(lm: LM, facts: Sequence[Fact], rows: int) -> Iterator[Chunk]:
    """The facts as asked, as many at a time as fit and at most ``rows``, in their order.

    Raises BadInput for facts that the model does not know, SubjectNotInPrompt.
    """
    asked = require_known(lm, facts, rows=rows)
    subjects = [lm.subject_span(fact.prompt, fact.subject) for fact in facts]
    for part in at_a_time(lm, asked.batch, rows):
        index = part.tolist()
        yield Chunk(asked=asked.rows(part), index=index, subjects=[subjects[i] for i in index])


def edges_to_last(sources: Tensor, last: Tensor) -> Tensor:
    """The edges from ``sources`` (bool `[B, T]`) to the last token (bool `[B, T]`, one a row): `[B, 1, T, T]`."""
    return (last[:, :, None] & sources[:, None, :])[:, None]


@torch.no_grad()
def information_flow(lm: LM, facts: Sequence[Fact], settings: RecallSettings | None = None) -> pd.DataFrame:
    """p(answer) with the last token's edges to the subject, the relation, the start token or itself taken out of a
    window of layers.

    Tidy rows: fact, blocked, layer (the window's centre), probability, change (relative to the model as it is). Kinds
    of tokens that a prompt does not have are left out.
    Raises BadInput for facts that the model does not know, SubjectNotInPrompt, BadParameter for a wide window.
    """
    settings = settings or RecallSettings()
    window, parts = settings.layers(lm), []
    for chunk in chunks(lm, facts, settings.rows):
        blocks = lm.blocks(chunk.asked.batch)
        clean = _answer(lm, chunk.asked, blocks.resid_pre[-1])
        sources = chunk.sources(lm)
        for kind in SOURCES:
            edges, there = edges_to_last(sources[kind], sources["last"]), sources[kind].any(1)
            for layer in range(lm.n_layers):
                layers = window_of(layer, window, lm.n_layers)
                with knocked_out(lm.arch, dict.fromkeys(layers, edges)):
                    end = blocks.forward(blocks.resid_pre[layers.start], layers.start)
                found = _answer(lm, chunk.asked, end)
                table = {"probability": found, "change": found / clean - 1}
                parts.append(rows_of(facts, chunk, table, there, blocked=kind, layer=layer))
    return in_order(parts, facts)


def _answer(lm: LM, asked: Asked, end: Tensor) -> Tensor:
    """p(answer) from the states after the last block, `[B]`."""
    rows = torch.arange(len(asked), device=end.device)
    logits = lm.unembed(end[rows, asked.batch.prompt_lengths - 1])
    return logits.softmax(-1).gather(1, asked.answers[:, None])[:, 0]


def rows_of(
    facts: Sequence[Fact], chunk: Chunk, numbers: Mapping[str, Tensor], keep: Tensor, **labels: object
) -> pd.DataFrame:
    """One row a fact of the chunk that is kept."""
    frame = pd.DataFrame({"fact": [facts[i].id for i in chunk.index], **labels})
    for name, column in numbers.items():
        frame[name] = column.cpu().numpy()
    return frame[keep.cpu().numpy()]


def in_order(parts: Sequence[pd.DataFrame], facts: Sequence[Fact]) -> pd.DataFrame:
    """One table, in the order of the facts, however they were shared out."""
    places = {fact.id: place for place, fact in enumerate(facts)}
    table = pd.concat(parts)
    return table.sort_values("fact", key=lambda names: names.map(places), kind="stable", ignore_index=True)


def project(lm: LM, hidden: Tensor) -> Tensor:
    """E h: hidden states or updates on the vocabulary, without a norm, `[..., d_model]` to `[..., V]`."""
    return F.linear(hidden, lm.arch.head.weight)  # type: ignore[arg-type]


@torch.no_grad()
def extraction(lm: LM, facts: Sequence[Fact], settings: RecallSettings | None = None) -> pd.DataFrame:
    """Whether the answer is the top token of what attention or the MLP writes at the last token, by layer.

    Tidy rows: fact, sublayer ("attn_out", "mlp_out"), layer, rank of the answer (1 for the top token), extracted.
    Raises BadInput for facts that the model does not know.
    """
    settings = settings or RecallSettings()
    parts = []
    for chunk in chunks(lm, facts, settings.rows):
        states = lm.states(chunk.asked.batch, [Site(kind, i) for kind in SUBLAYERS for i in range(lm.n_layers)])
        rows, last = torch.arange(len(chunk.index), device=lm.device), chunk.places()["last"]
        for site, state in states.items():
            place = _rank(project(lm, state[rows, last]), chunk.asked.answers)
            found = {"rank": place, "extracted": place == 1}
            parts.append(rows_of(facts, chunk, found, place > 0, sublayer=site.kind, layer=site.layer))
    return in_order(parts, facts)


def _rank(scores: Tensor, answers: Tensor) -> Tensor:
    """The answers' places, 1 for the top token: scores `[B, ..., V]`, answers `[B]`, to `[B, ...]`."""
    index = answers.view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)
    return (scores > scores.gather(-1, index)).sum(-1) + 1


@torch.no_grad()
def head_extraction(lm: LM, facts: Sequence[Fact], settings: RecallSettings | None = None) -> pd.DataFrame:
    """Whether the answer is the top token of what one head writes at the last token, all in all or read from the
    subject's tokens alone.

    Tidy rows: fact, layer, head, rank, extracted, rank_from_subject, extracted_from_subject; ranks count from 1.
    Raises BadInput for facts that the model does not know, SubjectNotInPrompt.
    """
    settings = settings or RecallSettings()
    parts = []
    for chunk in chunks(lm, facts, settings.rows):
        blocks, rows = lm.blocks(chunk.asked.batch), torch.arange(len(chunk.index), device=lm.device)
        subject, last = chunk.sources(lm)["subject"], chunk.places()["last"]
        for layer in range(lm.n_layers):
            out = head_outputs(lm.arch, layer)
            read = patterns(blocks, layer)[rows, :, last]  # [B, heads, T]
            for_head = head_values(blocks, layer)
            every, from_subject = (
                _rank(project(lm, torch.einsum("bht,bthd,hdm->bhm", each, for_head, out)), chunk.asked.answers)
                for each in (read, read * subject[:, None])
            )
            for head in range(lm.arch.n_heads):
                found = {
                    "rank": every[:, head],
                    "extracted": every[:, head] == 1,
                    "rank_from_subject": from_subject[:, head],
                    "extracted_from_subject": from_subject[:, head] == 1,
                }
                parts.append(rows_of(facts, chunk, found, every[:, head] > 0, layer=layer, head=head))
    return in_order(parts, facts)
