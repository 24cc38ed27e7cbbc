"""The benchmark: tasks and their measures, edits abreast, tables that refuse, the published sets through one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from edits import always, nothing, request
from families import make_lm
from grounds import LAYER, REQUEST, SECOND, UNTOUCHED, make, model, trained
from known import TEXTS
from paramem.benchmarking import PROTOCOLS, TASKS, Materials, benchmark, editors, few_probes, tasks_for
from paramem.benchmarking.bench import Bench, materials_for
from paramem.benchmarking.comparing import (
    as_corrected,
    difference,
    front,
    measure_of,
    over_edits,
    per_edit,
    printed,
    within,
)
from paramem.benchmarking.configurations import CONFIGURATIONS, run_of
from paramem.benchmarking.costs import Meter, touched
from paramem.benchmarking.figures import cost_bars, heat_map, pareto, stacked
from paramem.benchmarking.mistakes import KINDS, counts, kind_of, mistakes
from paramem.benchmarking.skills import Question, answered, batteries, changed
from paramem.benchmarking.stories import stories
from paramem.benchmarking.tasks import task_of
from paramem.benchmarking.variants import beside, together, variants_of
from paramem.errors import BadInput, BadParameter, IncompatibleIntervention, ParamemError, PassportMismatch
from paramem.evaluation import Fluency, evaluate
from paramem.evaluation.fluency import generated_texts
from paramem.evaluation.intervals import span
from paramem.evaluation.knowedit import knowedit_columns
from paramem.evaluation.side_by_side import can_share
from paramem.facts import EditRequest
from paramem.interventions import Dense, HiddenStatePatch, Intervention, LowRank, PromptRewrite, WeightDelta
from paramem.interventions.abreast import abreast, fits
from paramem.models import LM, Site, load
from paramem.project import Project
from paramem.readers import read_requests
from paramem.registry import Method, methods
from paramem.taxonomy import load_taxonomy

RECORDS = Path(__file__).parent / "data/records"
SETS = ("wikidata_recent", "knowedit_zsre", "wikibio", "wikidata_counterfact", "convsent", "sanitation")
FEW = Fluency(new_tokens=4)


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Settings of editors that have none."""


DEPARTURES: dict[str, tuple[str, str, str]] = {}


def does_nothing(lm: LM, requests: Sequence[EditRequest], settings: Nothing) -> Intervention:
    return nothing(lm)


def says_one_thing(lm: LM, requests: Sequence[EditRequest], settings: Nothing) -> Intervention:
    return always(lm, int(lm.encode([requests[0].prompt], [requests[0].target_new]).input_ids[0, -1]))


def refuses(lm: LM, requests: Sequence[EditRequest], settings: Nothing) -> Intervention:
    if requests[0].source == "wikibio":
        raise BadInput("no biographies, please")
    return nothing(lm)


def refuses_one(lm: LM, requests: Sequence[EditRequest], settings: Nothing) -> Intervention:
    if any(each.id == "r1" for each in requests):
        raise BadInput("not this one")
    return says_one_thing(lm, requests, settings)


def says_too_much(lm: LM, requests: Sequence[EditRequest], settings: Nothing) -> Intervention:
    return PromptRewrite("Ann " * 200 + "{prompt}")


def as_method(function: str) -> Method:
    return Method(
        name=function.replace("_", "-"), title=function, kind="editor", paper="doe2022facts", phase="mastery",
        module=__name__, function=function, settings="Nothing",
    )  # fmt: skip


TASKS_HERE = {
    "counterfact": [request(i, source="counterfact") for i in range(4)],
    "sentiment": [request(i, id=f"s{i}", source="convsent") for i in range(3)],
}


@pytest.fixture(scope="module")
def lm() -> LM:
    return make_lm("gpt2")


@pytest.fixture(scope="module")
def wide() -> LM:
    """The published prompts are long, and a small vocabulary splits them into many tokens."""
    return make_lm("gpt2", max_position_embeddings=512)


@pytest.fixture(scope="module")
def bench(lm: LM) -> Bench:
    both = [as_method("does_nothing"), as_method("says_one_thing")]
    return benchmark(lm, TASKS_HERE, both, layer=1, fluency=FEW)


# Tasks


@pytest.mark.parametrize(("name", "task"), list(zip(SETS, TASKS, strict=True)))
def test_every_published_set_is_its_task(name: str, task: str) -> None:
    assert {task_of(each) for each in read_requests(RECORDS / f"{name}.json")} == {task}


def test_a_source_that_no_task_knows_is_named() -> None:
    with pytest.raises(BadInput, match=r"'my own'.*sources are wikidata_recent"):
        task_of(request(0, source="my own"))
    assert task_of(request(0, source="world/edit/sanitation")) == "sanitation"
    assert task_of(request(0, source="world/recall")) == "counterfact"


def test_few_probes_keep_the_first_and_the_last() -> None:
    many = request(0, paraphrases=[{"prompt": f"{i} Ann", "target": "Lyon"} for i in range(7)])
    few = few_probes(many, 3)
    assert [probe.prompt for probe in few.paraphrases] == ["0 Ann", "3 Ann", "6 Ann"]
    assert few.locality.keys() == many.locality.keys()
    assert few_probes(many, 9).paraphrases == many.paraphrases
    with pytest.raises(BadParameter, match="probes=0"):
        few_probes(many, 0)


def test_every_task_has_success_and_locality_in_both_protocols() -> None:
    for task in TASKS.values():
        for protocol in PROTOCOLS:
            names = [measure.name for measure in task.of(protocol)]
            assert len(names) == len(set(names)), f"{task.name}: one name, one number"
            assert {"edit success", "locality", "fluency"} <= set(names)
    assert measure_of("sentiment", "KL", "teacher_forced").better == "lower"
    with pytest.raises(BadParameter, match="no measure 'KL'"):
        measure_of("counterfact", "KL", "teacher_forced")


# The published sets through the same call


def test_the_six_published_sets_run_through_one_call(wide: LM) -> None:
    lm = wide
    dataset = ",".join(str(RECORDS / f"{name}.json") for name in SETS)
    tasks = tasks_for(lm, dataset, per_task=2, probes=2)
    assert tuple(tasks) == tuple(TASKS)
    both = [*editors("ft-m"), as_method("does_nothing")]
    bench = benchmark(lm, tasks, both, layer=1, fluency=FEW)
    assert bench.tasks == tuple(TASKS), bench.refused
    for task in bench.tasks:
        for protocol in PROTOCOLS:
            table = bench.table(task, protocol)
            assert list(table.index) == ["(before)", "ft-m", "does-nothing"]
            assert table.loc["ft-m", "edit success"] >= 0
        kept = bench.table(task, "generated")
        if "locality" in kept:
            assert kept.loc["does-nothing", "locality"] == 1
        gains = {editor: _gain(bench.frames[editor, task]) for editor in bench.editors}
        assert gains["ft-m"] > 0.01, task
        assert gains["does-nothing"] == pytest.approx(0, abs=1e-9), "the control"


def _gain(frame: pd.DataFrame) -> float:
    """By how much the edits' own targets became more likely, in nats."""
    rows = frame[frame["group"].eq("reliability") & frame["protocol"].eq("teacher_forced")]
    said = rows.groupby("state")["logprob"].mean()
    return float(said["after"] - said["before"])


def test_data_that_cannot_be_run_is_told_in_one_sentence(lm: LM, tmp_path: Path) -> None:
    with pytest.raises(ParamemError, match=r"nowhere\.json"):
        tasks_for(lm, "nowhere.json")
    with pytest.raises(BadInput, match="dataset is empty"):
        tasks_for(lm, " , ")
    with pytest.raises(BadInput, match="not a bundled testbed"):
        tasks_for(lm, "world")
    with pytest.raises(BadParameter, match="per_task=0"):
        tasks_for(lm, str(RECORDS / "convsent.json"), per_task=0)
    with pytest.raises(BadParameter, match="at least one edit of each of the tasks insertion"):
        tasks_for(lm, str(RECORDS / "convsent.json"), per_task={"sentiment": 1})
    with pytest.raises(BadParameter, match="no editor is called 'romm'"):
        editors("ft-m,romm")
    assert {each.name for each in editors("all")} > {each.name for each in editors("main")} >= {"rome", "ft-l", "serac"}
    assert [each.name for each in editors("rome-no-covariance, main, rome")][:1] == ["rome-no-covariance"]
    assert "rome-no-covariance" not in {each.name for each in editors("main")}
    with pytest.raises(BadInput, match="nothing to run"):
        benchmark(lm, {}, editors("ft-m"), layer=0)


def test_tasks_may_have_numbers_of_edits_of_their_own() -> None:
    lm, numbers = load("edit-gpt2-s0"), {task: 3 if task == "question" else 1 for task in TASKS}
    found = tasks_for(lm, "world", per_task=numbers)
    assert {task: len(requests) for task, requests in found.items()} == numbers
    few = tasks_for(lm, "world", per_task=1)
    assert found["question"][:1] == few["question"], "the same edits come first, however many are asked for"
    assert found["insertion"] == few["insertion"]


def test_an_editor_that_cannot_do_a_task_is_listed_and_the_others_go_on(wide: LM) -> None:
    lm = wide
    tasks = tasks_for(lm, ",".join(str(RECORDS / f"{name}.json") for name in ("wikibio", "convsent")), per_task=1)
    bench = benchmark(lm, tasks, [as_method("refuses"), as_method("does_nothing")], layer=1, fluency=None)
    assert bench.refused == {("refuses", "hallucination"): "no biographies, please"}
    assert ("refuses", "sentiment") in bench.frames
    assert list(bench.table("hallucination", "generated").index) == ["(before)", "does-nothing"]
    with pytest.raises(BadInput, match="no biographies"):
        per_edit(bench, "refuses", ["hallucination"], "edit success", "generated")


# Numbers


def test_no_edit_changes_no_number_and_another_does(bench: Bench) -> None:
    for protocol in PROTOCOLS:
        table = bench.table("counterfact", protocol)
        assert table.loc["does-nothing", "locality"] == 1 > table.loc["says-one-thing", "locality"]
        before, after = table.loc["(before)"], table.loc["does-nothing"]
        both = before.notna() & after.notna()
        assert both.sum() >= 4
        assert (before[both] == after[both]).all()
        assert table.loc["says-one-thing", "edit success"] == 1
    kl = bench.table("sentiment", "teacher_forced")["KL"]
    assert kl["does-nothing"] == pytest.approx(0, abs=1e-12)
    assert kl["says-one-thing"] > 0.1


def test_the_sentiment_score_is_the_product_that_it_says(lm: LM, bench: Bench) -> None:
    one = TASKS_HERE["sentiment"][0]
    edit = says_one_thing(lm, [one], Nothing())
    frame = knowedit_columns(evaluate(lm, one, edit))
    row = frame[(frame["group"] == "reliability") & (frame["state"] == "after")].iloc[0]
    pairs = [one.prompt] * 2, [one.target_new, str(one.target_true)]
    before = lm.score(*pairs).mean_logprob
    with edit.applied(lm) as edited:
        after = edited.score(*pairs).mean_logprob
    sentiment = 1 / (1 + math.exp(-float(after[0] - after[1])))
    topic = min(1.0, math.exp(float(after[0] - before[0])))
    assert row["sentiment"] == pytest.approx(sentiment * topic, rel=1e-5)
    unedited = frame[(frame["group"] == "reliability") & (frame["state"] == "before")].iloc[0]
    assert unedited["z_topic"] == 1
    assert unedited["sentiment"] == pytest.approx(1 / (1 + math.exp(-float(before[0] - before[1]))), rel=1e-5)


def test_a_leak_is_the_old_answer_said(lm: LM) -> None:
    asked = [request(i, target_true="the company") for i in range(2)]
    old = int(lm.encode(["Ann was born in"], ["company"]).input_ids[0, -1])
    new = int(lm.encode(["Ann was born in"], ["Lyon"]).input_ids[0, -1])
    told = {}
    for name, token in (("old", old), ("new", new)):
        records = [each.model_copy(update={"target_true": "company"}) for each in asked]
        frame = knowedit_columns(evaluate(lm, records, always(lm, token)))
        rows = frame[
            (frame["state"] == "after") & (frame["protocol"] == "generated") & (frame["group"] == "edit success")
        ]
        told[name] = rows["leaked"].mean()
    assert told == {"old": 1.0, "new": 0.0}


def test_a_table_refuses_numbers_that_came_about_differently(bench: Bench) -> None:
    bench.table("counterfact", "generated")
    key = next(k for k in bench.metrics if k[0] == "says-one-thing" and k[1] == "counterfact" and k[2] == "after")
    odd = replace(bench.metrics[key], passport=replace(bench.metrics[key].passport, data_hash="other"))
    mixed = Bench(frames=bench.frames, costs=bench.costs, refused={})
    mixed.__dict__["metrics"] = {**bench.metrics, key: odd}
    with pytest.raises(PassportMismatch, match="data_hash"):
        mixed.table("counterfact", key[3].protocol)
    with pytest.raises(BadParameter, match="no edits of the task 'insertion'"):
        bench.table("insertion", "generated")


def test_every_number_carries_its_passport(bench: Bench) -> None:
    numbers = bench.numbers()
    assert {"protocol", "level", "against", "model_hash", "data_hash", "n_requests", "low", "high"} <= set(
        numbers.columns
    )
    assert numbers["value"].between(numbers["low"] - 1e-9, numbers["high"] + 1e-9).all()
    assert set(numbers["editor"]) == {"does-nothing", "says-one-thing"}


def test_paired_differences(bench: Bench) -> None:
    pair = ("says-one-thing", "does-nothing")
    there = difference(bench, *pair, ["counterfact"], "edit success")
    back = difference(bench, *pair[::-1], ["counterfact"], "edit success")
    assert there.mean == -back.mean > 0
    assert difference(bench, pair[0], pair[0], ["counterfact"], "locality") == (0, 0, 0)
    assert within(bench, pair[0], ["counterfact"], "edit success", "edit success") == (0, 0, 0)
    assert len(per_edit(bench, pair[0], ["counterfact", "sentiment"], "edit success", "generated")) == 7
    with pytest.raises(BadParameter, match="nothing to resample"):
        span([])


def test_nobody_on_the_front_is_beaten_and_everybody_else_is() -> None:
    rng = np.random.default_rng(0)
    points = {str(i): (float(x), float(y)) for i, (x, y) in enumerate(rng.random((30, 2)))}
    best = front(points)
    for name, (x, y) in points.items():
        beaten = any(u > x and v > y for u, v in points.values())
        assert beaten == (name not in best)


# Edits abreast


def deltas(lm: LM) -> list[Intervention]:
    torch.manual_seed(0)
    found: list[Intervention] = []
    for scale in (0.0, 0.5, 2.0):
        name, parameter, _ = lm.weight(1, "down")
        rows, columns = parameter.shape
        low_rank = LowRank(scale * torch.randn(rows, 1), torch.randn(1, columns))
        up, weight, _ = lm.weight(0, "up")
        found.append(WeightDelta({name: low_rank, up: Dense(scale * torch.randn_like(weight))}))
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_texts_told_abreast_are_those_told_alone(family: str) -> None:
    lm = make_lm(family)
    prompts, edits = ["Ann was born in", "the company", "music is"], deltas(lm)
    assert all(fits(lm, edit) for edit in edits)
    with abreast(lm, edits) as together:
        texts = together.generate(prompts, max_new_tokens=8, temperature=1.0)
        rows = together.next_logprobs(prompts)
    for row, (prompt, edit) in enumerate(zip(prompts, edits, strict=True)):
        with edit.applied(lm) as edited:
            assert edited.generate([prompt], max_new_tokens=8, temperature=1.0) == [texts[row]]
            torch.testing.assert_close(edited.next_logprobs([prompt])[0], rows[row], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lm.next_logprobs(prompts)[2], rows[2], atol=1e-2), "the control: the edit does something"
    torch.testing.assert_close(lm.next_logprobs(prompts)[0], rows[0])


def test_a_text_for_which_there_is_no_room_is_left_out_and_nothing_else(lm: LM) -> None:
    tasks = {"counterfact": TASKS_HERE["counterfact"][:2]}
    found = benchmark(lm, tasks, [as_method("does_nothing")], layer=1, fluency=Fluency(new_tokens=400))
    table = found.table("counterfact", "generated")
    assert "fluency" not in table
    assert table.loc["does-nothing", "locality"] == 1
    told = benchmark(lm, tasks, [as_method("does_nothing")], layer=1, fluency=FEW).table("counterfact", "generated")
    assert told["fluency"].notna().all()


def test_what_cannot_run_abreast_says_so(lm: LM) -> None:
    embedding = WeightDelta({"transformer.wte.weight": Dense(torch.zeros(lm.model.transformer.wte.weight.shape))})
    patch = HiddenStatePatch(site=Site("resid_post", 0), vector=torch.zeros(lm.d_model))
    assert not fits(lm, embedding)
    assert not fits(lm, patch)
    with pytest.raises(IncompatibleIntervention, match="apply it alone"), abreast(lm, [patch]):
        pass
    with pytest.raises(IncompatibleIntervention, match=r"3 rows.*2 rows"), abreast(lm, deltas(lm)) as edited:
        edited.next_logprobs(["Ann was", "the company"])
    assert not any(module._forward_hooks for module in lm.model.modules()), "hooks come off after an error"


@pytest.mark.parametrize("each", methods("editor"), ids=lambda each: each.name)
def test_edits_made_side_by_side_are_those_made_alone(each: Method) -> None:
    lm = model(each, "gpt2")
    given = {
        "layer": LAYER,
        "texts": TEXTS["en"],
        "facts": UNTOUCHED,
        "trained": trained(each, "gpt2"),
        "known": "keep",
    }
    together = each.edit_each(lm, [REQUEST, SECOND], **given)
    prompts = [REQUEST.prompt, SECOND.prompt, *(fact.prompt for fact in UNTOUCHED[:3])]
    for one, edit in zip((REQUEST, SECOND), together, strict=True):
        with each.edit(lm, [one], **given).applied(lm) as edited:
            alone = edited.next_logprobs(prompts)
        with edit.applied(lm) as edited:
            torch.testing.assert_close(edited.next_logprobs(prompts), alone, rtol=1e-3, atol=1e-3)
    with together[0].applied(lm) as first:
        said = first.next_logprobs(prompts)
    assert not torch.allclose(said, alone, atol=1e-3), "the control: two requests are two edits"


@pytest.mark.parametrize("name", ["ice", "ike", "grace", "grace-prompt", "t-patcher"])
def test_edits_beside_a_model_say_abreast_what_they_say_alone(name: str) -> None:
    [each] = editors(name)
    lm = model(each, "gpt2")
    edits = [make(each, "gpt2", one) for one in (REQUEST, SECOND)]
    assert all(can_share(lm, edit) for edit in edits)
    shared = evaluate(lm, [REQUEST, SECOND], edits)
    alone = pd.concat([evaluate(lm, one, edit) for one, edit in zip((REQUEST, SECOND), edits, strict=True)])
    keys = ["request", "group", "probe", "protocol"]
    sides = [frame[frame["state"].eq("after")].sort_values(keys).reset_index(drop=True) for frame in (shared, alone)]
    assert sides[0]["answer"].tolist() == sides[1]["answer"].tolist()
    np.testing.assert_allclose(sides[0]["logprob"], sides[1]["logprob"], rtol=1e-3, atol=1e-4)
    swapped = evaluate(lm, [REQUEST, SECOND], edits[::-1])
    other = swapped[swapped["state"].eq("after")].sort_values(keys)["logprob"]
    assert not np.allclose(sides[0]["logprob"], other, atol=1e-2, equal_nan=True), "the control: each under its own"
    for told in stories(lm, [REQUEST, SECOND], edits, FEW):
        with edits[told.request is SECOND].applied(lm) as edited:
            assert generated_texts(edited, [told.prompt], FEW) == [told.text]


# Errors, skills, costs, figures


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("New York, in", "right"), ("", "meaningless"), ("\n\n", "meaningless"), ("York York York", "meaningless"),
        ("Lyon and", "unchanged"), ("York", "missing"), ("New Lyon", "partial"), ("a red boat", "irrelevant"),
    ],
)  # fmt: skip
def test_kinds_of_answers(answer: str, kind: str) -> None:
    assert kind_of(answer, ["New York"], "Lyon") == kind


def test_mistakes_are_counted_once_for_every_answer(bench: Bench) -> None:
    frames = {editor: mistakes(bench.frames[editor, "counterfact"]) for editor in bench.editors}
    table = counts(frames)
    assert list(table.columns) == list(KINDS)
    assert (table.sum(axis=1) == 8).all(), "four edits, each asked in two forms"
    assert table.loc["says-one-thing", "right"] == 8 > table.loc["does-nothing", "right"]


def test_skills_stay_without_an_edit_and_go_with_a_bad_one() -> None:
    lm = load("speak-s0")
    asked = batteries(lm, n=6)
    assert {"copying, new lists", "opinions, right polarity", "largest of three, new triples"} <= set(asked)
    before = answered(lm, asked)
    with nothing(lm).applied(lm) as edited:
        same = changed(before, answered(edited, asked)).set_index("skill")
    assert (same["difference"] == 0).all()
    with WeightDelta({lm.weight(1, "down").name: Dense(torch.randn_like(lm.weight(1, "down").parameter))}).applied(
        lm
    ) as bad:
        lost = changed(before, answered(bad, asked)).set_index("skill")
    assert lost.loc["all skills", "high"] < -0.3
    assert lost.loc["all skills", "n"] == sum(len(questions) for questions in asked.values())


def test_a_model_without_a_world_has_no_batteries(lm: LM) -> None:
    assert batteries(lm) == {}
    assert answered(lm, {"mine": [Question("Ann was born in", ("Lyon", "Paris"))]})["mine"].shape == (1,)


def test_costs_count_what_changes_and_what_is_stored(lm: LM) -> None:
    meter, (_, change, _) = Meter(device=torch.device("cpu")), deltas(lm)
    with meter.running():
        big = torch.ones(16_000_000).sum()  # too large for memory that was freed before + sum(range(200_000))
    assert big > 0
    cost = meter.cost(lm, [change])
    down, up = lm.weight(1, "down").parameter, lm.weight(0, "up").parameter
    assert cost.touched == touched(lm, change) == down.numel() + up.numel()
    assert cost.stored == sum(down.shape) + up.numel() < cost.touched
    assert cost.seconds > 0
    assert math.isnan(cost.peak_mb) or cost.peak_mb >= 40, "64 megabytes were held at once"
    assert touched(lm, HiddenStatePatch(site=Site("resid_post", 0), vector=torch.zeros(lm.d_model))) == 0


def test_figures_are_drawn_from_what_the_benchmark_found(bench: Bench) -> None:
    table = pd.concat(
        {task: bench.table(task, "generated", before=False)[["edit success"]] for task in bench.tasks}, axis=1
    )
    assert len(heat_map(table, "title").axes) == 3  # two tasks and the scale
    points = pd.DataFrame({"success": [0.1, 0.9], "kept": [1.0, 0.5], "phase": ["a", "b"]}, index=["x", "y"])
    assert len(pareto(points, "title", x="success", y="kept", kinds="phase").axes) == 1
    assert (
        len(stacked(counts({"x": mistakes(bench.frames["does-nothing", "counterfact"])}), "title", xlabel="share").axes)
        == 1
    )
    assert len(cost_bars(bench.costs, "title").axes) == 2


# Configurations and the paper's table


def test_configurations_name_editors_and_settings_that_exist() -> None:
    known = {each.name: each for each in methods("editor")}
    assert set(CONFIGURATIONS) <= set(known)
    lm = make_lm("gpt2")
    for name, how in CONFIGURATIONS.items():
        settings = known[name].settings_class().__dataclass_fields__
        assert name.partition("-")[0] in CONFIGURATIONS, "a variant is set as its method is"
        assert set(how.arguments(known[name], lm, 0)) <= {"layer", *settings}, name
        assert how.why, "what is not the rule has a reason"
    assert run_of(0, 6) == (0, 1)
    assert run_of(5, 6) == (4, 5)
    assert run_of(0, 1) == (0,)


def test_the_paper_s_table_is_read_with_its_corrections(repository: Project) -> None:
    table = printed(load_taxonomy(repository).entries["zhang2024knowedit"]).set_index(["editor", "set", "quantity"])
    assert table.loc[("ROME", "WikiData recent", "edit success")].tolist() == [85.08, 97.18]
    assert table.loc[("SERAC", "ZsRE", "locality")].tolist() == [30.23, 30.23], "not corrected"
    assert table.loc[("FT-L", "WikiData recent", "edit success")].tolist() == [71.18, 55.75]
    text = as_corrected(table.reset_index())
    assert text.loc[("WikiData recent", "edit success"), "ROME"] == "85.1 → 97.2"
    assert text.loc[("ZsRE", "locality"), "SERAC"] == "30.2"
    assert text.loc[("ZsRE", "locality"), "AdaLoRA"] == "", "no claim cites it"


def test_materials_leave_the_edited_subjects_out() -> None:
    lm = load("gpt2-s0")
    tasks = tasks_for(lm, "world", per_task=2)
    given = materials_for(lm, tasks, n_texts=5)
    edited = {each.subject for requests in tasks.values() for each in requests}
    assert len(given.texts) == 5
    assert given.facts
    assert not edited & {fact.subject for fact in given.facts}
    assert isinstance(given, Materials)


# Variants


def test_variants_stand_under_their_method_and_batches_apart(lm: LM) -> None:
    some = {"counterfact": TASKS_HERE["counterfact"][:2]}
    chosen = editors("ft-m, alphaedit, emmet")
    assert {each.name for each in variants_of(chosen)} == {"emmet-ridge"}
    batches = variants_of(chosen, sequel=True)
    assert {each.name for each in batches} == {"alphaedit-one-by-one", "alphaedit-forgetting", "emmet-summed"}
    assert {each.name for each in editors("variants")} == {n.name for n in editors("all")} - {
        n.name for n in editors("main")
    }
    how = {"layer": 1, "materials": Materials(texts=TEXTS["en"], facts=UNTOUCHED)}
    main = benchmark(lm, some, editors("emmet"), fluency=None, **how)
    both = beside(main, benchmark(lm, some, editors("emmet-ridge"), fluency=None, **how))
    assert both.editors == ("emmet", "emmet-ridge")
    joint = together(lm, some["counterfact"], editors("emmet, emmet-summed"), **how)
    table = joint.table("counterfact", "generated")
    assert list(table.index) == ["(before)", "emmet", "emmet-summed"]
    assert joint.frames["emmet", "counterfact"]["request"].nunique() == 2


def test_one_bad_edit_leaves_the_model_as_it_is_and_the_others_stand(lm: LM) -> None:
    tasks = {"counterfact": TASKS_HERE["counterfact"]}
    bench = benchmark(lm, tasks, [as_method("refuses_one"), as_method("says_one_thing")], layer=1, fluency=None)
    assert not bench.refused
    [(key, reasons)] = bench.missing.items()
    assert key == ("refuses-one", "counterfact")
    assert reasons == {"r1": "not this one"}
    made = per_edit(bench, "refuses-one", ["counterfact"], "edit success", "generated")
    kept = per_edit(bench, "refuses-one", ["counterfact"], "locality", "generated")
    assert made["r1"] == 0 < made.drop("r1").min()
    assert kept["r1"] == 1
    assert set(bench.table("counterfact", "generated").index) == {"(before)", "refuses-one", "says-one-thing"}


def test_what_cannot_be_asked_is_no_edit_that_failed(lm: LM) -> None:
    tasks = {"counterfact": TASKS_HERE["counterfact"][:2]}
    bench = benchmark(lm, tasks, [as_method("says_too_much"), as_method("does_nothing")], layer=1, fluency=None)
    assert not bench.refused
    assert "exceeds" in bench.unasked["says-too-much", "counterfact"] or "context" in str(bench.unasked)
    assert bench.editors == ("does-nothing",)


def test_a_few_edits_of_one_value_are_no_certainty() -> None:
    sure, mixed = over_edits([1.0] * 6), over_edits([1.0, 0.5, 0.0, 1.0])
    assert (sure.mean, sure.high) == (1.0, 1.0)
    assert 0.5 < sure.low < 0.7
    assert mixed == span([1.0, 0.5, 0.0, 1.0])
