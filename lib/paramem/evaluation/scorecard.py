"""The few numbers by which editors are usually told apart, side by side, with intervals over edits.

Every line names one number of `summarise` exactly: what was asked, which column was averaged. All are teacher-forced.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from paramem.evaluation.intervals import Span
from paramem.evaluation.summary import summarise

DEPARTURES = {
    "neighbours": (
        "NS is over nearby subjects that have the edit's old object (meng2022rome, section 3.3)",
        "over the data set's neighbourhood probes; in the bundled world those with the old object come first and other "
        "subjects of the relation fill up to eight",
        "five people share an object there, on average",
    ),
}

# name on the table: (group, subgroup, column)
LINES: Mapping[str, tuple[str, str, str]] = {
    "edit: new beats old (ES)": ("reliability", "edit", "preferred"),
    "edit: exact": ("reliability", "edit", "correct"),
    "paraphrase: new beats old (PS)": ("generalisation", "paraphrase", "preferred"),
    "paraphrase: exact": ("generalisation", "paraphrase", "correct"),
    "other subjects: old beats new (NS)": ("locality", "relation", "preferred"),
    "other subjects: exact": ("locality", "relation", "correct"),
    "same subject: as before": ("locality", "subject", "same"),
    "two-step consequence: exact": ("portability", "reasoning", "correct"),
}


def scorecard(frames: Mapping[str, pd.DataFrame], *, state: str = "after") -> pd.DataFrame:
    """One row per edit and line: edit, metric, mean, low, high, n (requests). ES, PS and NS as in meng2022rome,
    section 3.3.

    Lines that a data set has no probes for, or that a state does not have ("as before", before), are left out.
    """
    rows = []
    for edit, frame in frames.items():
        numbers = {m.passport.key: m for m in summarise(_comparable(frame)).metrics}
        by_place = {(k[0], k[1], k[2]): m for k, m in numbers.items() if k[3] == "teacher_forced" and k[-1] == state}
        for name, place in LINES.items():
            if place in by_place:
                found = by_place[place]
                span = {"mean": found.value, "low": found.low, "high": found.high, "n": found.passport.n_requests}
                rows.append({"edit": edit, "metric": name} | span)
    return pd.DataFrame(rows)


def difference(
    frames: Mapping[str, pd.DataFrame], metric: str, one: str, other: str, *, seed: int = 0, resamples: int = 2000
) -> Span:
    """Mean of ``one`` minus ``other`` on a line, paired by request, and its 95 % bootstrap interval over requests."""
    sides = [per_request(frames[name], metric) for name in (one, other)]
    paired = (sides[0] - sides[1]).dropna().to_numpy()
    draws = np.random.default_rng(seed).choice(paired, (resamples, len(paired))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Span(float(paired.mean()), float(low), float(high))


def per_request(frame: pd.DataFrame, metric: str) -> pd.Series:
    """A line's mean for each request after the edit, by request; requests without such probes are missing."""
    group, subgroup, column = LINES[metric]
    rows = _comparable(frame)
    rows = rows[(rows["state"] == "after") & (rows["protocol"] == "teacher_forced")]
    rows = rows[(rows["group"] == group) & (rows["subgroup"] == subgroup)]
    return rows.groupby("request", sort=True)[column].mean()


def _comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Without CounterFact's attribute prompts: right on them is the new object, so they are no neighbours."""
    return frame[frame["kind"] != "attribute_prompts"]


def wide(card: pd.DataFrame) -> pd.DataFrame:
    """Metrics as rows, edits as columns, means rounded to two decimals."""
    table = card.pivot(index="metric", columns="edit", values="mean")
    return table.reindex(index=[m for m in LINES if m in table.index], columns=list(dict.fromkeys(card["edit"]))).round(
        2
    )
