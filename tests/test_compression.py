"""Pruned, rounded, one-bit and narrower models: what each promises, on every family, and that it comes off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from families import D_MLP, FAMILIES, make_lm
from paramem import load
from paramem.compression.forgetting import (
    FACTS,
    OFTEN,
    RARE,
    SPANISH,
    asked,
    by_fact,
    forgetting,
    questions_for,
)
from paramem.compression.modules import matrices, oriented
from paramem.compression.onebit import (
    DistilSettings,
    average_bits,
    distil,
    one_bit,
    one_bit_matrix,
    residuals,
    svid,
)  # fmt: skip
from paramem.compression.pruning import PruneSettings, prune, pruned
from paramem.compression.rounding import RoundSettings, quantise, round_to_nearest
from paramem.compression.width import WidthSettings, importance, narrow
from paramem.errors import BadInput, BadParameter, ParamemError
from paramem.interventions import WeightDelta, load_intervention
from paramem.models import LM

TEXTS = ["The capital of France is Paris .", "Ann was born in Lyon .", "Anna is in the company of Ann ."] * 3


def matrix(rows: int = 7, columns: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MAKERS: dict[str, Callable[[LM], WeightDelta]] = {
    "prune": lambda lm: prune(lm, PruneSettings(sparsity=0.5)),
    "prune together": lambda lm: prune(lm, PruneSettings(sparsity=0.5, scope="group")),
    "round": lambda lm: quantise(lm, RoundSettings(bits=2)),
    "one bit": one_bit,
    "narrow": lambda lm: narrow(lm, WidthSettings(removed=0.5)),
    "distilled": lambda lm: distil(lm, TEXTS, DistilSettings(steps=2, rows=3)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MAKERS)
def test_every_method_changes_every_family_and_comes_off_again(name: str, family: str, tmp_path: Path) -> None:
    lm = make_lm(family)
    before, prompts = lm.fingerprint(), ["The capital of France is"]
    said = lm.next_logprobs(prompts)
    delta = MAKERS[name](lm)
    assert lm.fingerprint() == before
    assert all(not p.requires_grad and p.grad is None for p in lm.model.parameters())
    with delta.applied(lm):
        assert not torch.allclose(lm.next_logprobs(prompts), said, atol=1e-3)
    assert lm.fingerprint() == before
    again = load_intervention(delta.save(tmp_path / "delta.safetensors"))
    assert again.fingerprint() == delta.fingerprint()


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_disjoint_and_make_up_all(family: str) -> None:
    lm = make_lm(family)
    names = {group: {ref.name for ref in matrices(lm, group)} for group in ("attention", "feed-forward", "all")}
    assert names["attention"] | names["feed-forward"] == names["all"]
    assert not names["attention"] & names["feed-forward"]
    assert names["attention"]
    blocks = [n for n, p in lm.arch.blocks.named_parameters() if p.ndim == 2]
    assert len(names["all"]) == len(blocks)  # every matrix of every block, and no other
    touched = set(prune(lm, PruneSettings(sparsity=0.5, group="attention")).parts)
    assert touched == names["attention"]


@given(st.floats(0, 1), st.integers(0, 5))
def test_pruning_takes_the_smallest_and_as_many_as_asked(sparsity: float, seed: int) -> None:
    W = matrix(seed=seed)
    out = pruned(W, sparsity)
    gone = out == 0
    assert int(gone.sum()) == int(sparsity * W.numel())
    assert torch.equal(out[~gone], W[~gone])
    if gone.any() and not gone.all():
        assert W[gone].abs().max() <= W[~gone].abs().min()


def test_ranking_together_spares_the_matrices_with_large_weights() -> None:
    lm = make_lm("gpt2")
    ref = matrices(lm, "all")[0]
    with torch.no_grad():
        ref.parameter.mul_(100)
    zeros = {}
    for scope in ("matrix", "group"):
        with prune(lm, PruneSettings(sparsity=0.5, scope=scope)).applied(lm):  # type: ignore[arg-type]
            zeros[scope] = [float((oriented(r) == 0).double().mean()) for r in matrices(lm, "all")]
    assert zeros["matrix"][0] == pytest.approx(0.5, abs=0.01)
    assert zeros["group"][0] < 0.05
    assert np.average(zeros["group"], weights=[r.parameter.numel() for r in matrices(lm, "all")]) == pytest.approx(
        0.5, abs=0.01
    )


@given(st.integers(1, 10), st.booleans())
def test_rounding_is_near_has_few_levels_and_is_idempotent(bits: int, per_channel: bool) -> None:
    W = matrix(6, 40)
    near = round_to_nearest(W, bits, per_channel=per_channel)
    width = (W.amax(1, keepdim=True) - W.amin(1, keepdim=True)) if per_channel else W.max() - W.min()
    assert ((near - W).abs() <= width / (2**bits - 1) / 2 + 1e-12).all()
    assert all(len(row.unique()) <= 2**bits for row in near)
    assert torch.allclose(round_to_nearest(near, bits, per_channel=per_channel), near, atol=1e-9)
    if bits == 1:
        assert not torch.allclose(near, W, atol=0.1)  # the control
    assert torch.equal(round_to_nearest(torch.ones(2, 3), bits), torch.ones(2, 3))


def test_a_channel_of_its_own_grid_is_not_spoiled_by_a_large_neighbour() -> None:
    W = torch.stack([torch.linspace(-1, 1, 16), torch.linspace(-100, 100, 16)])
    errors = {own: float((round_to_nearest(W, 4, per_channel=own) - W)[0].abs().max()) for own in (True, False)}
    assert errors[True] < 1e-5
    assert errors[False] > 0.5


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 50))
def test_signs_bring_a_matrix_nearer_than_rank_one(rows: int, columns: int, seed: int) -> None:
    W = matrix(rows, columns, seed)
    ours, rank_one = residuals(W)
    assert ours <= rank_one + 1e-9  # Proposition 2, xu2024onebit
    signs, a, b = svid(W)
    assert set(signs.unique().tolist()) <= {-1.0, 1.0}
    assert (a >= 0).all()
    assert (b >= 0).all()
    assert torch.allclose(W - one_bit_matrix(W), signs * (W.abs() - torch.outer(a, b)))


def test_the_decomposition_is_exact_where_magnitudes_have_rank_one_and_only_there() -> None:
    signs = torch.where(matrix(seed=3) < 0, -1.0, 1.0).double()
    W = signs * torch.outer(torch.arange(1.0, 8.0).double(), torch.arange(1.0, 6.0).double())
    ours, rank_one = residuals(W)
    assert ours == pytest.approx(0, abs=1e-9)
    assert rank_one > 0.3
    assert residuals(W + matrix(seed=4))[0] > 0.01
    assert average_bits(4096, 4096) == pytest.approx(1.0078, abs=1e-4)
    assert torch.equal(svid(torch.zeros(2, 2))[0], torch.ones(2, 2))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_moves_a_one_bit_model_towards_the_full_one(family: str) -> None:
    lm = make_lm(family)
    batch = lm.encode(TEXTS[:3])
    full = lm.logits(batch).log_softmax(-1)

    def distance(delta: WeightDelta) -> float:
        with delta.applied(lm):
            return float((full.exp() * (full - lm.logits(batch).log_softmax(-1))).sum(-1).mean())

    trained = distil(lm, TEXTS, DistilSettings(steps=40, rows=6, lr=5e-3))
    assert distance(trained) < 0.5 * distance(one_bit(lm))
    for ref in matrices(lm, "all"):
        made = oriented(ref) + (trained.dense(ref.name).T if ref.transposed else trained.dense(ref.name))
        _left, values, _ = torch.linalg.svd(made.abs())
        assert values[1] < 1e-5 * values[0]  # still signs times a rank-one matrix


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_begins_with_the_signs_of_the_weights_or_with_others(family: str) -> None:
    lm = make_lm(family)

    def agreeing(start: Literal["signs", "chance"]) -> float:
        made = distil(lm, TEXTS, DistilSettings(steps=1, rows=3, lr=1e-9, start=start))
        kept = [
            (oriented(ref) + (made.dense(ref.name).T if ref.transposed else made.dense(ref.name))) * oriented(ref) > 0
            for ref in matrices(lm, "all")
        ]
        return float(torch.cat([each.flatten() for each in kept]).float().mean())

    assert agreeing("signs") > 0.999
    assert 0.4 < agreeing("chance") < 0.6, "the control starts without them"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("criterion", ["peak-to-peak", "largest", "norm product", "chance"])
def test_a_neuron_that_is_taken_out_writes_nothing_and_the_others_what_they_did(family: str, criterion: str) -> None:
    lm = make_lm(family)
    how = WidthSettings(removed=0.25, criterion=criterion)  # type: ignore[arg-type]
    gone = importance(lm, 1, how).argsort(stable=True)[: D_MLP // 4]
    batch = lm.encode(["Ann was born in"])
    before, down = lm.weight(1, "down"), oriented(lm.weight(1, "down")).clone()
    with narrow(lm, how).applied(lm):
        after = oriented(before)
        assert not after[:, gone].any()
        stay = [i for i in range(D_MLP) if i not in gone.tolist()]
        assert torch.equal(after[:, stay], down[:, stay])
        changed = lm.logits(batch)
        # what is left does not depend on what the removed neurons would have said
        with torch.no_grad():
            for role in ("gate", "up"):
                if role in lm.arch.layout.weights:
                    oriented(lm.weight(1, role))[gone] = 7.0
        assert torch.allclose(lm.logits(batch), changed)


def test_importance_ranks_by_what_its_name_says() -> None:
    lm = make_lm("gpt2")
    ref = lm.weight(0, "up")
    with torch.no_grad():
        oriented(ref)[3] = 5.0  # large, and all alike: no spread
        oriented(ref)[4, 0] = 9.0
        oriented(ref)[4, 1] = -9.0
    top = {
        c: int(importance(lm, 0, WidthSettings(removed=0.1, criterion=c)).argmax()) for c in ("peak-to-peak", "largest")
    }  # type: ignore[arg-type]
    assert top == {"peak-to-peak": 4, "largest": 4}
    spread = importance(lm, 0, WidthSettings(removed=0.1))
    assert spread[3] == 0
    assert importance(lm, 0, WidthSettings(removed=0.1, criterion="largest"))[3] == 5
    chance = [importance(lm, 0, WidthSettings(removed=0.1, criterion="chance", seed=s)) for s in (0, 0, 1)]
    assert torch.equal(chance[0], chance[1])
    assert not torch.equal(chance[0], chance[2])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda lm: PruneSettings(sparsity=1.5), "1.5"),
        (lambda lm: pruned(matrix(), -0.1), "-0.1"),
        (lambda lm: RoundSettings(bits=0), "0 bits"),
        (lambda lm: round_to_nearest(matrix(), -1), "-1 bits"),
        (lambda lm: WidthSettings(removed=2), "2"),
        (lambda lm: WidthSettings(removed=0.1, criterion="size"), "size"),
        (lambda lm: prune(lm, PruneSettings(sparsity=0.5, group="mlp")), "'mlp'"),
        (lambda lm: one_bit(lm, "heads"), "'heads'"),
        (lambda lm: svid(torch.zeros(3)), r"\(3,\)"),
        (lambda lm: DistilSettings(steps=0), "0 steps"),
        (lambda lm: distil(lm, TEXTS[:2], DistilSettings(rows=3)), "2 texts"),
        (lambda lm: questions_for(lm, 0), "0 facts"),
        (lambda lm: questions_for(lm, 3), "bundled testbed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call: Callable[[LM], object], says: str) -> None:
    with pytest.raises(ParamemError, match=says) as caught:
        call(make_lm("gpt2"))
    assert isinstance(caught.value, (BadParameter, BadInput))


@pytest.mark.parametrize("name", ["gpt2-s0", "edit-gpt2-s0", "speak-s0"])
def test_a_testbed_is_asked_what_its_world_can_answer(name: str) -> None:
    lm = load(name)
    questions = questions_for(lm, 20)
    groups = {question.group for question in questions}
    assert (RARE in groups, OFTEN in groups, SPANISH in groups) == (
        name.startswith("edit"),
        name.startswith("edit"),
        name.startswith("speak"),
    )
    table = asked(lm, questions)
    assert len(table) == len(questions)
    assert by_fact(table, FACTS).mean() > 0.9
    assert (table["kind"] >= table["exact"]).all()
    lost = forgetting(lm, questions, {("prune all", 99): prune(lm, PruneSettings(sparsity=0.99))})
    assert by_fact(lost, FACTS).mean() < 0.3
    assert set(lost["method"]) == {"prune all"}
    assert set(by_fact(lost, FACTS).index) == set(by_fact(table, FACTS).index)
