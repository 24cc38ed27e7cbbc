"""GRACE: the geometry of its codebook, exactness outside the balls, and what a sequence of edits does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edits import REQUESTS
from families import FAMILIES, make_lm
from paramem.editing.codebook import Codebook
from paramem.editing.grace import GraceSettings, arrange, grace, grace_each, learn_values, query
from paramem.editing.radius import RadiusCurve
from paramem.editing.sequence import asking_unedited
from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.evaluation import baseline, evaluate
from paramem.facts import EditRequest
from paramem.interventions import load_intervention
from paramem.models import LM, Site
from parity import facts, tiny

SETTINGS = GraceSettings(layer=2, epsilon=0.5, steps=30)


def request(i: int, target: str | None = None) -> EditRequest:
    rewrite = facts()[i]["requested_rewrite"]
    return EditRequest(
        id=f"{i}/{target}",
        subject=rewrite["subject"],
        template=rewrite["prompt"],
        target_new=target or rewrite["target_new"]["str"],
    )


def logits(lm: LM, prompts: list[str]) -> torch.Tensor:
    batch = lm.encode(prompts)
    return lm.logits_at(batch, torch.arange(len(batch)), batch.prompt_lengths - 1)


def book(keys: torch.Tensor, radii: list[float], values: torch.Tensor, **more: object) -> Codebook:
    sites = SETTINGS.sites
    base = {"reads": sites[0], "writes": sites[1], "labels": tuple("ab"[: len(keys)]), "values": values, "keys": keys}
    return Codebook(**base | {"radii": torch.tensor(radii, dtype=keys.dtype)} | more)


def plane(*points: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64)


def test_far_keys_are_added() -> None:
    found = arrange(plane((0, 0), (3, 0)), ["a", "b"], 1.0)
    assert found.how == ("add", "add")
    assert found.radii.tolist() == [1.0, 1.0]


def test_a_near_key_of_the_same_label_expands_the_ball() -> None:
    found = arrange(plane((0, 0), (1.5, 0)), ["a", "a"], 1.0)
    assert found.how == ("add", "expand")
    assert (found.radii.tolist(), found.owner, len(found.keys)) == ([1.5], (0, 0), 1)
    inside = arrange(plane((0, 0), (0.5, 0)), ["a", "a"], 1.0)
    assert inside.radii.tolist() == [1.0], "a ball never shrinks by expanding"


def test_a_near_key_of_another_label_splits_the_ball() -> None:
    found = arrange(plane((0, 0), (1.5, 0)), ["a", "b"], 1.0)
    assert found.how == ("add", "split")
    assert found.radii.tolist() == pytest.approx([0.75, 0.75], abs=1e-4)
    assert float(found.radii.sum()) <= 1.5, "the balls do not overlap"


def test_a_query_at_an_old_key_takes_over_its_entry() -> None:
    found = arrange(plane((0, 3), (0, 3)), ["a", "b"], 1.0)
    assert (found.how, found.labels, len(found.keys)) == (("add", "overwrite"), ("b",), 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=12, unique=True),
    st.floats(0.3, 4.0),
)
def test_every_edit_of_a_sequence_is_nearest_to_its_own_entry(points: list[tuple[int, int]], epsilon: float) -> None:
    """Different labels, different places: each finds its own key first, and its ball holds it."""
    queries = plane(*((x + 10.0, y + 10.0) for x, y in points))
    found = arrange(queries, [str(i) for i in range(len(points))], epsilon)
    codebook = book(found.keys, found.radii.tolist(), queries, labels=found.labels)
    nearest, _, inside = codebook.look_up(queries)
    assert nearest.tolist() == list(found.owner) == list(range(len(points)))
    assert bool(inside.all())


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_outside_every_ball_pass_bit_for_bit(family: str) -> None:
    lm, chosen = make_lm(family), replace(SETTINGS, layer=1, steps=3, epsilon=1e-3)
    prompts = [REQUESTS[0].prompt, "Anna Berg works for", "music is in", "Lyon was"]
    before = logits(lm, prompts)
    with grace(lm, REQUESTS[0], chosen).applied(lm) as edited:
        after = logits(edited, prompts)
    assert torch.equal(after[1:], before[1:])
    assert not torch.equal(after[0], before[0]), "the control: the edited prompt itself"
    with grace(lm, REQUESTS[0], replace(chosen, epsilon=1e3)).applied(lm) as edited:
        assert not any(torch.equal(x, y) for x, y in zip(logits(edited, prompts), before, strict=True))


@pytest.mark.parametrize("how", ["last", "prompt"])
def test_generated_answers_agree_with_scored_ones(how: str) -> None:
    """With a cache and padding on the left, the codebook sees the same query."""
    lm, edits = tiny(), [request(i) for i in range(3)]
    chosen = replace(SETTINGS, replace=how, steps=60)
    prompts = [edit.prompt for edit in edits] + ["Rome"]
    with grace(lm, edits, chosen).applied(lm) as edited:
        said = edited.generate(prompts, max_new_tokens=1)
        best = logits(edited, prompts).argmax(1)
        alone = [edited.generate([prompt], max_new_tokens=1)[0] for prompt in prompts]
    assert said == alone == [lm.tokenizer.decode([token]) for token in best.tolist()]
    assert said[:3] != lm.generate(prompts[:3], max_new_tokens=1), "the control: the edits do something"


def test_each_edit_is_made_and_the_sequence_keeps_all() -> None:
    lm, edits = tiny(), [request(i) for i in range(5)]
    prompts, targets = [e.prompt for e in edits], [e.target_new for e in edits]
    with grace(lm, edits, SETTINGS).applied(lm) as edited:
        assert bool(edited.score(prompts, targets).exact.all())
    assert not bool(lm.score(prompts, targets).exact.all())


def test_a_sequence_is_its_single_edits_where_no_ball_is_wide() -> None:
    """Values are learned side by side, and are those that each edit gets by itself."""
    lm, edits = tiny(), [request(i) for i in range(4)]
    together, apart = grace(lm, edits, SETTINGS), grace_each(lm, edits, SETTINGS)
    torch.testing.assert_close(together.values, torch.cat([each.values for each in apart]), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(together.keys, torch.cat([each.keys for each in apart]))
    alone = grace(lm, edits[2], SETTINGS)
    torch.testing.assert_close(alone.values[0], together.values[2], rtol=1e-6, atol=1e-8)


def test_edits_of_one_entry_train_it_one_after_the_other() -> None:
    lm, edits = tiny(), [request(0, "Berlin"), request(1, "Berlin")]
    wide = replace(SETTINGS, epsilon=1e3)
    found = grace(lm, edits, wide)
    assert (len(found), found.labels) == (1, ("Berlin",))
    first, _ = learn_values(lm, edits[:1], [0], wide)
    _, losses = learn_values(lm, edits, [0, 0], wide)
    with book(query(lm, [edits[1].prompt], wide.sites[0]), [1.0], first).applied(lm) as edited:
        begins_at = -edited.score([edits[1].prompt], ["Berlin"]).mean_logprob.item()
    assert losses[1][0] == pytest.approx(begins_at, rel=1e-6), "the second starts from the first one's value"


def test_learning_ends_when_the_loss_is_low() -> None:
    chosen = replace(SETTINGS, steps=60, stop_below=1.0)
    _, losses = learn_values(tiny(), [request(0), request(1)], [0, 1], chosen)
    assert all(each[-1] < 1.0 <= min(each[:-1]) for each in losses)
    assert all(len(each) < 61 for each in losses)


def test_the_block_can_be_wrapped_too() -> None:
    lm, chosen = tiny(), replace(SETTINGS, module="block")
    assert chosen.sites == (Site("resid_pre", 2), Site("resid_post", 2))
    with grace(lm, request(0), chosen).applied(lm) as edited:
        assert bool(edited.score([request(0).prompt], [request(0).target_new]).exact[0])


def test_it_survives_the_disk_and_fits_no_other_model(tmp_path: Path) -> None:
    lm = tiny()
    codebook = grace(lm, [request(0), request(1)], SETTINGS)
    again = load_intervention(codebook.save(tmp_path / "book.safetensors"))
    assert isinstance(again, Codebook)
    assert again.fingerprint() == codebook.fingerprint() == grace(lm, [request(0), request(1)], SETTINGS).fingerprint()
    with pytest.raises(IncompatibleIntervention, match="width"), codebook.applied(make_lm("llama")):
        pass


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_curve_over_radii_is_what_each_radius_gives(share: float) -> None:
    """Two evaluations, inside every ball and in none, give all radii: outside its balls the model is the old one."""
    lm = make_lm("gpt2")
    before = baseline(lm, REQUESTS, generated=False, kl=False)
    books = grace_each(lm, REQUESTS, replace(SETTINGS, layer=1, steps=20))
    curve = RadiusCurve.measure(lm, REQUESTS, books, before=before)
    radius = float(np.quantile(curve.distance, share))
    columns = ["request", "group", "subgroup", "probe", "state", "correct", "same", "mean_logprob"]

    def table(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[columns].sort_values(columns[:5]).reset_index(drop=True)

    direct = table(evaluate(lm, REQUESTS, [book.with_radius(radius) for book in books], before=before))
    pd.testing.assert_frame_equal(table(curve.at(radius)), direct)
    inside = (curve.distance <= radius).mean()
    assert share - 0.2 < inside < share + 0.3, "the control: radii in between hold some prompts and not others"
    assert curve.inside([radius])["inside"].between(0, 1).all()


def test_bad_input() -> None:
    with pytest.raises(BadParameter, match="epsilon"):
        GraceSettings(layer=0, epsilon=0.0)
    with pytest.raises(BadParameter, match="layer"):
        grace(tiny(), [request(0)], GraceSettings(layer=40))
    with pytest.raises(BadInput, match="one fact"):
        grace(tiny(), [request(0), request(0, "Berlin")], SETTINGS)


def test_in_a_sequence_nobody_asks_what_another_edit_changes() -> None:
    kept = asking_unedited(REQUESTS)
    edited = {edit.prompt for edit in REQUESTS}
    asked = [probe.prompt for edit in kept for probes in edit.locality.values() for probe in probes]
    assert not edited & set(asked)
    assert edited & {probe.prompt for edit in REQUESTS for probes in edit.locality.values() for probe in probes}
    assert asked
    assert asking_unedited(REQUESTS[:1])[0] == REQUESTS[0], "the control: alone it keeps all its probes"
    assert [(edit.prompt, edit.paraphrases) for edit in kept] == [(edit.prompt, edit.paraphrases) for edit in REQUESTS]
