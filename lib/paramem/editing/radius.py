"""What single GRACE edits do at every radius, from two evaluations.

Outside its ball an edit changes nothing, and inside it does what it does at any larger radius. So a model that is
always inside and one that never is give the whole curve, exactly:

    curve = RadiusCurve.measure(lm, requests, grace_each(lm, requests, settings), before=before)
    scorecard({radius: curve.at(radius) for radius in (0.5, 1.0, 2.0)})
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from paramem.editing.codebook import SLACK, Codebook, distances
from paramem.editing.grace import query
from paramem.evaluation import Baseline, evaluate
from paramem.facts import EditRequest
from paramem.models import LM

KEYS = ["request", "group", "subgroup", "probe", "protocol"]
VALUES = ["correct", "token_accuracy", "logprob", "mean_logprob", "rival_mean_logprob", "preferred", "margin"]
KINDS = {
    ("generalisation", "paraphrase"): "paraphrases",
    ("portability", "alias"): "alias of the subject",
    ("locality", "subject"): "same subject, other relation",
    ("locality", "relation"): "other subjects, same relation",
    ("locality", "out_of_distribution"): "other subjects and relations",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RadiusCurve:
    """The rows of `evaluate` for the unedited model and for edits of endless radius, in one order, and the distance of
    each row's prompt from the key of its edit."""

    before: pd.DataFrame
    after: pd.DataFrame
    distance: NDArray[np.float64]
    slack: NDArray[np.float64]

    @classmethod
    def measure(
        cls, lm: LM, requests: Sequence[EditRequest], books: Sequence[Codebook], *, before: Baseline
    ) -> RadiusCurve:
        """For edits of one entry each, in the order of their requests."""
        everywhere = [book.with_radius(float("inf")) for book in books]
        frame = evaluate(lm, requests, everywhere, before=before, name="GRACE").sort_values(KEYS)
        old, new = (frame[frame["state"] == state].reset_index(drop=True) for state in ("before", "after"))
        prompts = list(dict.fromkeys(new["prompt"]))
        queries = torch.cat(
            [query(lm, prompts[start : start + 512], books[0].reads) for start in range(0, len(prompts), 512)]
        )
        table = distances(queries, torch.cat([book.keys for book in books]))
        rows = new["prompt"].map({prompt: row for row, prompt in enumerate(prompts)}).to_numpy()
        columns = new["request"].map({request.id: column for column, request in enumerate(requests)}).to_numpy()
        return cls(
            before=old,
            after=new,
            distance=table.double().cpu().numpy()[rows, columns],
            slack=SLACK * queries.norm(dim=1).double().cpu().numpy()[rows],
        )

    def at(self, radius: float) -> pd.DataFrame:
        """The table that `evaluate` would give for edits of this radius."""
        outside = self.distance > radius + self.slack
        now = self.after.copy()
        for column in VALUES:
            now[column] = np.where(outside, self.before[column], self.after[column])
        for column in ("same", "token_same"):
            now[column] = np.where(outside, 1.0, self.after[column])
        both: pd.DataFrame = pd.concat([self.before, now], ignore_index=True)
        return both

    def inside(self, radii: Sequence[float]) -> pd.DataFrame:
        """Which share of an edit's prompts of each kind lies in its ball: columns request, kind, radius, inside."""
        places = zip(self.after["group"], self.after["subgroup"], strict=True)
        kinds = pd.Series([KINDS.get(place, "") for place in places])
        parts = []
        for radius in radii:
            found = pd.DataFrame({"request": self.after["request"], "kind": kinds})
            found["inside"] = (self.distance <= radius + self.slack).astype(float)
            means = found[kinds != ""].groupby(["request", "kind"], sort=True, as_index=False)["inside"].mean()
            parts.append(means.assign(radius=radius))
        shares: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return shares
