"""Sums of long sequences: kept, found again by what they depend on, and the same as when they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from edits import REQUESTS
from families import make_lm
from paramem.editing.grace import GraceSettings, grace
from paramem.editing.long_sequences import (
    REBUILT,
    Sequenced,
    file_names,
    in_half,
    kept_sums,
    one_by_one,
    sequences,
    shipped,
)
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.sequence import running
from paramem.editing.trained import load as trained_for
from paramem.errors import BadInput
from paramem.facts import EditRequest
from paramem.interventions import Dense, Intervention, WeightDelta
from paramem.models import LM, load

SETTINGS = RomeSettings(layer=1, steps=2, covariance=False)


def editor(lm: LM, settings: RomeSettings = SETTINGS) -> Sequenced:
    return one_by_one(lm, "rome", settings, lambda now, request: rome(now, request, settings))


def broken(requests: Sequence[EditRequest]) -> Iterator[tuple[int, Intervention]]:
    raise AssertionError("made again")


def test_a_kept_sum_is_the_sum_of_the_sequence_and_is_not_made_again(tmp_path: Path) -> None:
    lm = make_lm("gpt2")
    name, ours = lm.weight(1, "down").name, editor(lm)
    made = kept_sums(lm, REQUESTS, ours, checkpoints=(1, 3), folders=(tmp_path,))
    *_, last = running(lm, REQUESTS[:3], lambda now, some: rome(now, some[0], SETTINGS))
    whole = last.total.dense(name)
    assert list(made) == [1, 3]
    torch.testing.assert_close(made[3].dense(name), whole, rtol=2e-3, atol=1e-6)
    assert not torch.equal(made[3].dense(name), whole), "rounded, also when it was just made"
    kept = Sequenced(name=ours.name, recipe=ours.recipe, steps=broken)
    again = kept_sums(lm, REQUESTS, kept, checkpoints=(1, 3), folders=(tmp_path,))
    assert all(torch.equal(again[n].dense(name).to(lm.dtype), made[n].dense(name)) for n in made)
    with pytest.raises(AssertionError, match="made again"):
        kept_sums(lm, REQUESTS, kept, checkpoints=(2,), folders=(tmp_path,))


def test_another_model_edit_order_or_setting_is_another_sum() -> None:
    lm, other = make_lm("gpt2"), make_lm("llama")
    mine = file_names(lm, REQUESTS, editor(lm), [2])
    assert mine == file_names(lm, REQUESTS[:3], editor(lm), [2]), "later edits do not matter"
    for theirs in (
        file_names(other, REQUESTS, editor(other), [2]),
        file_names(lm, REQUESTS[::-1], editor(lm), [2]),
        file_names(lm, REQUESTS, editor(lm, RomeSettings(layer=0, steps=2, covariance=False)), [2]),
    ):
        assert theirs != mine


def test_a_damaged_sum_is_made_again_and_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    lm = make_lm("llama")
    made = kept_sums(lm, REQUESTS, editor(lm), checkpoints=(2,), folders=(tmp_path,))
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    again = kept_sums(lm, REQUESTS, editor(lm), checkpoints=(2,), folders=(tmp_path,))
    name = lm.weight(1, "down").name
    assert torch.equal(made[2].dense(name), again[2].dense(name))
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    assert list(kept_sums(lm, REQUESTS, editor(lm), checkpoints=(1,), folders=(nowhere,))) == [1]


def test_numbers_too_large_for_half_precision_stay_finite_and_other_interventions_are_refused() -> None:
    change = torch.tensor([[1e6, 1.0]])
    kept = in_half(WeightDelta({"w": Dense(change)})).dense("w").float()
    torch.testing.assert_close(kept, change, rtol=1e-2, atol=0)
    lm = make_lm("gpt2")
    with pytest.raises(BadInput, match="no weights"):
        in_half(grace(lm, REQUESTS[:1], GraceSettings(layer=1, steps=1)))
    for checkpoints in ((), (0,), (9,)):
        with pytest.raises(BadInput, match="between 1"):
            kept_sums(lm, REQUESTS, editor(lm), checkpoints=checkpoints)


def test_the_shipped_sums_are_of_the_present_model_edits_and_settings() -> None:
    from paramem.evaluation.over_time import long_run
    from paramem.material import text_for

    lm = load("edit-gpt2-s0", device="cpu")
    texts, trained = text_for(lm, n=1000), trained_for("mend", lm)
    plan, editors = long_run(lm, n=1000), sequences(lm, texts, trained=trained)
    for name, checkpoints in REBUILT.items():
        assert all(shipped(lm, plan.edits, editors[name], n) for n in checkpoints), f"{name}: rebuild the sums"
    assert not shipped(lm, plan.edits[1:], editors["ROME"], 999), "the control: other edits"
