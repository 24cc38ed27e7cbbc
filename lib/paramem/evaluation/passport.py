"""A number and how it came about; numbers that came about differently do not enter one table.

"Locality" alone has been four different things within one library. Here every summarised number carries its protocol,
level, reference, averaging order, model, data, seeds, interval and counts, and `compare` refuses to put numbers side by
side whose passports differ in anything but what is being compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from paramem.errors import BadInput, BadParameter, PassportMismatch

if TYPE_CHECKING:
    from paramem.evaluation.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Passport:
    """How a number came about.

    group, subgroup  what was asked: "locality", "relation"; "all" for every subgroup of the group
    statistic  the column that was averaged
    protocol   "teacher_forced" (the target's tokens are fed) or "generated" (the model answers freely)
    level      "token" (share of right tokens), "sequence" (all of them or nothing), "distribution" or "text"
    against    what it was compared with: "target", "own answer" of the unedited model, "rival" object, or "nothing"
    state      "before" or "after" the edit
    averaging  "request": probes within a request, then requests; "probe": all probes at once
    conditions "ignored", or "applied": only probes whose preconditions the unedited model meets
    model_hash, data_hash  of the unedited model's weights, and of the requests
    seeds      of everything that was drawn: generated texts, resampling
    """

    group: str
    subgroup: str
    statistic: str
    protocol: str
    level: str
    against: str
    state: str
    averaging: str
    conditions: str
    model: str
    model_hash: str
    data_hash: str
    n_requests: int
    n_probes: int
    seeds: tuple[int, ...]
    interval: str
    confidence: float
    edit: str

    @property
    def key(self) -> tuple[str, ...]:
        """Which number this is, whatever model, data or edit it belongs to."""
        return self.group, self.subgroup, self.statistic, self.protocol, self.level, self.against, self.state

    def describe(self) -> str:
        """One line for people."""
        part = self.group if self.subgroup == "all" else f"{self.group}/{self.subgroup}"
        count = f"{self.n_requests} requests, {self.n_probes} probes"
        how = f"{self.protocol}, {self.level} level, against {self.against}, {self.state}, mean by {self.averaging}"
        return (
            f"{part} ({self.statistic}): {how}; {count}; {self.model} {self.model_hash[:8]}, data {self.data_hash[:8]}"
        )


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number, its interval over requests, and its passport."""

    value: float
    low: float
    high: float
    passport: Passport

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] {self.passport.describe()}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and tables."""
        return {"value": self.value, "low": self.low, "high": self.high} | asdict(self.passport)


_FIELDS = tuple(field.name for field in fields(Passport))


def compare(results: Mapping[str, Summary | Metric], *, may_differ: Sequence[str] = ()) -> pd.DataFrame:
    """One row per number, one column per result, and refuses to mix.

    results     name -> summary, or a single metric
    may_differ  fields of the passport that are what is being compared, besides "edit"; "model" covers its hash as well

    Raises PassportMismatch, with the field and both values, when passports differ in anything else, and when one result
    has a number that another one lacks.
    """
    unknown = sorted(set(may_differ) - set(_FIELDS))
    if unknown:
        raise BadParameter(f"a passport has no field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    if not results:
        raise BadInput("there is nothing to compare")
    free = {"edit", *may_differ} | ({"model_hash"} if "model" in may_differ else set())
    tables = {name: _numbers(result, free) for name, result in results.items()}
    first, *others = tables
    for other in others:
        _check_same_numbers(tables, first, other)
        for key, metric in tables[other].items():
            _check_passports(first, tables[first][key].passport, other, metric.passport, free)
    labels = [name for name in Passport.__dataclass_fields__ if name not in free][:9]
    rows = [
        {name: getattr(metric.passport, name) for name in labels}
        | {name: table[key].value for name, table in tables.items()}
        | {f"{name} interval": (table[key].low, table[key].high) for name, table in tables.items()}
        for key, metric in tables[first].items()
    ]
    return pd.DataFrame(rows)


def _numbers(result: Summary | Metric, free: set[str]) -> dict[tuple[str, ...], Metric]:
    """The numbers of a result by what they are; single ones are compared with each other, whatever they are."""
    if isinstance(result, Metric):
        return {("",): result}
    names = ("group", "subgroup", "statistic", "protocol", "level", "against", "state")
    kept = [index for index, name in enumerate(names) if name not in free]
    table = {tuple(metric.passport.key[index] for index in kept): metric for metric in result.metrics}
    if len(table) < len(result.metrics):
        raise BadInput(
            "one result holds several numbers that differ only in fields that may differ; select one of them"
        )
    return table


def _check_same_numbers(tables: Mapping[str, Mapping[tuple[str, ...], Metric]], first: str, other: str) -> None:
    for have, lack in ((first, other), (other, first)):
        missing = [key for key in tables[have] if key not in tables[lack]]
        if missing:
            raise PassportMismatch(
                f"{lack!r} has no number {' / '.join(missing[0])}, which {have!r} has; select what both have"
            )


def _check_passports(first: str, one: Passport, other: str, two: Passport, free: set[str]) -> None:
    for name in _FIELDS:
        left, right = getattr(one, name), getattr(two, name)
        if name not in free and left != right:
            raise PassportMismatch(
                f"{first!r} and {other!r} differ in {name}: {left!r} and {right!r} ({one.describe()}); measure both in "
                f"the same way, or, if this is what you compare, pass may_differ=({name!r},)"
            )
