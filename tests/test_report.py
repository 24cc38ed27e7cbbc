"""The scoreboard says what the results say, in every format, and the README's copy cannot go stale unseen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import BEDS
from paramem.catalogue import counts
from paramem.claims import Outcome, outcome
from paramem.decisions import UNDECIDED
from paramem.errors import BadInput, BadParameter
from paramem.pages import (
    BEGIN,
    END,
    check_generated,
    scoreboard_markdown,
    verdicts_by_notebook,
    with_scoreboard,
    write_generated,
)
from paramem.plan import Request, plan
from paramem.project import Project
from paramem.report import (
    committed_results,
    found_now,
    review,
    scoreboard_json,
    scoreboard_table,
    scores,
    with_verdict,
)
from paramem.results import NotebookResults, aggregate
from paramem.runner import Batch, Finished
from paramem.taxonomy import load_taxonomy

CLAIM = "doe2022facts.works"


def batch_of(project: Project, request: Request, holds: dict[str, bool], status: str = "ok") -> Batch:
    """A batch as the runner would return it, without running anything."""
    batch = Batch(total=len(holds))
    for run in plan(request, project):
        found: dict[str, Outcome] = {}
        if status == "ok":
            found = {CLAIM: outcome(CLAIM, holds[run.testbed], {"success": 0.95})}
        batch.finished.append(
            Finished(run=run, status=status, outcomes=found, folder=Path(), problem="" if found else "it broke")  # type: ignore[arg-type]
        )
    return batch


def test_paper_stands_beside_ours(executed: Project) -> None:
    [line] = scores(load_taxonomy(executed), committed_results(executed))
    assert line.reported == "success 0.9 [GPT-2 XL]"
    assert line.ours == "success 0.95 [0.95, 0.95]"
    assert (line.holds, line.verdict) == ("2 of 2", "reproduced")


def test_every_format_says_the_same(executed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    lines = scores(load_taxonomy(executed), committed_results(executed))
    console = Console(width=200)
    console.print(scoreboard_table(lines))
    table = capsys.readouterr().out
    markdown = scoreboard_markdown(lines)
    data = json.dumps(scoreboard_json(lines))
    for text in (table, markdown, data):
        for part in (CLAIM, "success 0.9 [GPT-2 XL]", "0.95 [0.95, 0.95]", "2 of 2", "reproduced"):
            assert part in text, text
    assert "(notebooks/editing/demo.ipynb)" in markdown


def test_ours_is_told_in_the_papers_unit_and_as_the_taxonomy_names_it(executed: Project) -> None:
    file = executed.taxonomy / "editing.yaml"
    file.write_text(file.read_text().replace("value: 0.9,", "value: 90, unit: ' %',"))
    [line] = scores(load_taxonomy(executed), committed_results(executed))
    assert line.reported == "success 90 % [GPT-2 XL]"
    assert line.ours == "success 95.0 % [95.0, 95.0]"
    file.write_text(file.read_text().replace("measured: success", "measured: [success, nothing]"))
    [line] = scores(load_taxonomy(executed), committed_results(executed))
    assert line.ours == "success 95.0 % [95.0, 95.0]"
    from paramem.checks import check_files

    assert any(
        "measured: 'nothing' does not exist" in str(each) for each in check_files(executed, load_taxonomy(executed))
    )


def test_the_interval_of_a_share_stays_among_shares(executed: Project) -> None:
    file = executed.taxonomy / "editing.yaml"
    file.write_text(file.read_text().replace("value: 0.9,", "value: 90, unit: ' %',"))

    def ours(*values: float) -> str:
        found = {bed: {CLAIM: outcome(CLAIM, True, {"success": v})} for bed, v in zip(BEDS, values, strict=True)}
        results = aggregate("editing/demo", "full", found, versions={}, seconds={})
        [line] = scores(load_taxonomy(executed), {"editing/demo": results})
        return line.ours

    assert ours(0.9, 1.0) == "success 95.0 % [31.5, 100.0]"
    assert ours(0.0, 0.1) == "success 5.0 % [0.0, 68.5]"
    assert ours(1.9, 2.0) == "success 1.95 [1.31, 2.59]", "the control: what is no share is not cut"


def test_some_testbeds_give_no_verdict(executed: Project) -> None:
    for beds, verdict in {BEDS: "reproduced", BEDS[:1]: "", (*BEDS, "bed-c"): "", ("bed-a", "bed-c"): ""}.items():
        found = {bed: {CLAIM: outcome(CLAIM, True, {"success": 0.9})} for bed in beds}
        results = aggregate("editing/demo", "full", found, versions={}, seconds={})
        [line] = scores(load_taxonomy(executed), {"editing/demo": results})
        assert (line.verdict, bool(line.holds)) == (verdict, bool(verdict)), beds
        assert line.ours


def test_an_unmeasured_claim_has_no_verdict(demo: Project) -> None:
    [line] = scores(load_taxonomy(demo), {})
    assert (line.ours, line.holds, line.verdict) == ("", "", "")
    assert "not measured yet" in scoreboard_markdown([line])
    assert "1 claim: 1 not measured yet" in scoreboard_markdown([line])


def test_verdicts_are_counted_in_one_order_whatever_that_of_the_claims(demo: Project) -> None:
    [line] = scores(load_taxonomy(demo), {})
    lines = [replace(line, verdict=verdict) for verdict in ("", "undecided", "weaker", "reproduced", "undecided")]
    said = "1 reproduced, 1 weaker, 2 undecided, 1 not measured yet"
    assert counts(lines) == counts(lines[::-1]) == said


def test_a_status_set_in_the_taxonomy_stands(demo: Project) -> None:
    file = demo.taxonomy / "editing.yaml"
    file.write_text(
        file.read_text().replace(
            "where: Section 3", "where: Section 3\n      status: not at this scale\n      reason: Why"
        )
    )
    [line] = scores(load_taxonomy(demo), {})
    assert line.verdict == "not at this scale"
    assert "1 not at this scale" in scoreboard_markdown([line])


def test_table_cells_cannot_break_the_table(demo: Project) -> None:
    file = demo.taxonomy / "editing.yaml"
    file.write_text(file.read_text().replace("The box keeps a fact.", "'a | b <script> [red]x[/red]'"))
    lines = scores(load_taxonomy(demo), {})
    row = scoreboard_markdown(lines).splitlines()[-1]
    assert row.count(" | ") == 4
    assert "<script>" not in row
    assert "[red]x[/red]" in "".join(str(cell) for cell in scoreboard_table(lines).columns[0]._cells).replace("\\", "")


def test_the_readme_is_rewritten_between_its_marks_only(executed: Project) -> None:
    lines = scores(load_taxonomy(executed), committed_results(executed))
    before = f"above\n{BEGIN}\nyesterday\n{END}\nbelow\n"
    after = with_scoreboard(before, lines)
    assert after.startswith(f"above\n{BEGIN}")
    assert after.endswith(f"{END}\nbelow\n")
    assert "yesterday" not in after
    assert with_scoreboard(after, lines) == after
    for broken in ("no marks", before + before):
        with pytest.raises(BadInput, match="it needs one line"):
            with_scoreboard(broken, lines)


def test_the_readme_counts_claims_by_notebook_and_statements_of_ours_apart(executed: Project) -> None:
    lines = scores(load_taxonomy(executed), committed_results(executed))
    row = verdicts_by_notebook(lines).splitlines()[-1]
    assert row == "| [editing/demo](notebooks/editing/demo.ipynb) | 1 | - | - | - | - |"
    ours = [replace(line, origin="ours", verdict="holds here") for line in lines]
    assert verdicts_by_notebook(ours).splitlines()[-1].endswith("| - | - | - | 1 of 1 hold |")


def test_a_full_run_yields_results_to_write_and_tells_a_changed_verdict(executed: Project) -> None:
    taxonomy = load_taxonomy(executed)
    same = review(
        batch_of(executed, Request(profile="full"), dict.fromkeys(BEDS, True)), "full", taxonomy, executed, {}
    )
    assert list(same.writable) == ["editing/demo"]
    assert (list(same.changes), list(same.problems)) == ([], [])
    worse = review(
        batch_of(executed, Request(profile="full"), {"bed-a": True, "bed-b": False}), "full", taxonomy, executed, {}
    )
    assert [(change.was, change.now) for change in worse.changes] == [("reproduced", "weaker")]
    assert worse.writable["editing/demo"].claims[CLAIM].k == 1


def test_a_full_run_that_lacks_a_testbed_writes_nothing(executed: Project) -> None:
    batch = batch_of(executed, Request(profile="full"), dict.fromkeys(BEDS, True))
    batch.finished.pop()
    found = review(batch, "full", load_taxonomy(executed), executed, {})
    assert not found.writable


def test_a_default_run_is_compared_with_its_testbeds_row(executed: Project) -> None:
    taxonomy = load_taxonomy(executed)
    agree = review(batch_of(executed, Request(), {"bed-a": True}), "default", taxonomy, executed, {})
    assert not agree.changes
    flipped = review(batch_of(executed, Request(), {"bed-a": False}), "default", taxonomy, executed, {})
    assert [str(change) for change in flipped.changes] == [
        f"editing/demo: {CLAIM} on bed-a was 'holds', is now 'does not hold'"
    ]
    assert not flipped.writable
    other = review(
        batch_of(executed, Request(parameters={"success": "0.2"}), {"bed-a": False}), "default", taxonomy, executed, {}
    )
    assert not other.changes, "other parameters are another experiment"


def test_a_failed_run_is_a_problem_and_never_a_result(executed: Project) -> None:
    found = review(
        batch_of(executed, Request(), {"bed-a": True}, "failed"), "default", load_taxonomy(executed), executed, {}
    )
    assert found.problems == ["editing/demo on bed-a: failed: it broke"]
    assert not found.results


def test_claims_stated_and_declared_must_agree(executed: Project) -> None:
    batch = batch_of(executed, Request(), {"bed-a": True})
    object.__setattr__(batch.finished[0], "outcomes", {"other.claim": outcome("other.claim", True)})
    [problem] = review(batch, "default", load_taxonomy(executed), executed, {}).problems
    assert "states other.claim" in problem
    assert f"does not state {CLAIM}" in problem


def test_other_data_may_leave_out_a_claim_but_not_invent_one(executed: Project) -> None:
    batch = batch_of(executed, Request(), {"bed-a": True})
    object.__setattr__(batch.finished[0].run, "canonical", False)
    object.__setattr__(batch.finished[0], "outcomes", {})
    assert not review(batch, "default", load_taxonomy(executed), executed, {}).problems
    object.__setattr__(batch.finished[0], "outcomes", {"other.claim": outcome("other.claim", True)})
    [problem] = review(batch, "default", load_taxonomy(executed), executed, {}).problems
    assert "states other.claim" in problem


def test_a_narrow_scoreboard_keeps_claim_and_verdict_whole(
    executed: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    lines = scores(load_taxonomy(executed), committed_results(executed))
    for statements, whole in ((False, True), (True, False)):
        Console(width=44).print(scoreboard_table(lines, statements=statements))
        shown = capsys.readouterr().out
        assert (CLAIM in shown and "reproduced" in shown) is whole


def test_what_a_run_found_stands_beside_the_committed_verdict(executed: Project) -> None:
    batch = batch_of(executed, Request(), {"bed-a": True})
    assert found_now(batch) == {CLAIM: "bed-a: holds"}
    table = scoreboard_table(scores(load_taxonomy(executed), committed_results(executed)), found_now(batch))
    assert [column.header for column in table.columns][-1] == "this run"


def test_what_is_generated_and_stale_is_found(executed: Project) -> None:
    assert check_generated(executed) == []
    pages = sorted(path.name for path in (executed.root / "docs/papers").iterdir())
    assert pages == ["claims.md", "editing.md"]
    executed.readme.write_text(executed.readme.read_text().replace("1 reproduced", "2 reproduced"))
    (executed.root / "docs/papers/editing.md").write_text("mine\n")
    (executed.root / "docs/papers/gone.md").write_text("a category that is no more\n")
    said = [str(finding) for finding in check_generated(executed)]
    assert [text.split(":")[0] for text in said] == ["README.md", "docs/papers/editing.md", "docs/papers/gone.md"]
    assert all("paramem show --write" in text for text in said)
    assert write_generated(executed) == ["README.md", "docs/papers/editing.md", "docs/papers/gone.md"]
    assert check_generated(executed) == []
    assert write_generated(executed) == [], "what is current is left alone"


def test_what_the_testbeds_could_not_tell_is_counted_apart(executed: Project) -> None:
    def results(*decided: bool) -> dict[str, NotebookResults]:
        found = {
            bed: {CLAIM: outcome(CLAIM, False, {"success": 0.5}, decided=each)}
            for bed, each in zip(BEDS, decided, strict=True)
        }
        return {"editing/demo": aggregate("editing/demo", "full", found, versions={}, seconds={})}

    taxonomy = load_taxonomy(executed)
    [line] = scores(taxonomy, results(True, False))
    assert (line.holds, line.verdict) == ("0 of 2, 1 undecided", "undecided")
    assert "1 claim: 1 undecided" in scoreboard_markdown([line])
    assert "| undecided |" in verdicts_by_notebook([line])
    assert with_verdict([line], "undecided") == [line]
    [control] = scores(taxonomy, results(True, True))
    assert (control.holds, control.verdict) == ("0 of 2", "not reproduced")
    assert with_verdict([control], "undecided") == []
    with pytest.raises(BadParameter, match="no verdict 'open'"):
        with_verdict([line], "open")


def test_a_run_that_agrees_in_holds_and_not_in_decided_has_changed(executed: Project) -> None:
    batch = batch_of(executed, Request(), {"bed-a": False})
    [finished] = batch.finished
    batch.finished[:] = [replace(finished, outcomes={CLAIM: outcome(CLAIM, UNDECIDED)})]
    [change] = review(batch, "default", load_taxonomy(executed), executed, {}).changes
    assert (change.was, change.now) == ("holds", "undecided")
    assert found_now(batch) == {CLAIM: "bed-a: undecided"}
