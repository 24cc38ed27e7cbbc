"""LoRA and AdaLoRA as editors: what comes back, that the model is untouched, and that ranks really change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AdaLoraModel

from edits import REQUESTS
from families import FAMILIES, make_lm
from paramem.editing.low_rank import LowRankSettings, adapted, asked, low_rank, ranks
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import load_intervention
from paramem.models import LM
from parity import facts, tiny


def request(i: int, target: str | None = None) -> EditRequest:
    rewrite = facts()[i]["requested_rewrite"]
    return EditRequest(
        id=str(i),
        subject=rewrite["subject"],
        template=rewrite["prompt"],
        target_new=target or rewrite["target_new"]["str"],
    )


def settings(**changes: object) -> LowRankSettings:
    return LowRankSettings(**{"rank": 2, "init_rank": 4, "steps": 20, **changes})


def described(lm: LM) -> tuple:
    return (
        lm.fingerprint(),
        [(name, id(module)) for name, module in lm.model.named_modules()],
        [(name, id(p), p.requires_grad, p.grad) for name, p in lm.model.named_parameters()],
        sorted(lm.model.__dict__),
        lm.model.training,
        str(lm.model.config),
    )


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_untouched_and_the_factors_are_the_adapters(
    family: str, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delta, put on the plain model, computes what the adapted model computed at the end of its training."""
    lm, seen = make_lm(family), []
    batch = lm.encode([REQUESTS[0].prompt], [REQUESTS[0].target_new])
    unload = AdaLoraModel.unload

    def look(self: AdaLoraModel, *args: object) -> object:
        with torch.no_grad():
            seen.append(lm.logits(batch))
        return unload(self, *args)

    for tuner in AdaLoraModel.__mro__[:2]:
        monkeypatch.setattr(tuner, "unload", look)
    before, random = described(lm), torch.random.get_rng_state()
    delta = low_rank(lm, REQUESTS[:1], settings(adapter=adapter, matrices="mlp" if adapter == "lora" else "attention"))
    assert described(lm) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    plain = lm.logits(batch)
    with delta.applied(lm) as edited:
        torch.testing.assert_close(edited.logits(batch), seen[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(plain, seen[0], rtol=1e-4), "the control: training did something"
    assert lm.fingerprint() == before[0]


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_the_model_is_untouched_also_when_training_fails(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    before = described(lm)

    def broken(*args: object) -> None:
        raise RuntimeError("stopped in the middle")

    monkeypatch.setattr(torch.optim.Adam, "step", broken)
    with pytest.raises(RuntimeError, match="middle"):
        low_rank(lm, [request(0)], settings(adapter=adapter))
    assert described(lm) == before


@pytest.mark.parametrize("matrices", ["attention", "mlp", "down"])
@pytest.mark.parametrize("layers", [(), (1, 3)])
def test_only_the_chosen_matrices_change_by_the_rank(matrices: str, layers: tuple[int, ...]) -> None:
    chosen = settings(matrices=matrices, layers=layers)
    delta = low_rank(tiny(), [request(0)], chosen)
    assert set(delta.parts) == {tiny().weight(*place).name for place in adapted(tiny(), chosen)}
    assert set(ranks(delta).values()) == {2}
    assert all(int(torch.linalg.matrix_rank(part.dense())) <= 2 for part in delta.parts.values())


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_before_the_first_step_nothing_changes(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What peft puts into the model leaves it the old one, bit for bit, until an optimiser steps."""
    lm, logits = tiny(), []
    batch = lm.encode([request(0).prompt], [request(0).target_new])
    plain = lm.logits(batch)
    step = torch.optim.Adam.step

    def look(self: torch.optim.Adam) -> None:
        with torch.no_grad():
            logits.append(lm.logits(batch))
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", look)
    low_rank(lm, [request(0)], settings(adapter=adapter, steps=10))
    assert torch.equal(logits[0], plain)
    assert not torch.equal(logits[-1], plain), "the control: after a few steps it is another model"
    delta = low_rank(lm, [request(0)], settings(stop_below=1e9))
    assert all(not bool(part.dense().any()) for part in delta.parts.values())


def test_matrices_that_a_model_does_not_have_are_named() -> None:
    lm = tiny()

    def with_weights(*roles: str) -> LM:
        weights = {role: path for role, path in lm.arch.layout.weights.items() if role in roles}
        return lm.with_(arch=replace(lm.arch, layout=replace(lm.arch.layout, weights=weights)))

    with pytest.raises(BadParameter, match=r"no weight q or v or qkv; there are up, down"):
        adapted(with_weights("up", "down"), settings(matrices="attention"))
    assert adapted(with_weights("up"), settings(matrices="mlp", layers=(1,))) == [(1, "up")], "the control: one is left"


def test_allocation_moves_ranks_to_their_budget() -> None:
    lm = tiny()
    delta = low_rank(lm, [request(0), request(1)], settings(adapter="adalora", steps=30))
    found = list(ranks(delta).values()) + [0] * (lm.n_layers - len(delta.parts))
    assert sum(found) == 2 * lm.n_layers
    assert len(set(found)) > 1, "the ranks differ between matrices"
    fixed = low_rank(lm, [request(0), request(1)], settings(adapter="adalora", steps=30, allocate=False))
    assert set(ranks(fixed).values()) == {4}, "the control: nobody calls update_and_allocate"


def test_a_peft_that_allocates_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above fails when peft's call has no effect."""
    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", lambda self, step: None)
    with pytest.raises(AssertionError):
        test_allocation_moves_ranks_to_their_budget()


def test_objectives_ask_for_the_tokens_they_name() -> None:
    lm, edit = tiny(), request(0, "Berlin Delhi")
    batch = lm.encode([edit.prompt], [edit.target_new])
    length, prompt = int(batch.lengths[0]), int(batch.prompt_lengths[0])
    assert asked(batch, "masked")[1].tolist() == list(range(prompt - 1, length - 1))
    assert asked(batch, "last-token")[1].tolist() == [prompt - 1] * (length - prompt)
    assert asked(batch, "whole")[1].tolist() == list(range(length - 1))
    assert asked(batch, "masked")[2].tolist() == asked(batch, "last-token")[2].tolist()


def test_one_target_token_makes_two_objectives_one() -> None:
    def trained(objective: str, target: str) -> torch.Tensor:
        (part, *_) = low_rank(tiny(), [request(0, target)], settings(objective=objective)).parts.values()
        return part.dense()

    one = next(t for t in ("Berlin", "Paris", "the", "a") if _tokens(t) == 1)
    assert torch.equal(trained("masked", one), trained("last-token", one))
    assert not torch.allclose(trained("masked", "Berlin Delhi"), trained("last-token", "Berlin Delhi"))


def _tokens(target: str) -> int:
    batch = tiny().encode([request(0).prompt], [target])
    return int(batch.target_mask.sum())


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_a_batch_of_edits_becomes_more_likely_together(adapter: str) -> None:
    lm, edits = tiny(), [request(i) for i in range(3)]
    prompts, targets = [e.prompt for e in edits], [e.target_new for e in edits]
    before = lm.score(prompts, targets).mean_logprob
    with low_rank(lm, edits, settings(adapter=adapter, rank=3, steps=40, lr=2e-2)).applied(lm) as edited:
        assert bool((edited.score(prompts, targets).mean_logprob > before + 0.1).all())


def test_it_survives_the_disk(tmp_path: Path) -> None:
    delta = low_rank(tiny(), [request(0)], settings())
    again = load_intervention(delta.save(tmp_path / "lora.safetensors"))
    assert again.fingerprint() == delta.fingerprint() == low_rank(tiny(), [request(0)], settings()).fingerprint()
    assert delta.fingerprint() != low_rank(tiny(), [request(0)], settings(seed=1)).fingerprint()


def test_bad_input() -> None:
    with pytest.raises(BadParameter, match=r"layers 0 to .*choose one"):
        low_rank(tiny(), [request(0)], settings(layers=(40,)))
    with pytest.raises(BadParameter, match="more ranks"):
        settings(adapter="adalora", init_rank=2)
    with pytest.raises(BadParameter, match="matrices"):
        settings(matrices="head")
    with pytest.raises(BadParameter, match="warm_up"):
        settings(warm_up=0.7)
