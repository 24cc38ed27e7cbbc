"""What a causal trace found: one fact's map, the roles of its tokens, and averages over facts with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from paramem.errors import BadParameter

ROLES = ("before", "subject first", "subject middle", "subject last", "first after", "further", "last")


class DoubtfulTrace(UserWarning):
    """A map that can mean little: the model hardly knew the answer, or the noise did not take it away."""


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """What is corrupted, what is restored, what is held.

    site: the whole state of a token after a block, or what its MLP or its attention adds to the residual stream.
    window: layers restored together, centred on the layer that names the cell (modules only).
    severed: modules that stay, at the restored token and in all layers, as the corrupted run left them (states only);
        both at once are not in the paper.
    corrupted: the subject's tokens, these and the next one (appendix B.4), or all others, which state the relation.
    noise: standard deviation of the corruption, in standard deviations of the subjects' token embeddings.
    rows: most rows in one forward; bounds the memory of long prompts.
    """

    site: Literal["resid_post", "mlp_out", "attn_out"] = "resid_post"
    window: int = 1
    severed: Literal["mlp_out", "attn_out", "both"] | None = None
    corrupted: Literal["subject", "subject and next", "relation"] = "subject"
    noise: float = 3.0
    samples: int = 10
    seed: int = 1
    rows: int = 1024

    def __post_init__(self) -> None:
        if self.window < 1:
            raise BadParameter(f"window={self.window}: a window spans one layer or more.")
        if self.site == "resid_post" and self.window > 1:
            raise BadParameter(
                f"window={self.window} for site {self.site!r}: a window spans one or more layers, and states are "
                "restored one layer at a time: use window=1, or site='mlp_out' or 'attn_out'."
            )
        if self.severed and self.site != "resid_post":
            raise BadParameter(
                f"severed={self.severed!r} for site {self.site!r}: modules are severed from the path of a restored "
                "state: use site='resid_post'."
            )
        if self.samples < 1 or self.noise < 0 or self.rows < 1:
            raise BadParameter(
                f"samples={self.samples}, noise={self.noise}, rows={self.rows}: at least one sample and one row, and "
                "no negative noise."
            )

    @property
    def held(self) -> tuple[str, ...]:
        """Kinds of modules whose outputs in the corrupted run are needed: the severed ones, and MLPs to restore."""
        if self.severed == "both":
            return "attn_out", "mlp_out"
        kind = "mlp_out" if self.site == "mlp_out" else self.severed
        return (kind,) if kind else ()


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One fact traced. ``restored`` (tokens, layers) holds the answer's probability after restoring each cell;
    ``subject`` and ``noised`` are the places of the subject's tokens and of those that were corrupted."""

    prompt: str
    answer: str
    tokens: tuple[str, ...]
    subject: range
    noised: tuple[int, ...]
    settings: TraceSettings
    clean: float
    corrupted: float
    restored: np.ndarray

    @property
    def total_effect(self) -> float:
        """TE = P[o] - P_*[o]."""
        return self.clean - self.corrupted

    @property
    def indirect_effect(self) -> np.ndarray:
        """IE = P_*,clean h[o] - P_*[o], (tokens, layers)."""
        return self.restored - self.corrupted

    @property
    def doubt(self) -> str:
        """Why this map can mean little, in words; empty when it was a sure answer and the noise took some of it."""
        if self.clean < 0.5:
            return (
                f"{self.prompt!r}: the model's best answer, {self.answer.strip()!r}, has p = {self.clean:.2f}. It "
                "hardly knows one, so there is little that restoring a state could bring back."
            )
        if self.total_effect <= 0:
            return (
                f"{self.prompt!r}: the noise does not lower p = {self.clean:.2f}, so nothing can come back: use more."
            )
        return ""

    @property
    def roles(self) -> list[str]:
        """The role of each token."""
        return token_roles(len(self.tokens), self.subject)

    def frame(self) -> pd.DataFrame:
        """One row per cell: token, role, layer, indirect_effect."""
        n_tokens, n_layers = self.restored.shape
        return pd.DataFrame(
            {
                "token": np.repeat(np.arange(n_tokens), n_layers),
                "role": np.repeat(self.roles, n_layers),
                "layer": np.tile(np.arange(n_layers), n_tokens),
                "indirect_effect": self.indirect_effect.ravel(),
            }
        )


def token_roles(n_tokens: int, subject: range) -> list[str]:
    """Name each position as the paper's figures do; a one-token subject is its own last token."""
    roles = ["before"] * subject.start + ["subject middle"] * len(subject) + ["further"] * (n_tokens - subject.stop)
    roles[subject.start] = "subject first"
    roles[subject.stop - 1] = "subject last"
    if subject.stop < n_tokens:
        roles[subject.stop] = "first after"
        roles[-1] = "last"
    return roles


def effects(traces: Iterable[Trace]) -> pd.DataFrame:
    """Indirect effects as tidy rows: fact, role, layer, indirect_effect (mean over the fact's tokens of that role)."""
    frames = pd.concat([t.frame().assign(fact=i) for i, t in enumerate(traces)])
    return frames.groupby(["fact", "role", "layer"])["indirect_effect"].mean().reset_index()


def average_indirect_effect(traces: Iterable[Trace]) -> pd.DataFrame:
    """AIE with 95 % normal intervals over facts: one row per (role, layer) with mean, low, high, n, in the paper's
    order."""
    groups = effects(traces).groupby(["role", "layer"])["indirect_effect"]
    table = groups.agg(mean="mean", sem="sem", n="size").reset_index()
    table["low"], table["high"] = table["mean"] - 1.96 * table["sem"], table["mean"] + 1.96 * table["sem"]
    table["role"] = pd.Categorical(table["role"], [r for r in ROLES if r in set(table["role"])], ordered=True)
    return table.drop(columns="sem").sort_values(["role", "layer"], ignore_index=True)


def role_effects(traces: Iterable[Trace], role: str) -> np.ndarray:
    """Indirect effect of each fact's tokens of a role by layer, (facts, layers), mean over the tokens of that role.

    Raises BadParameter when a fact has no such token.
    """
    rows = []
    for found in traces:
        places = [i for i, name in enumerate(found.roles) if name == role]
        if not places:
            raise BadParameter(f"role {role!r}: {found.prompt!r} has only {', '.join(dict.fromkeys(found.roles))}")
        rows.append(found.indirect_effect[places].mean(0))
    return np.array(rows)


def between_effects(traces: Iterable[Trace]) -> np.ndarray:
    """The largest indirect effect over the tokens between the subject and the prompt's last token, (facts, layers);
    nan for a fact without such a token."""
    rows = []
    for found in traces:
        between = found.indirect_effect[found.subject.stop : -1]
        rows.append(between.max(0) if len(between) else np.full(found.restored.shape[1], np.nan))
    return np.array(rows)
