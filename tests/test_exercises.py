"""Checkers of the exercises of five detection notebooks: a right answer is accepted and a plausible wrong one refused.

Executing a notebook runs one cheap call of its checker. Here the functions of the notebook are taken out of its source
and asked on a few facts of a bundled testbed, or on numbers whose answer is known.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from paramem import load
from paramem.detection.agreement import AgreementSettings, overlap, top_layers, variance_explained
from paramem.detection.causal_tracing import TraceSettings, embedding_std, role_effects, trace, trace_facts
from paramem.facts import Fact
from paramem.material import facts_for, known_facts
from paramem.models import LM


def functions(name: str, **values: object) -> dict[str, Any]:
    """The functions, imports and constants of a notebook, without the rest of its cells, and the given values."""
    body = ast.parse((ROOT / f"notebooks/detection/{name}.py").read_text()).body
    kept = [
        node
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper())
    ]
    names: dict[str, Any] = dict(values)  # defaults of arguments need some of them
    exec(compile(ast.Module(kept, []), name, "exec"), names)
    names.update(values)  # what is given takes the place of what was imported
    return names


@cache
def ground() -> tuple[LM, list[Fact], float]:
    """A testbed, a few facts that it knows, and the noise of their subjects."""
    lm = load("gpt2-s0")
    facts = known_facts(lm, facts_for(lm, "world")[:40], 4, 0)
    return lm, facts, 3 * embedding_std(lm, [fact.subject for fact in facts])


def verdicts(names: Mapping[str, Any], exercise: int, answers: list[object]) -> list[bool]:
    return [str(names["check"](exercise, answer)) == "right" for answer in answers]


@pytest.mark.parametrize(("late", "moved"), [((4, 4), "as far"), ((3, 4), "further"), ((4, 3), "closer")])
def test_sites_that_move_apart_are_further(late: tuple[int, int], moved: str) -> None:
    def peaked(kind: TraceSettings, role: str) -> np.ndarray:
        layer = 1 if kind.site == "mlp_out" else late[kind.window == 3]
        return np.eye(6)[[layer]]

    names = functions(
        "causal_tracing",
        trace_facts=lambda lm, facts, kind, noise_level: kind,
        role_effects=peaked,
        lm=None, few=[], level=0.0, fact=None,
    )  # fmt: skip
    answers = ["as far", "further", "closer"]
    assert verdicts(names, 1, list(answers)) == [answer == moved for answer in answers]


def test_answers_of_causal_tracing_are_those_of_the_traces() -> None:
    lm, few, level = ground()
    bare, whole = (
        role_effects(trace_facts(lm, few, TraceSettings(severed=kind), noise_level=level), "subject last")[:, 0].mean()  # type: ignore[arg-type]
        for kind in ("both", None)
    )
    names = functions("causal_tracing", lm=lm, few=few, level=level, fact=few[0], lowest={"nothing severed": whole})
    assert verdicts(names, 3, [bare / whole, 0.0]) == [True, False]
    assert sum(verdicts(names, 1, ["as far", "further", "closer"])) == 1
    found = trace(lm, few[0].prompt, few[0].subject, TraceSettings(corrupted="relation"))
    table = found.frame()
    best = table[table["role"] != "last"].nlargest(1, "indirect_effect").iloc[0]
    place = (int(best["token"]), int(best["layer"]))
    assert verdicts(names, 2, [place, (place[0], place[1] + 1)]) == [True, False]


@pytest.mark.parametrize(("together", "right"), [(0.5, "more"), (0.2, "less")])
def test_three_hidden_layers_are_compared_with_the_sum_of_three(together: float, right: str) -> None:
    def flow(lm: object, facts: object, settings: Any) -> pd.DataFrame:
        change = [-0.1] * 5 if settings.window == 1 else [-0.1, -0.1, -together, -0.1, -0.1]
        return pd.DataFrame({"blocked": "subject", "layer": range(5), "change": change})

    names = functions("dissecting_recall", information_flow=flow, lm=None, facts=[])
    assert verdicts(names, 1, ["more", "less"]) == [right == "more", right == "less"]


def test_the_loss_in_three_layers_of_a_testbed_has_one_answer() -> None:
    lm, facts, _ = ground()
    change = pd.DataFrame({"relation": [-0.1, -0.4, 0.0]}).T
    names = functions("dissecting_recall", lm=lm, facts=facts, change=change)
    assert sum(verdicts(names, 1, ["more", "less"])) == 1
    assert verdicts(names, 2, [1, 0]) == [True, False]


def test_one_layer_named_is_another_ruler_than_two() -> None:
    effects = np.random.default_rng(0).random((3, 40, 6))
    by_layer = {("subject", "MLP"): effects[0], ("relation", "MLP"): effects[1]}
    again = list(effects[0] + 0.1 * effects[2])
    names = functions(
        "entity_and_relation",
        by_layer=by_layer,
        again=again,
        sides=("subject", "relation"),
        strangers=np.array([0.4, 0.2]),
    )

    def gap(k: int) -> float:
        same, other = (
            np.mean([overlap(top_layers(a, k), top_layers(b, k)) for a, b in zip(effects[0], rows, strict=True)])
            for rows in (again, effects[1])
        )
        return float(same - other)

    assert abs(gap(1) - gap(2)) > 0.03, "the control: the rulers differ"
    assert verdicts(names, 1, [gap(1), gap(2)]) == [True, False]
    assert verdicts(names, 2, [1, 0]) == [True, False]


@pytest.mark.parametrize("selective", [True, False])
def test_harm_is_selective_where_it_is_larger_than_elsewhere(selective: bool) -> None:
    """A language's neurons cost it one nat, and the other language nothing, or as much; random ones cost nothing."""

    def off(lm: object, items: object, sets: Mapping[str, Any], measure: str) -> pd.DataFrame:
        cells = [(item, name, language) for item in range(9) for name in sets for language in ("en", "es")]
        table = pd.DataFrame(cells, columns=["item", "neurons", "language"])
        mine, theirs = table["neurons"] == table["language"], table["neurons"].isin(["en", "es"])
        return table.assign(drop=(mine if selective else theirs).astype(float))

    names = functions(
        "languages",
        deactivation=off,
        reselected=lambda table, settings: table,
        neurons_of=lambda table, language: [(0, 0)],
        random_like=lambda lm, found, generator: found,
        lm=None, items=None, table=None, texts={"en": [], "es": []}, seed=0, n_draws=1,
    )  # fmt: skip
    assert verdicts(names, 1, ["yes", "no"]) == [selective, not selective]


def test_the_share_of_variance_that_changes_most_is_found() -> None:
    """Wide windows bring back what edits reach, and single layers nothing of it: the share of tracing changes."""
    rng, cells = np.random.default_rng(0), [(f"f{i}", layer) for i in range(30) for layer in range(4)]
    table = pd.DataFrame(cells, columns=["fact", "layer"]).assign(tracing=rng.random(120))
    table["rewrite"] = 0.9 * (table["layer"] < 2) + 0.1 * rng.random(120)
    brought_back = {fact: rows.to_numpy() for fact, rows in table.groupby("fact")["rewrite"]}
    facts = [Fact(id=name, subject="a", relation="r", object="o", template="{} is") for name in brought_back]
    names = functions(
        "tracing_and_editing",
        trace_facts=lambda lm, facts, settings: [brought_back[fact.id] for fact in facts if settings.window == 3],
        layer_effects=lambda found: found,
        lm=None, facts=facts, table=table, settings=AgreementSettings(), raw=variance_explained(table)["r2"],
    )  # fmt: skip
    assert verdicts(names, 1, ["layer", "tracing", "both"]) == [False, True, False]

    def crossed(layer: np.ndarray, tracing: np.ndarray) -> np.ndarray:
        return (2 * layer - 1) * tracing

    assert verdicts(names, 2, [crossed, lambda layer, tracing: tracing + layer]) == [True, False]
