"""What holds for every registered detector, on models of every family that know a handful of facts.

A detector only looks: it leaves weights, hooks, gradients and modes as they were, says the same thing twice, does not
care how many rows go through the model at once, and refuses what it cannot look at. A new detector is tested here from
the moment it is registered.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from families import FAMILIES
from known import FACTS, TEXTS, knowing
from paramem.arch import HookPoint, Site
from paramem.errors import BadInput, BadParameter
from paramem.hooks import attach
from paramem.models import LM
from paramem.registry import Method, method, methods

DETECTORS = methods("detector")
by_detector = pytest.mark.parametrize("each", DETECTORS, ids=lambda each: each.name)

# Detectors that mean something for a fact the model does not know, each with the reason.
READS_UNKNOWN_FACTS: dict[str, str] = {
    "key-value-memories": "it reads the prefixes of statements and asks for no answer",
    "logit-lens": "where an answer stands that is not on top is what it shows",
    "feature-neurons": "the facts give the words that neurons are named after",
}

# Where a result may move when rows are added to a forward, how far, and why.
LOOSE: dict[str, float] = {
    # In the last layer an edit cannot reach its answer: the gradient is rounding noise, and Adam makes steps of it.
    "tracing-against-editing": 1e-3,
}


def takes_facts(each: Method) -> bool:
    return "facts" in each.resolve().__annotations__


@cache
def found(each: Method, family: str, **settings: object) -> pd.DataFrame:
    return each.detect(knowing(family), FACTS, TEXTS, **settings)


def state_of(lm: LM) -> dict[str, object]:
    """Everything that a detector could leave behind in a model."""
    modules = dict(lm.model.named_modules())
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for n, m in modules.items()}
    parameters = {n: (p.requires_grad, p.grad is not None) for n, p in lm.model.named_parameters()}
    modes = {n: m.training for n, m in modules.items()}
    config = lm.model.config._attn_implementation
    return {"weights": lm.fingerprint(), "hooks": hooks, "parameters": parameters, "modes": modes, "attention": config}


def faults(frame: pd.DataFrame) -> list[str]:
    """What is wrong with a table: not tidy, or not a number; ``x_where_y`` is missing exactly where y never is."""
    wrong = [] if len(frame) else ["no rows"]
    for name in [each for each in frame.columns if "_where_" in str(each)]:
        never = frame[name.split("_where_")[1]] == 0
        wrong += [] if frame[name].isna().equals(never) else [f"missing in {name}"]
        frame = frame.assign(**{name: frame[name].mask(never, 0.0)})
    wrong += [f"column {name!r} is no name" for name in frame.columns if not isinstance(name, str)]
    wrong += [f"missing in {name}" for name in frame.columns if frame[name].isna().any()]
    numbers = frame.select_dtypes("number")
    wrong += [f"not finite: {name}" for name in numbers if not torch.isfinite(torch.tensor(numbers[name].values)).all()]
    named = [name for name in frame.columns if not pd.api.types.is_float_dtype(frame[name])]
    wrong += [] if named and not frame.duplicated(named).any() else ["two rows for one place"]
    return wrong


@pytest.mark.parametrize("family", FAMILIES)
@by_detector
def test_a_detector_looks_at_every_family_and_touches_nothing(each: Method, family: str) -> None:
    lm = knowing(family)
    before, generator = state_of(lm), torch.get_rng_state()
    frame = found(each, family)
    assert faults(frame) == []
    assert state_of(lm) == before
    assert torch.equal(torch.get_rng_state(), generator), "draw from a generator of your own"


def leave_a_hook(lm: LM) -> Callable[[], None]:
    return attach(HookPoint(lm.model, "output"), lambda state: None).remove


def want_gradients(lm: LM) -> Callable[[], None]:
    lm.model.requires_grad_(True)
    return lambda: lm.model.requires_grad_(False)


def train_on(lm: LM) -> Callable[[], None]:
    lm.model.train()
    return lambda: lm.model.eval()


def nudge_a_weight(lm: LM) -> Callable[[], None]:
    weight = lm.weight(0, "down").parameter
    old = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1e-12
    return lambda: weight.data.copy_(old)


@pytest.mark.parametrize("fault", [leave_a_hook, want_gradients, train_on, nudge_a_weight])
def test_what_a_detector_leaves_behind_would_be_noticed(fault: Callable[[LM], Callable[[], None]]) -> None:
    lm = knowing("gpt2")
    before = state_of(lm)
    undo = fault(lm)
    try:
        assert state_of(lm) != before
    finally:
        undo()


def test_a_table_that_is_not_tidy_would_be_noticed() -> None:
    good = pd.DataFrame({"fact": ["a", "b"], "score": [0.1, 0.2]})
    assert faults(good) == []
    assert faults(good.iloc[:0]) != []
    assert faults(good.assign(score=[0.1, float("inf")])) == ["not finite: score"]
    assert "missing in score" in faults(good.assign(score=[0.1, None]))
    assert faults(good.assign(fact="a")) == ["two rows for one place"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@by_detector
def test_a_detector_says_the_same_twice_and_something_else_of_another_model(each: Method, family: str) -> None:
    again = each.detect(knowing(family), FACTS, TEXTS)
    assert_frame_equal(again, found(each, family), check_exact=True)
    other = found(each, "qwen3")
    assert not other.equals(again), "the control"


def counted(each: Method, family: str, **settings: object) -> tuple[pd.DataFrame, int]:
    """What a detector finds, and the largest number of rows that one of its forwards had."""
    widest: list[int] = []

    def count(state: torch.Tensor) -> None:
        widest.append(state.shape[0])

    handle = attach(knowing(family).arch.hook_point(Site("mlp_out", 2)), count, reads_only=True)
    try:
        return each.detect(knowing(family), FACTS, TEXTS, **settings), max(widest)
    finally:
        handle.remove()


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Method, str], None]:
    """Fills a cache of the test's own with what a detector keeps on disk (second moments, whose rows are texts).

    With a cache that other tests fill or leave empty it would be chance whether those forwards are counted.
    """

    def fill(each: Method, family: str) -> None:
        monkeypatch.setenv("PARAMEM_CACHE", str(tmp_path))
        if hasattr(importlib.import_module(each.module), "cached_second_moment"):
            each.detect(knowing(family), FACTS, TEXTS)

    return fill


@by_detector
def test_the_number_of_rows_in_a_forward_does_not_matter(
    each: Method, own_cache: Callable[[Method, str], None]
) -> None:
    """On a family with learned positions; the next test is on one with rotary ones."""
    own_cache(each, "gpt2")
    many, wide = counted(each, "gpt2", rows=1024)
    few, narrow = counted(each, "gpt2", rows=3)
    assert_frame_equal(few, many, rtol=1e-7, atol=LOOSE.get(each.name, 1e-10))
    assert narrow < wide, "the control: the setting has an effect"


@by_detector
def test_a_small_memory_takes_fewer_rows_and_finds_the_same(
    each: Method, own_cache: Callable[[Method, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache(each, "llama")
    large, wide = counted(each, "llama")
    monkeypatch.setattr("paramem.lm.ROWS_BUDGET", 40_000)
    small, narrow = counted(each, "llama")
    assert_frame_equal(small, large, rtol=1e-7, atol=LOOSE.get(each.name, 1e-10))
    assert narrow < wide, "the control: the budget has an effect"


@by_detector
def test_a_detector_refuses_what_it_cannot_look_at(each: Method) -> None:
    with pytest.raises(BadInput, match=rf"{each.name} looks at .*none are given"):
        each.detect(knowing("gpt2"))
    with pytest.raises(BadParameter, match=rf"{each.name} has no setting 'colour'; there are"):
        each.detect(knowing("gpt2"), FACTS, TEXTS, colour="red")


@by_detector
def test_a_fact_that_the_model_does_not_know_is_refused_by_name(each: Method) -> None:
    if not takes_facts(each):
        return
    unknown = FACTS[0].model_copy(update={"id": "unknown", "object": "music"})
    facts = (*FACTS[1:], unknown)
    if each.name in READS_UNKNOWN_FACTS:
        assert faults(each.detect(knowing("gpt2"), facts, TEXTS)) == []
    else:
        with pytest.raises(BadInput, match=re.escape(unknown.prompt)):
            each.detect(knowing("gpt2"), facts, TEXTS)


def test_only_detectors_detect() -> None:
    with pytest.raises(BadParameter, match="rome is of kind 'editor', not a detector"):
        method("rome").detect(knowing("gpt2"), FACTS)


def test_texts_come_plain_or_by_language(monkeypatch: pytest.MonkeyPatch) -> None:
    each, seen = method("causal-tracing"), {}

    def plain(lm: LM, texts: list[str], settings: object) -> None:
        seen["texts"] = texts

    def by_language(lm: LM, texts_by_language: dict[str, list[str]], settings: object) -> None:
        seen["by_language"] = texts_by_language

    monkeypatch.setattr(Method, "resolve", lambda self: plain)
    each.detect(knowing("gpt2"), texts=TEXTS)
    assert seen["texts"] == [*TEXTS["en"], *TEXTS["es"]]
    monkeypatch.setattr(Method, "resolve", lambda self: by_language)
    each.detect(knowing("gpt2"), texts=TEXTS)
    assert seen["by_language"] == TEXTS
    with pytest.raises(BadInput, match="looks at texts_by_language"):
        each.detect(knowing("gpt2"), texts=TEXTS["en"])
