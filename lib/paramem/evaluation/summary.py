"""From the tidy table to numbers with intervals and passports."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
    Statistic(column="sentiment", level="distribution", against="rival", share=False),  # see evaluation.knowedit
    Statistic(column="leaked", level="text", against="rival"),
)
Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]
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
    only: Collection[tuple[str, str, str, str]] | None = None,
) -> Summary:
    """Means over requests for every group, state, protocol and statistic of a table of `evaluate`.

    averaging   "request" gives every request the same weight, "probe" every probe
    conditions  "applied" leaves out probes whose preconditions the unedited model does not meet
    subgroups   also a number for each subgroup ("locality/relation"), besides "all"
    interval    over requests; "auto" is Wilson's where every request's mean is 0 or 1, else the bootstrap
    only        the numbers of these (protocol, group, subgroup, column), and no others

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
    table = _Table.of(frame)
    return Summary(
        tuple(
            metric for rows, labels in _parts(frame, subgroups) for metric in _metrics(table, rows, labels, how, only)
        )
    )


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The columns of a table as arrays, taken apart once for all numbers."""

    values: Mapping[str, Numbers]
    request: Integers  # which request, by place in `hashes`
    hashes: Sequence[str]
    test: Integers  # which test, counted over the whole table; -1 for a probe of its own
    all_of: NDArray[np.bool_]  # whether the test wants all of its probes right
    first: Mapping[str, Any]  # what is the same in every row

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Table:
        request, names = pd.factorize(frame["request"], sort=True)
        hashes = dict(zip(frame["request"], frame["request_hash"], strict=True))
        marks = frame["test"].where(frame["test"] != "")
        test = frame.assign(mark=marks).groupby(["request", "mark"], sort=True, dropna=True).ngroup()
        return cls(
            values={s.column: frame[s.column].to_numpy(np.float64) for s in STATISTICS if s.column in frame},
            request=request,
            hashes=[hashes[name] for name in names],
            test=np.where(marks.isna(), -1, test).astype(np.int64),
            all_of=frame["test"].str.endswith("/AND").to_numpy(bool),
            first={str(name): value for name, value in frame.iloc[0].items()},
        )


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


def _parts(frame: pd.DataFrame, subgroups: bool) -> Iterator[tuple[Integers, dict[str, str]]]:
    """(row numbers, labels) for every state, protocol and group, in the table's order."""
    names = ("state", "protocol", "group")
    places: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for row, (*key, subgroup) in enumerate(zip(*(frame[name].tolist() for name in (*names, "subgroup")), strict=True)):
        places.setdefault(tuple(map(str, key)), {}).setdefault(str(subgroup), []).append(row)
    for key, parts in places.items():
        labels = dict(zip(names, key, strict=True))
        yield np.array(sorted(row for rows in parts.values() for row in rows)), labels | {"subgroup": "all"}
        for subgroup in sorted(parts) if subgroups else ():
            yield np.array(parts[subgroup]), labels | {"subgroup": subgroup}


def _metrics(
    table: _Table,
    rows: Integers,
    labels: dict[str, str],
    how: _How,
    only: Collection[tuple[str, str, str, str]] | None,
) -> Iterator[Metric]:
    place = labels["protocol"], labels["group"], labels["subgroup"]
    for statistic in STATISTICS:
        if statistic.column in table.values and (only is None or (*place, statistic.column) in only):
            known = rows[~np.isnan(table.values[statistic.column][rows])]
            if len(known):
                yield _metric(table, known, statistic, labels, how)


def _metric(table: _Table, rows: Integers, statistic: Statistic, labels: dict[str, str], how: _How) -> Metric:
    values, requests = _tests_as_one(table, rows, statistic.column)
    present, places, sizes = np.unique(requests, return_inverse=True, return_counts=True)
    means = np.bincount(places, weights=values) / sizes
    weights = sizes if how.averaging == "probe" else np.ones_like(sizes)
    low, high = _interval(means, weights, statistic, how)
    first = table.first
    passport = Passport(
        **labels,
        statistic=statistic.column,
        level=statistic.level,
        against=statistic.against,
        averaging=how.averaging,
        conditions=how.conditions,
        model=str(first["model"]),
        model_hash=str(first["model_hash"]),
        data_hash=data_hash(table.hashes[request] for request in present),
        n_requests=len(means),
        n_probes=int(sizes.sum()),
        seeds=(int(first["seed"]), how.seed),
        interval=how.interval,
        confidence=how.confidence,
        edit=str(first["edit"]),
    )
    return Metric(value=float((means * weights).sum() / weights.sum()), low=low, high=high, passport=passport)


def _tests_as_one(table: _Table, rows: Integers, column: str) -> tuple[Numbers, Integers]:
    """(values, requests), in which the probes of one test are one value: the best for "OR", the worst for "AND"."""
    values, requests, tests = table.values[column][rows], table.request[rows], table.test[rows]
    single = tests < 0
    if single.all():
        return values, requests
    kept, owners = [values[single]], [requests[single]]
    for test in np.unique(tests[~single]):
        inside = tests == test
        best = values[inside].min() if table.all_of[rows][inside].all() else values[inside].max()
        kept.append(np.array([best]))
        owners.append(requests[inside][:1])
    return np.concatenate(kept), np.concatenate(owners)


def _interval(means: Numbers, weights: Integers, statistic: Statistic, how: _How) -> Interval:
    shares = statistic.share and bool(np.isin(means, (0.0, 1.0)).all()) and bool((weights == weights[0]).all())
    if how.interval == "wilson" or (how.interval == "auto" and shares):
        if not shares:
            raise BadInput(
                "Wilson's interval is for shares: here a request's mean lies between 0 and 1, or requests weigh "
                "differently; use interval='bootstrap'"
            )
        return wilson(float(means.sum()), len(means), how.confidence)
    generator = np.random.default_rng(how.seed)
    return bootstrap(
        means, generator, weights=weights.astype(np.float64), confidence=how.confidence, resamples=how.resamples
    )
