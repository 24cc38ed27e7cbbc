"""The scorecard: each line is the number it names, and the paired difference behaves like one."""

from __future__ import annotations

import pandas as pd
import pytest

from edits import REQUESTS, always, nothing
from families import make_lm
from paramem.evaluation import evaluate, summarise
from paramem.evaluation.scorecard import LINES, difference, scorecard, wide


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    lm = make_lm("gpt2")
    token = int(lm.encode(["Ann was born in"], ["Lyon"]).input_ids[0, -1])
    return {
        "nothing": evaluate(lm, REQUESTS, nothing(lm), name="nothing"),
        "always": evaluate(lm, REQUESTS, always(lm, token), name="always"),
    }


def test_every_line_is_the_summary_s_number(frames: dict[str, pd.DataFrame]) -> None:
    card = scorecard({"always": frames["always"]}).set_index("metric")
    summary = summarise(frames["always"])
    for name, (group, subgroup, column) in LINES.items():
        if name in card.index:
            found = summary.metric(group, subgroup=subgroup, statistic=column, protocol="teacher_forced")
            assert card.loc[name, "mean"] == pytest.approx(found.value)
            assert card.loc[name, "n"] == found.passport.n_requests
    assert len(card) >= 6


def test_no_edit_leaves_the_subject_as_it_was_and_another_does_not(frames: dict[str, pd.DataFrame]) -> None:
    table = wide(scorecard(frames))
    assert table.loc["same subject: as before", "nothing"] == 1
    assert table.loc["same subject: as before", "always"] < 1


def test_before_has_no_line_that_compares_with_before(frames: dict[str, pd.DataFrame]) -> None:
    assert "same subject: as before" not in set(scorecard(frames, state="before")["metric"])
    assert "edit: exact" in set(scorecard(frames, state="before")["metric"])


def test_a_difference_is_zero_with_itself_antisymmetric_and_narrower_with_agreement(
    frames: dict[str, pd.DataFrame],
) -> None:
    line = "same subject: as before"
    assert difference(frames, line, "always", "always") == (0, 0, 0)
    there, back = (difference(frames, line, *pair) for pair in (("nothing", "always"), ("always", "nothing")))
    assert there[0] == -back[0] > 0
    assert there[1] <= there[0] <= there[2]


def test_attribute_prompts_are_no_neighbours(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["always"]
    line = "other subjects: exact"
    near = frame["subgroup"].eq("relation")
    marked = frame.assign(kind=frame["kind"].where(~(near & frame["target"].eq("Lyon")), "attribute_prompts"))
    plain, without = (scorecard({"x": f}).set_index("metric").loc[line, "mean"] for f in (frame, marked))
    assert without < plain  # the edit that says "Lyon" to everybody is right on these only
