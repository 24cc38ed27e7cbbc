"""Trainings behind bounds that are kept: the same code found as made, and nothing found that is of another model."""

from pathlib import Path

import pytest
import torch

from paramem.bounds import kept_codes
from paramem.bounds.ground import Training, fresh_lm, train
from paramem.bounds.kept_codes import SHIPPED, kept_pretrained, kept_train
from paramem.bounds.source import Documents, Source
from paramem.fusion.kept import keeping, read
from paramem.lm import LM

TRAINING = Training(dimension=20, rank=2, steps=6, quantised_steps=3, levels=5, batch=4, control=True)


@pytest.fixture(scope="module")
def documents() -> Documents:
    return Source().draw(50, 0)


@pytest.fixture
def lm() -> LM:
    return fresh_lm("gpt2", "tiny", 0)


def test_what_is_found_is_what_was_made(lm: LM, documents: Documents, tmp_path: Path, monkeypatch) -> None:
    with keeping(tmp_path):
        made = kept_train(lm, documents, TRAINING, 0)
        monkeypatch.setattr(kept_codes, "train", None)  # is not asked again
        found = kept_train(lm, documents, TRAINING, 0)
        for other in (documents.__class__(documents.ids[::-1], documents.lengths[::-1]), None):
            with pytest.raises(TypeError):  # it would have to be trained
                kept_train(lm, other or documents, TRAINING, 0 if other else 1)
    plain = train(lm, documents, TRAINING, 0).done
    for each in (made, found):
        assert each.done.code.pack() == plain.code.pack()
        assert (each.done.losses, each.done.control) == (plain.losses, plain.control)
    assert (found.bits, found.size, found.training) == (made.bits, 20, TRAINING)


def test_a_model_of_that_name_with_other_weights_is_trained_itself(
    lm: LM, documents: Documents, tmp_path: Path
) -> None:
    other = fresh_lm("gpt2", "tiny", 1).with_(name=lm.name)
    rounded = fresh_lm("gpt2", "tiny", 0)
    for parameter in rounded.model.parameters():
        parameter.data.mul_(1 + 1e-7)
    with keeping(tmp_path):
        made = kept_train(lm, documents, TRAINING, 0)
        again = kept_train(rounded, documents, TRAINING, 0)
        assert again.done.code.pack() == made.done.code.pack(), "what rounding changes is the same model"
        assert kept_train(other, documents, TRAINING, 0).done.losses != made.done.losses


def test_a_damaged_code_is_made_again(lm: LM, documents: Documents, tmp_path: Path, monkeypatch) -> None:
    with keeping(tmp_path):
        made = kept_train(lm, documents, TRAINING, 0)
        monkeypatch.setattr(
            "paramem.fusion.kept.read", lambda data: {**read(data), "code": torch.zeros(3, dtype=torch.uint8)}
        )
        assert kept_train(lm, documents, TRAINING, 0).done.losses == made.done.losses


def test_a_pretrained_start_is_kept_and_named_by_what_it_read(tmp_path: Path) -> None:
    with keeping(tmp_path):
        made = kept_pretrained("gpt2", "tiny", Source(region="east"), 0, steps=3)
        found = kept_pretrained("gpt2", "tiny", Source(region="east"), 0, steps=3)
        other = kept_pretrained("gpt2", "tiny", Source(), 0, steps=3)
    assert made.fingerprint() == found.fingerprint() != other.fingerprint()
    assert len({made.name, other.name, fresh_lm("gpt2", "tiny", 0).name}) == 3


def test_shipped_codes_can_be_read() -> None:
    files = [*SHIPPED.glob("*.safetensors")]
    assert len(files) > 20
    for file in files:
        assert read(file.read_bytes())
