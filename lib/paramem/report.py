"""The scoreboard, paper beside ours: from the taxonomy and the results; `paramem.pages` has it as Markdown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from paramem.claims import Origin, Verdict, held_on
from paramem.errors import BadParameter
from paramem.project import Project
from paramem.results import (
    Change,
    ClaimResult,
    NotebookResults,
    Quantity,
    aggregate,
    changed_rows,
    changed_verdicts,
    read_results,
)
from paramem.runner import Batch, Finished
from paramem.taxonomy import Claim, Taxonomy

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {
    Verdict.REPRODUCED: "green",
    Verdict.WEAKER: "yellow",
    Verdict.NOT_REPRODUCED: "red",
    Verdict.HOLDS: "green",
    Verdict.HOLDS_ON_SOME: "yellow",
    Verdict.DOES_NOT_HOLD: "red",
    Verdict.UNDECIDED: "magenta",
    Verdict.NOT_AT_THIS_SCALE: "cyan",
    Verdict.NOT_ATTEMPTED: "dim",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the scoreboard.

    Attributes:
        reported: the paper's numbers; empty where none was read.
        ours: measured quantities, mean and 95 % interval of the mean over the testbeds.
        holds: ``k of n``, and how many undecided; empty where not all of the notebook's testbeds, and nothing else,
            were measured.
        verdict: empty as ``holds`` is: one testbed is no verdict.
    """

    claim: str
    notebook: str
    says: str
    where: str
    reported: str
    ours: str
    holds: str
    verdict: str
    reason: str = ""
    contradicted_by: tuple[str, ...] = field(default=())
    origin: Origin = "paper"


def scores(taxonomy: Taxonomy, results: Mapping[str, NotebookResults]) -> list[Score]:
    """One line per claim of the taxonomy, in its order.

    Args:
        results: notebook to results.
    """
    lines = []
    for claim_id, entry in taxonomy.claims.items():
        measured = results.get(entry.notebook or "")
        found = measured.claims.get(claim_id) if measured else None
        lines.append(_score(claim_id, entry, found, taxonomy.testbeds_asked(claim_id)))
    return lines


def _score(claim_id: str, entry: Claim, found: ClaimResult | None, testbeds: Sequence[str]) -> Score:
    found = found if entry.status is None else None
    counted = found if found is not None and set(found.rows) == set(testbeds) else None
    return Score(
        claim=claim_id,
        notebook=entry.notebook or "",
        says=entry.says,
        where=entry.where or "",
        reported="; ".join(str(number) for number in entry.reported),
        ours=_ours(entry, found) if found is not None else "",
        holds=str(counted) if counted is not None else "",
        verdict=counted.verdict.of(entry.origin).value if counted is not None else (entry.status or ""),
        reason=entry.reason,
        contradicted_by=entry.contradicted_by,
        origin=entry.origin,
    )


def of_paper(lines: Sequence[Score], key: str, taxonomy: Taxonomy) -> list[Score]:
    """The lines of one paper, or of one claim (``key.claim``).

    Raises:
        BadParameter: the taxonomy has no such paper or claim.
    """
    if key not in taxonomy.entries and key not in taxonomy.claims:
        close = difflib.get_close_matches(key, [*taxonomy.entries, *taxonomy.claims], n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`paramem papers` lists them."
        raise BadParameter(f"no paper or claim {key!r} in taxonomy/. {hint}")
    return [line for line in lines if key in (line.claim, line.claim.partition(".")[0])]


def with_verdict(lines: Sequence[Score], word: str) -> list[Score]:
    """The lines of one verdict.

    Raises:
        BadParameter: it is none.
    """
    known = [verdict.value for verdict in Verdict]
    if word not in known:
        raise BadParameter(f"no verdict {word!r}; there are {', '.join(known)}")
    return [line for line in lines if line.verdict == word]


def contradictions(key: str, taxonomy: Taxonomy) -> list[str]:
    """Which claims of a paper others report otherwise, or (for a claim) who does, a sentence each."""
    said = [f"{key} has no claims yet"] if key in taxonomy.entries and not taxonomy.entries[key].claims else []
    for claim_id, claim in taxonomy.claims.items():
        if key in (claim_id, claim_id.partition(".")[0], *claim.contradicted_by):
            said += [f"{claim_id} is contradicted by {other}" for other in claim.contradicted_by]
    return said


def disagreements(key: str, taxonomy: Taxonomy) -> list[str]:
    """Who stands against whom around one paper, a sentence each, from its own entry and from the others'."""
    return [
        f"contradicts {each.against}: {each.about}" if each.by == key else f"contradicted by {each.by}: {each.about}"
        for each in taxonomy.disagreements(key)
    ]


def _ours(entry: Claim, found: ClaimResult) -> str:
    """The quantities that the taxonomy names (or the first), in per cent where the paper's numbers are."""
    names = entry.quantities or tuple(found.quantities)[:1]
    shown = {name: found.quantities[name] for name in names if name in found.quantities}
    per_cent = bool(entry.reported) and entry.reported[0].unit.strip() == "%"
    per_cent = per_cent and all(quantity.low >= 0 and quantity.high <= 1 for quantity in shown.values())
    return "; ".join(f"{name.replace('_', ' ')} {_number(quantity, per_cent)}" for name, quantity in shown.items())


def _number(quantity: Quantity, per_cent: bool) -> str:
    scale, digits, unit = (100, 1, " %") if per_cent else (1, 2, "")
    spread = ""
    if quantity.interval is not None:
        # of shares, which all lie in [0, 1], the interval of the mean cannot leave it; Student's t does not know that
        ends = (min(max(end, 0.0), 1.0) if per_cent else end for end in quantity.interval)
        low, high = (f"{scale * end:.{digits}f}" for end in ends)
        spread = f" [{low}, {high}]"
    return f"{scale * quantity.mean:.{digits}f}{unit}{spread}"


def committed_results(project: Project) -> dict[str, NotebookResults]:
    """The results files of all notebooks that have one."""
    found = {name: read_results(project.results_path(name)) for name in project.notebook_names()}
    return {name: results for name, results in found.items() if results is not None}


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a batch means: its results by notebook, what changed against the committed ones, and what went wrong.

    Attributes:
        compared: how many claims had a committed counterpart.
        writable: results of full runs, which may replace the committed ones.
    """

    results: Mapping[str, NotebookResults]
    changes: Sequence[Change]
    compared: int
    problems: Sequence[str]
    writable: Mapping[str, NotebookResults]


def review(batch: Batch, profile: str, taxonomy: Taxonomy, project: Project, versions: Mapping[str, str]) -> Review:
    """Count a batch's outcomes and compare them with the committed results.

    A full run over exactly a notebook's testbeds yields results that may be written; a run of default profile is
    compared with its testbed's row; anything else (other parameters, seeds, models) is only counted.
    """
    results: dict[str, NotebookResults] = {}
    changes: list[Change] = []
    problems: list[str] = []
    writable: dict[str, NotebookResults] = {}
    compared = 0
    for name in dict.fromkeys(each.run.notebook for each in batch.finished):
        runs = [each for each in batch.finished if each.run.notebook == name]
        problems += [f"{each.run}: {each.status}: {each.problem}" for each in runs if not each.done]
        problems += [text for each in runs if each.done and (text := _undeclared(each, taxonomy))]
        done = {each.run.label if not each.run.canonical else each.run.testbed: each for each in runs if each.done}
        if not any(each.outcomes for each in done.values()):
            continue
        results[name] = aggregate(
            name,
            profile,
            {testbed: each.outcomes for testbed, each in done.items()},
            versions=versions,
            seconds={testbed: each.seconds for testbed, each in done.items()},
        )
        committed = read_results(project.results_path(name))
        canonical = all(each.run.canonical for each in runs)
        if profile == "full" and canonical and tuple(done) == taxonomy.testbeds_of(name):
            writable[name] = results[name]
            changes += changed_verdicts(committed, results[name]) if committed else []
            compared += len(committed.claims) if committed else 0
        elif committed and canonical:
            compared += sum(bed in claim.rows for claim in committed.claims.values() for bed in done)
            changes += [
                change
                for testbed, each in done.items()
                for change in changed_rows(
                    committed, testbed, each.outcomes, frozenset(taxonomy.claims_of(name, testbed))
                )
            ]
    return Review(results=results, changes=changes, compared=compared, problems=problems, writable=writable)


def _undeclared(finished: Finished, taxonomy: Taxonomy) -> str:
    """What a run states beyond the taxonomy, or leaves out of it.

    On other data or parameters a notebook may leave out claims that its data cannot be asked.
    """
    declared, stated = set(taxonomy.claims_of(finished.run.notebook)), set(finished.outcomes)
    asked = set(taxonomy.claims_of(finished.run.notebook, finished.run.testbed or None))
    missing = asked - stated if finished.run.canonical else set()
    parts = [
        f"states {', '.join(sorted(stated - declared))}, which the taxonomy does not give this notebook"
        if stated - declared
        else "",
        f"does not state {', '.join(sorted(missing))}" if missing else "",
    ]
    text = "; ".join(part for part in parts if part)
    return f"{finished.run}: {text}" if text else ""


def runs_table(finished: Iterable[Finished]) -> Table:
    """The runs of a batch for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Runs", title_justify="left")
    for column in ("notebook", "testbed", "status", "seconds", "claims that hold"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for each in finished:
        found = [outcome.decision for outcome in each.outcomes.values()]
        counted = held_on(sum(d.holds for d in found), len(found), sum(not d.decided for d in found))
        table.add_row(
            escape(each.run.notebook),
            escape(each.run.label) if each.run.testbed else "",
            f"[{'green' if each.done else 'red'}]{each.status}[/]",
            f"{each.seconds:.1f}",
            counted if found else "",
        )
    return table


def scoreboard_table(lines: Iterable[Score], now: Mapping[str, str] | None = None, *, statements: bool = True) -> Table:
    """The scoreboard for a terminal.

    Args:
        now: claim to what the run at hand found; adds a column.
        statements: with each claim in words and both sides' numbers, which needs a wide terminal; without, what is left
            fits into 80 columns.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Claims, paper beside ours", title_justify="left", show_lines=statements)
    numbers = ("paper", "committed: ours", "committed: holds on") if statements else ()
    for column in ("claim", *numbers, "committed: verdict", *(["this run"] if now else [])):
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(
            f"[bold]{escape(line.claim)}[/]" + (f"\n{escape(line.says)}{_against(line)}" if statements else ""),
            *((escape(line.reported), escape(line.ours), line.holds) if statements else ()),
            coloured(line),
            *([escape(now.get(line.claim, ""))] if now else []),
        )
    return table


def coloured(line: Score) -> str:
    """A verdict, or what stands in its place, in its colour."""
    colour = _COLOURS[Verdict(line.verdict)] if line.verdict else "dim"
    return f"[{colour}]{line.verdict or uncounted(line)}[/]"


def uncounted(line: Score) -> str:
    """What stands in place of a verdict."""
    return "not measured on all testbeds" if line.ours else "not measured yet"


def _against(line: Score) -> str:
    from rich.markup import escape

    return f"\n[dim]contradicted by {escape(', '.join(line.contradicted_by))}[/]" if line.contradicted_by else ""


def found_now(batch: Batch) -> dict[str, str]:
    """Claim to what a batch found, testbed by testbed, in few words."""
    found: dict[str, list[str]] = {}
    for each in batch.finished:
        for claim_id, outcome in each.outcomes.items():
            found.setdefault(claim_id, []).append(f"{each.run.label}: {outcome.decision}")
    return {claim_id: ", ".join(words) for claim_id, words in found.items()}


def scoreboard_json(lines: Iterable[Score], review: Review | None = None) -> dict[str, Any]:
    """The scoreboard as data; with a review, also what changed and what went wrong."""
    data: dict[str, Any] = {"claims": [asdict(line) for line in lines]}
    if review is not None:
        data["changes"] = [asdict(change) for change in review.changes]
        data["problems"] = list(review.problems)
        data["results"] = {name: each.model_dump(mode="json") for name, each in review.results.items()}
    return data
