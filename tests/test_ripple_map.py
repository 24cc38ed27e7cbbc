"""Ripple maps: every form of every fact is asked, classes and intervals count right, cells stand where they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from edits import always, nothing
from families import make_lm
from known import FACTS, knowing
from paramem.errors import BadInput
from paramem.evaluation.intervals import paired, span
from paramem.evaluation.ripple import ask_all, ripple
from paramem.evaluation.ripple_map import (
    CLASSES,
    FORMS,
    any_of_as_many,
    by_class,
    cells,
    class_intervals,
    in_sample,
    known_in,
    ripple_each,
    sides,
)
from paramem.facts import EditRequest, Fact
from paramem.models import LM
from paramem.plots import ripple_strips
from paramem.registry import method


@pytest.fixture(scope="module")
def lm() -> LM:
    return knowing("gpt2")


def request(number: int = 0, **changes: object) -> EditRequest:
    fact = FACTS[number]
    others = [f for f in FACTS if f.relation == fact.relation and f.subject != fact.subject]
    base: dict[str, object] = {
        "id": fact.id,
        "subject": fact.subject,
        "relation": fact.relation,
        "template": fact.template,
        "target_new": "France",
        "target_true": fact.object,
        "locality": {"relation": (others[0].probe(),)},
    }
    return EditRequest.model_validate(base | changes)


def test_turning_forms_cover_every_form_of_every_fact(lm: LM) -> None:
    asked = ask_all(lm, FACTS, kinds=FORMS)
    parts = [asked.one_form_each(number) for number in range(2)]
    for part in parts:
        assert [index for index, _, _ in part.questions] == list(range(len(FACTS))), "each fact once"
        for _, _, probe in part.questions:
            pair = (probe.prompt, probe.target)
            assert part.answers.tokens[part.place[pair]] == asked.answers.tokens[asked.place[pair]]
            assert part.answers.logprob[part.place[pair]] == asked.answers.logprob[asked.place[pair]]
    covered = {(i, probe.prompt) for part in parts for i, _, probe in part.questions}
    assert covered == {(i, probe.prompt) for i, _, probe in asked.questions}
    alone = {(i, probe.prompt) for i, _, probe in parts[0].questions}
    assert alone < covered, "the control: one number asks one form only"


def test_a_part_gives_the_rows_that_the_whole_gives(lm: LM) -> None:
    asked, edit = ask_all(lm, FACTS, kinds=FORMS), always(lm, 7)
    whole = ripple(lm, FACTS, edit, request=request(), before=asked).set_index("prompt")
    part = ripple(lm, FACTS, edit, request=request(), before=asked.one_form_each(1)).set_index("prompt")
    pd.testing.assert_frame_equal(part, whole.loc[part.index], check_dtype=False)


def test_what_now_begins_with_the_new_object_is_marked(lm: LM) -> None:
    batch = lm.encode([request().prompt], ["France"])
    token = int(batch.input_ids[batch.target_mask][0])
    assert ripple(lm, FACTS, always(lm, token), request=request())["says_new"].all()
    assert not ripple(lm, FACTS, always(lm, token + 1), request=request())["says_new"].any()
    before = ripple(lm, FACTS, nothing(lm), request=request())
    assert list(before["says_new"]) == [fact.object == "France" for fact in FACTS], "the control: no edit"


def test_classes_leave_out_the_fact_itself_and_what_was_wrong(lm: LM) -> None:
    moved = ripple_each(lm, ask_all(lm, FACTS, kinds=FORMS), [request()], [always(lm, 7)], turning=False)
    table = by_class(moved).set_index("shares")
    assert "fact" not in table.index
    assert (table["moved"] == 1).all()
    assert table.loc["subject", "n"] == 2 * sum(f.subject == "Ann Lyon" and f.relation != "born" for f in FACTS)
    unknown = moved.assign(correct_before=moved["subject"] != "Paris Lyon")
    assert by_class(unknown)["n"].sum() < table["n"].sum()
    still = ripple_each(lm, ask_all(lm, FACTS, kinds=FORMS), [request()], [nothing(lm)], turning=False)
    assert (by_class(still)["moved"] == 0).all(), "the control: no change moves nothing"


def table(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(f"e{i}", name, v, v, 1) for name, column in values.items() for i, v in enumerate(column)]
    return pd.DataFrame(rows, columns=["edit", "shares", "moved", "loss", "n"])


def test_intervals_are_over_edits_and_pairs_are_of_one_edit() -> None:
    found = table({"subject": [0.5, 1.0, 0.0], "relation": [0.5, 0.0, 0.0], "nothing": [0.0, 0.0, 0.0]})
    bars = class_intervals({"X": found}).set_index("shares")
    assert bars.loc["subject", "mean"] == pytest.approx(0.5)
    ends = bars[["low", "high"]].to_numpy(dtype=float)
    assert ends[0, 0] < 0.5 < ends[0, 1]
    assert ends[2].tolist() == [0, 0]
    assert "object" not in bars.index
    both = sides(found)
    np.testing.assert_allclose(both["subject"] - both["relation"], [0.0, 1.0, 0.0])
    fewer = sides(found.drop(index=0))
    assert (fewer["subject"] - fewer["relation"]).count() == 2, "an edit without one of the two is left out"
    assert paired(fewer["subject"], fewer["relation"]) == span(
        (both["subject"] - both["relation"]).drop(index=both.index[0])
    )


def test_a_sample_is_what_the_requests_probes_ask_in_any_form(lm: LM) -> None:
    requests = [request(0), request(3)]
    asked = ask_all(lm, FACTS, kinds=FORMS)
    moved = ripple_each(lm, asked, requests, [nothing(lm)] * 2)
    sample = moved[in_sample(moved, requests)]
    others = [next(f.id for f in FACTS if f.relation == "born" and f.subject != r.subject) for r in requests]
    assert list(zip(sample["edit"], sample["fact"], strict=True)) == [
        (r.id, o) for r, o in zip(requests, others, strict=True)
    ]
    assert not in_sample(moved, requests, group="subject").any()
    with pytest.raises(BadInput, match="1 edits for 2 requests"):
        ripple_each(lm, asked, requests, [nothing(lm)])


def test_cells_stand_where_they_say() -> None:
    lm = make_lm("gpt2")
    more = Fact(id="x", subject="music", relation="place", object="Paris", template="{} is in")
    asked = ask_all(lm, (*FACTS, more))
    moved = ripple(lm, asked.facts, nothing(lm), request=request(), before=asked)
    losses = {("born", "Ann capital"): 0.9, ("company", "Ann Lyon"): 0.4, ("place", "music"): 0.2}
    keys = zip(moved["relation"], moved["subject"], strict=True)
    moved = moved.assign(correct_before=True, shift=[-losses.get(key, 0.0) for key in keys])
    grid = cells(moved, request())
    assert grid.columns[0] == "Ann Lyon"
    assert grid.attrs["edited"] == (0, 0)
    assert grid.index[0] == "born"
    assert grid.loc["born", "Ann capital"] == pytest.approx(0.9)
    assert grid.loc["company", "Ann Lyon"] == pytest.approx(0.4)
    assert grid.loc["nacido"].notna().sum() == sum(f.relation == "nacido" for f in FACTS)
    assert grid.iloc[-1, 0] == pytest.approx(0.2), "facts about other things fill a row of their own"
    unknown = cells(moved.assign(correct_before=moved["subject"] != "Ann capital"), request())
    assert unknown.loc["born"].isna()["Ann capital"]
    elsewhere = cells(moved, request(subject="music", relation="place", template="{} is in"))
    assert elsewhere.attrs["edited"] == (len(elsewhere) - 1, 0)


def test_subjects_with_the_edits_objects_stand_next_to_it() -> None:
    lm = make_lm("gpt2")
    grid = cells(ripple(lm, FACTS, nothing(lm), request=request()).assign(correct_before=True), request())
    with_object = {f.subject for f in FACTS if f.relation == "born" and f.object == "France"}
    assert with_object
    assert set(grid.columns[1 : 1 + len(with_object)]) == with_object


def test_the_picture_has_a_row_an_editor(lm: LM) -> None:
    asked = ask_all(lm, FACTS, kinds=FORMS)
    maps, tables = {}, {}
    for name in ("ft-m", "ft-l"):
        moved = ripple_each(lm, asked, [request()], [method(name).edit(lm, request(), layer=1)])
        maps[name], tables[name] = cells(moved, request()), by_class(moved)
    figure = ripple_strips(maps, class_intervals(tables), CLASSES, "what moved", xlabel="share")
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes[::2]] == ["ft-m", "ft-l"]
    [frame] = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == (-0.5, -0.5), "the edited fact is framed"
    assert "the edited one first" in figure.axes[2].get_xlabel()


def test_the_picture_says_what_it_shows(lm: LM) -> None:
    moved = ripple_each(lm, ask_all(lm, FACTS), [request()], [nothing(lm)])
    table, bars = cells(moved, request()), class_intervals({"none": by_class(moved)})
    table.attrs["edited"] = (1, 2)
    without = bars[bars["shares"] != "object"]
    elsewhere = ripple_strips({"none": table}, without, CLASSES, "word " * 60, xlabel="share")
    assert "edited one first" not in elsewhere.axes[0].get_xlabel()
    assert "the edited fact framed" in elsewhere.axes[0].get_xlabel()
    assert "same object" not in [label.get_text() for label in elsewhere.axes[1].get_yticklabels()]
    assert max(len(line) for line in elsewhere.get_suptitle().splitlines()) <= 125
    table.attrs["edited"] = None
    nowhere = ripple_strips({"none": table}, bars, CLASSES, "what moved", xlabel="share")
    assert "edited" not in nowhere.axes[0].get_xlabel()
    assert len(nowhere.axes[1].get_yticklabels()) == bars["shares"].nunique(), (
        "the control: what was asked has its line"
    )


def test_the_chance_of_a_sample_is_that_of_drawing() -> None:
    moved = pd.Series([True] * 3 + [False] * 17)
    rng = np.random.default_rng(0)
    drawn = [moved.to_numpy()[rng.permutation(20)[:5]].any() for _ in range(20000)]
    assert any_of_as_many(moved, 5) == pytest.approx(np.mean(drawn), abs=0.01)
    assert any_of_as_many(moved, 0) == 0 == any_of_as_many(pd.Series([False] * 4), 4)
    assert any_of_as_many(moved, 18) == 1, "seventeen stayed"
    with pytest.raises(BadInput, match="21 of 20"):
        any_of_as_many(moved, 21)


def test_what_was_known_is_what_was_answered(lm: LM) -> None:
    asked = ask_all(lm, FACTS, kinds=("template",))
    requests = [request(i, id=str(i)) for i in range(len(FACTS))]
    exact = {
        str(index) for index, _, p in asked.questions if bool(asked.answers.exact[asked.place[p.prompt, p.target]])
    }
    assert exact
    assert known_in(asked, requests, "template") == exact
    assert known_in(asked, requests, "inverse") == frozenset(), "the control: never asked"
