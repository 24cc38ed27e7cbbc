"""Fine-tuning baselines: when the two objectives are one, when they differ, and what the ball does."""

from __future__ import annotations

import pytest
import torch

from paramem.editing.fine_tuning import FineTuneSettings, fine_tune, fine_tune_each
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from parity import facts, tiny


def request(i: int, target: str | None = None) -> EditRequest:
    rewrite = facts()[i]["requested_rewrite"]
    return EditRequest(
        id=str(i),
        subject=rewrite["subject"],
        template=rewrite["prompt"],
        target_new=target or rewrite["target_new"]["str"],
        target_true=rewrite["target_true"]["str"],
    )


def tuned(objective: str, requests: list[EditRequest], **settings) -> torch.Tensor:
    (part,) = fine_tune(tiny(), requests, FineTuneSettings(layer=1, objective=objective, **settings)).parts.values()
    return part.dense()


def test_one_target_token_makes_the_objectives_one() -> None:
    one = [request(0), request(1)]
    assert torch.equal(tuned("last-token", one), tuned("masked", one))
    more = [request(0, "Berlin Delhi")]
    assert not torch.allclose(tuned("last-token", more), tuned("masked", more))


def test_masked_tuning_learns_a_long_target_and_the_other_objective_does_not() -> None:
    lm, edit, settings = tiny(), request(0, "Berlin Delhi"), {"steps": 60, "lr": 1e-2}

    def exact(objective: str) -> bool:
        delta = fine_tune(lm, [edit], FineTuneSettings(layer=1, objective=objective, **settings))
        with delta.applied(lm) as edited:
            return bool(edited.score([edit.prompt], [edit.target_new]).exact[0])

    assert exact("masked")
    assert not exact("last-token")  # it can at best give each token the same place


def test_the_loss_falls_on_all_requests_together() -> None:
    lm, edits = tiny(), [request(i) for i in range(3)]
    prompts, targets = [e.prompt for e in edits], [e.target_new for e in edits]
    before = lm.score(prompts, targets).mean_logprob
    with fine_tune(lm, edits, FineTuneSettings(layer=1, lr=1e-2)).applied(lm) as edited:
        assert bool((edited.score(prompts, targets).mean_logprob > before).all())


def test_the_ball_holds_and_free_tuning_leaves_it() -> None:
    bound = 2e-3
    assert tuned("masked", [request(0)], bound=bound).abs().max() <= bound * (1 + 1e-9)
    assert tuned("masked", [request(0)]).abs().max() > bound


def test_the_model_is_as_before_also_when_tuning_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    before = lm.fingerprint()
    fine_tune(lm, [request(0)], FineTuneSettings(layer=1))
    assert lm.fingerprint() == before

    def broken(self, *args, **kwargs):
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1.0)
        raise RuntimeError("stopped in the middle")

    monkeypatch.setattr(torch.optim.Adam, "step", broken)
    with pytest.raises(RuntimeError, match="middle"):
        fine_tune(lm, [request(0)], FineTuneSettings(layer=1))
    assert lm.fingerprint() == before
    assert not any(p.grad is not None for p in lm.model.parameters())


def test_bad_input() -> None:
    with pytest.raises(BadParameter, match=r"layers 0\.\.5"):
        fine_tune(tiny(), [request(0)], FineTuneSettings(layer=9))
    with pytest.raises(BadParameter, match="bound"):
        FineTuneSettings(layer=0, bound=0.0)


@pytest.mark.parametrize("settings", [{}, {"objective": "last-token"}, {"bound": 2e-3}, {"lr": 1e-2, "steps": 40}])
def test_tuned_side_by_side_is_tuned_alone(settings: dict) -> None:
    edits, how = [request(i) for i in range(3)] + [request(0, "Berlin Delhi")], FineTuneSettings(layer=1, **settings)
    together = [next(iter(delta.parts.values())).dense() for delta in fine_tune_each(tiny(), edits, how, batch_size=3)]
    alone = [next(iter(fine_tune(tiny(), [edit], how).parts.values())).dense() for edit in edits]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(together[0], together[1], rtol=1e-3, atol=1e-6)
