"""Counts of what `study.ask` found: our Tables 2 and 3, and shares and gains with intervals over people.

table_3(table)
gain(rows_of(table, "CT&SFT", "S3"), rows_of(table, "SFT", "S3")).above(0)
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from paramem.errors import BadInput
from paramem.evaluation.intervals import Span, clustered, clustered_share
from paramem.fusion.questions import SCENARIOS
from paramem.fusion.study import MODES


def summary(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Accuracy and the three degrees of coverage in per cent, by the keys in the order of the rows; coverage of S4,
    where the right answer has no content, is left out."""
    found = pd.DataFrame(
        {
            "accuracy": table.groupby(list(keys), sort=False)["right"].mean(),
            **{
                degree: table.assign(hit=table["cover"] == degree).groupby(list(keys), sort=False)["hit"].mean()
                for degree in ("complete", "partial", "uncover")
            },
        }
    )
    return (100 * found).round(1)


def table_2(table: pd.DataFrame) -> pd.DataFrame:
    """Our Table 2: one row a model."""
    return summary(table, ["mode"])


def table_3(table: pd.DataFrame) -> pd.DataFrame:
    """Our Table 3: scenario and measure by mode; no coverage in S4."""
    found = summary(table, ["scenario", "mode"]).stack().rename_axis(["scenario", "mode", "measure"])
    wide = pd.DataFrame(found.unstack("mode"))
    order = [(s, m) for s in SCENARIOS for m in ("accuracy", "complete", "partial", "uncover")]
    wide = wide.reindex([key for key in order if key in wide.index and (key[0] != "S4" or key[1] == "accuracy")])
    return wide[[mode for mode in MODES if mode in wide.columns]]


def rows_of(table: pd.DataFrame, mode: str, scenario: str) -> pd.DataFrame:
    """The rows of one mode in one scenario."""
    return table[(table["mode"] == mode) & (table["scenario"] == scenario)]


def share(rows: pd.DataFrame, column: str = "right") -> Span:
    """A share of questions with its 95 % interval; questions about one person may go together."""
    return clustered_share(rows[column].astype(float), list(rows["people"]))


def gain(one: pd.DataFrame, other: pd.DataFrame, column: str = "right") -> Span:
    """How much more ``one`` has than ``other``, question by question, and its 95 % interval; persons as in `share`.

    Raises BadInput where they are about different questions.
    """
    first, second = one.set_index("question"), other.set_index("question")
    if set(first.index) != set(second.index):
        raise BadInput(f"{len(first)} and {len(second)} rows are about different questions: compare like with like")
    rise = first[column].astype(float) - second[column].astype(float).reindex(first.index)
    return clustered(rise, list(first["people"]))


def by_people(table: pd.DataFrame, keys: Sequence[str], column: str = "right") -> pd.DataFrame:
    """Shares as `share` has them, tidy: the keys, mean, low, high; in the order of the rows."""
    found = [
        {**dict(zip(keys, values, strict=True)), **share(rows, column)._asdict()}
        for values, rows in table.groupby(list(keys), sort=False)
    ]
    return pd.DataFrame(found)
