"""From the tidy table to numbers with intervals and passports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from paramem.errors import BadInput, BadParameter
from paramem.evaluation.intervals import Interval, bootstrap, wilson
from paramem.evaluation.passport import Metric, Passport
from paramem.evaluation.plan import data_hash


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A column of the table, and what its mean means; only `shares` can have Wilson's interval."""

    column: str
    level: str
    against: str
    share: bool = True


STATISTICS = (
    Statistic(column="correct", level="sequence", against="target"),
    Statistic(column="token_accuracy", level="token", against="target"),
    Statistic(column="same", level="sequence", against="own answer"),
    Statistic(column="token_same", level="token", against="own answer"),
    Statistic(column="preferred", level="sequence", against="rival"),  # efficacy score, meng2022rome
    Statistic(column="margin", level="sequence", against="rival", share=False),  # efficacy magnitude, meng2022rome
    Statistic(column="kl", level="distribution", against="own answer", share=False),
    Statistic(column="entropy", level="text", against="nothing", share=False),
)
IntervalKind = Literal["auto", "wilson", "bootstrap"]
_ALLOWED = {
    "averaging": ("request", "probe"),
    "conditions": ("ignored", "applied"),
    "interval": ("auto", "wilson", "bootstrap"),
}


@dataclass(frozen=True, kw_only=True)
class _How:
    """The settings of `summarise`."""

    averaging: str
    conditions: str
    interval: str
    confidence: float
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if (value := getattr(self, name)) not in allowed:
                raise BadParameter(f"{name} is {value!r}; it is one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Summary:
    """Numbers with passports."""

    metrics: tuple[Metric, ...]

    def select(self, group: str | None = None, **fields: object) -> Summary:
        """The numbers whose passports have these values; raises BadInput when there is none."""
        wanted = fields if group is None else {"group": group, **fields}
        unknown = sorted(set(wanted) - set(Passport.__dataclass_fields__))
        if unknown:
            raise BadParameter(f"a passport has no field {unknown[0]!r}")
        found = tuple(m for m in self.metrics if all(getattr(m.passport, name) == v for name, v in wanted.items()))
        if not found:
            raise BadInput(f"no number has {wanted}; there are:\n" + "\n".join(map(str, self.metrics[:20])))
        return Summary(found)

    def metric(self, group: str, *, subgroup: str = "all", state: str = "after", **fields: object) -> Metric:
        """The one number that fits; raises BadInput, listing them, when several do."""
        found = self.select(group, subgroup=subgroup, state=state, **fields).metrics
        if len(found) > 1:
            raise BadInput(
                f"{len(found)} numbers fit; say which protocol, level, against or statistic:\n"
                + "\n".join(map(str, found))
            )
        return found[0]

    def frame(self) -> pd.DataFrame:
        """One row per number, the passport's fields as columns."""
        return pd.DataFrame([metric.as_dict() for metric in self.metrics])


def summarise(
    frame: pd.DataFrame,
    *,
    averaging: Literal["request", "probe"] = "request",
    conditions: Literal["ignored", "applied"] = "ignored",
    subgroups: bool = True,
    interval: IntervalKind = "auto",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Means over requests for every group, state, protocol and statistic of a table of `evaluate`.

    averaging   "request" gives every request the same weight, "probe" every probe
    conditions  "applied" leaves out probes whose preconditions the unedited model does not meet
    subgroups   also a number for each subgroup ("locality/relation"), besides "all"
    interval    over requests; "auto" is Wilson's where every request's mean is 0 or 1, else the bootstrap

    Probes that form one test (RippleEdits) count once. Raises BadInput for a table of several models or edits: the mean
    of two models is no number of either.
    """
    how = _How(
        averaging=averaging,
        conditions=conditions,
        interval=interval,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    _check(frame)
    if conditions == "applied":
        frame = frame[frame["eligible"].astype(bool)]
    parts = _parts(frame, subgroups)
    return Summary(tuple(metric for part, labels in parts for metric in _metrics(part, labels, how)))


def _check(frame: pd.DataFrame) -> None:
    if frame.empty:
        raise BadInput("the table is empty")
    for column in ("model_hash", "edit"):
        found = frame[column].unique()
        if len(found) > 1:
            shown = ", ".join(str(value)[:12] for value in found)
            raise BadInput(f"the table holds {len(found)} values of {column} ({shown}); summarise each on its own")
    keys = ["request", "state", "group", "subgroup", "probe", "protocol"]
    if frame.duplicated(keys).any():
        raise BadInput("the table holds some probes twice (before-rows of several calls?); drop_duplicates() first")


def _parts(frame: pd.DataFrame, subgroups: bool) -> Iterator[tuple[pd.DataFrame, dict[str, str]]]:
    """(rows, labels) for every state, protocol and group, in the table's order."""
    by = ["state", "protocol", "group"]
    for (state, protocol, group), part in frame.groupby(by, sort=False):
        labels = {"state": str(state), "protocol": str(protocol), "group": str(group)}
        yield part, labels | {"subgroup": "all"}
        if subgroups:
            for subgroup, inner in part.groupby("subgroup", sort=True):
                yield inner, labels | {"subgroup": str(subgroup)}


def _metrics(part: pd.DataFrame, labels: dict[str, str], how: _How) -> Iterator[Metric]:
    for statistic in STATISTICS:
        if statistic.column not in part:
            continue
        rows = part[part[statistic.column].notna()]
        if not rows.empty:
            yield _metric(rows, statistic, labels, how)


def _metric(rows: pd.DataFrame, statistic: Statistic, labels: dict[str, str], how: _How) -> Metric:
    values = _tests_as_one(rows, statistic.column)
    grouped = values.groupby("request", sort=True)["value"]
    means, sizes = grouped.mean().to_numpy(), grouped.size().to_numpy()
    weights = sizes if how.averaging == "probe" else np.ones_like(sizes)
    low, high = _interval(means, weights, statistic, how)
    first = rows.iloc[0]
    passport = Passport(
        **labels,
        statistic=statistic.column,
        level=statistic.level,
        against=statistic.against,
        averaging=how.averaging,
        conditions=how.conditions,
        model=str(first["model"]),
        model_hash=str(first["model_hash"]),
        data_hash=data_hash(rows["request_hash"]),
        n_requests=len(means),
        n_probes=int(sizes.sum()),
        seeds=(int(first["seed"]), how.seed),
        interval=how.interval,
        confidence=how.confidence,
        edit=str(first["edit"]),
    )
    return Metric(value=float((means * weights).sum() / weights.sum()), low=low, high=high, passport=passport)


def _tests_as_one(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Probes of one test become one value: the best for "OR", the worst for "AND"."""
    plain = rows.loc[rows["test"] == "", ["request", column]].rename(columns={column: "value"})
    tests = rows[rows["test"] != ""]
    if tests.empty:
        return plain
    joined = []
    for (request, test), part in tests.groupby(["request", "test"], sort=True):
        best = part[column].min() if str(test).endswith("/AND") else part[column].max()
        joined.append({"request": request, "value": best})
    return pd.concat([plain, pd.DataFrame(joined)], ignore_index=True)


def _interval(means: np.ndarray, weights: np.ndarray, statistic: Statistic, how: _How) -> Interval:
    shares = statistic.share and bool(np.isin(means, (0.0, 1.0)).all()) and bool((weights == weights[0]).all())
    if how.interval == "wilson" or (how.interval == "auto" and shares):
        if not shares:
            raise BadInput(
                "Wilson's interval is for shares: here a request's mean lies between 0 and 1, or requests weigh "
                "differently; use interval='bootstrap'"
            )
        return wilson(float(means.sum()), len(means), how.confidence)
    generator = np.random.default_rng(how.seed)
    return bootstrap(means, generator, weights=weights, confidence=how.confidence, resamples=how.resamples)
