"""The committed results of a notebook over its testbeds, how they are counted, and what counts as a change.

`results/<notebook>.json` holds, for every claim, one row per testbed. Verdicts, means and intervals are derived from
the rows when the file is written, so that the file can be read without this library and checked with it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from paramem import files
from paramem.claims import Outcome, Value, Verdict, held_on, mean_interval, share_interval, verdict
from paramem.decisions import Decision
from paramem.errors import BadInput, Unwritable

SCHEMA = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Record):
    """One claim on one testbed. ``decided`` is false where what was measured there cannot tell."""

    holds: bool
    decided: bool = True
    measured: dict[str, Value] = {}
    note: str = ""

    @property
    def decision(self) -> Decision:
        """Its outcome: one of three."""
        return Decision(self.holds, self.decided)

    @model_validator(mode="after")
    def _what_holds_is_decided(self) -> Row:
        if self.holds and not self.decided:
            raise ValueError("it holds, and so it is decided")
        return self


class Quantity(_Record):
    """A measured number over the testbeds: mean, 95 % interval of the mean (None for one testbed), extremes."""

    mean: float
    interval: tuple[float, float] | None
    low: float
    high: float


class ClaimResult(_Record):
    """A claim over the testbeds that it is asked of: holds on ``k`` of ``n``, undecided on some of the others."""

    verdict: Verdict
    k: int
    n: int
    undecided: int = 0
    interval: tuple[float, float]
    quantities: dict[str, Quantity]
    rows: dict[str, Row]

    @classmethod
    def of(cls, rows: Mapping[str, Row]) -> ClaimResult:
        """Count the rows (testbed to row)."""
        k, n = sum(row.holds for row in rows.values()), len(rows)
        undecided = sum(not row.decided for row in rows.values())
        names = dict.fromkeys(name for row in rows.values() for name in row.measured)
        quantities = {name: each for name in names if (each := _quantity(rows, name)) is not None}
        low, high = share_interval(k, n)
        return cls(
            verdict=verdict(k, n, undecided),
            k=k,
            n=n,
            undecided=undecided,
            interval=(round(low, 4), round(high, 4)),
            quantities=quantities,
            rows=dict(rows),
        )

    def __str__(self) -> str:
        """``1 of 4, 2 undecided``."""
        return held_on(self.k, self.n, self.undecided)


def _quantity(rows: Mapping[str, Row], name: str) -> Quantity | None:
    values = [row.measured[name] for row in rows.values() if name in row.measured]
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or not numbers:
        return None
    interval = mean_interval(numbers)
    return Quantity(
        mean=round(statistics.fmean(numbers), 4),
        interval=None if interval is None else (round(interval[0], 4), round(interval[1], 4)),
        low=min(numbers),
        high=max(numbers),
    )


class NotebookResults(_Record):
    """One file of ``results/``.

    Attributes:
        notebook: its name, ``editing/rome``.
        profile: the profile that measured it.
        seconds: wall time of each testbed's run.
        versions: of python and the packages that numbers depend on.
    """

    schema_version: int = SCHEMA
    notebook: str
    profile: str
    versions: dict[str, str]
    seconds: dict[str, float]
    claims: dict[str, ClaimResult]


def aggregate(
    notebook: str,
    profile: str,
    outcomes: Mapping[str, Mapping[str, Outcome]],
    *,
    versions: Mapping[str, str],
    seconds: Mapping[str, float],
) -> NotebookResults:
    """Count the outcomes of a notebook's runs.

    Args:
        outcomes: testbed to claim id to outcome.
    """
    ids = dict.fromkeys(claim_id for found in outcomes.values() for claim_id in found)
    claims = {
        claim_id: ClaimResult.of(
            {testbed: _row(found[claim_id]) for testbed, found in outcomes.items() if claim_id in found}
        )
        for claim_id in ids
    }
    return NotebookResults(
        notebook=notebook, profile=profile, versions=dict(versions), seconds=dict(seconds), claims=claims
    )


def _row(found: Outcome) -> Row:
    return Row(holds=found.holds, decided=found.decided, measured=dict(found.measured), note=found.note)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A claim that came out otherwise than the committed results say."""

    notebook: str
    claim: str
    testbed: str
    was: str
    now: str

    def __str__(self) -> str:
        """One line for a terminal."""
        place = f" on {self.testbed}" if self.testbed else ""
        return f"{self.notebook}: {self.claim}{place} was '{self.was}', is now '{self.now}'"


def changed_rows(
    committed: NotebookResults, testbed: str, found: Mapping[str, Outcome], declared: frozenset[str] | None = None
) -> list[Change]:
    """What one run says otherwise than its testbed's committed rows; no rows for this testbed mean no change.

    Args:
        declared: claims the taxonomy gives this notebook; one of them that was committed but not stated is a change.
    """
    changes = []
    for claim_id, result in committed.claims.items():
        row = result.rows.get(testbed)
        if row is None or (declared is not None and claim_id not in declared):
            continue
        was, now = str(row.decision), str(found[claim_id].decision) if claim_id in found else "not stated"
        if now != was:
            changes.append(Change(notebook=committed.notebook, claim=claim_id, testbed=testbed, was=was, now=now))
    return changes


def changed_verdicts(committed: NotebookResults, new: NotebookResults) -> list[Change]:
    """Claims of both files whose verdicts differ, and committed claims that are gone."""
    changes = []
    for claim_id, result in committed.claims.items():
        now = new.claims[claim_id].verdict.value if claim_id in new.claims else "not stated"
        if now != result.verdict.value:
            changes.append(Change(notebook=new.notebook, claim=claim_id, testbed="", was=result.verdict.value, now=now))
    return changes


def read_results(path: Path) -> NotebookResults | None:
    """A results file, checked: its verdicts and means must follow from its rows. None where there is no file.

    Raises:
        BadInput: the file is not of the schema, or was edited by hand.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        results = NotebookResults.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {place}: {first['msg']}. Write it again with: paramem run --profile full") from None
    for claim_id, result in results.claims.items():
        if result != ClaimResult.of(result.rows):
            raise BadInput(
                f"{path}: {claim_id}: verdict, counts or means do not follow from the rows; "
                "results are never typed by hand. Write it again with: paramem run --profile full"
            )
    return results


def write_results(results: NotebookResults, path: Path) -> None:
    """Write a results file in one step: a reader sees the old one or the new one."""
    write_atomically(path, json.dumps(results.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a neighbour of ``path`` and move it into place.

    Raises:
        Unwritable: the folder cannot be made or written.
    """
    try:
        files.write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror or error}") from error


def load_json(path: Path) -> Any:
    """Parsed JSON, or None where the file is missing or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
