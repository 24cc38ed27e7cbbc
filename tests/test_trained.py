"""Trained editors on disk: found by the weights they belong to, and refused when they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from families import make_lm
from grounds import REQUEST
from known import knowing
from learned import tiny_ke, tiny_mend
from paramem.editing import trained as module
from paramem.editing.packing import pack, unpack
from paramem.editing.train import TRAINERS, settings_of
from paramem.editing.trained import FOLDER, cards, load, load_from, own_folder, read_card, recipe_hash
from paramem.errors import BadInput, BadRecord, CorruptFile, Unwritable
from paramem.material import edits_for
from paramem.models import load as load_model
from paramem.registry import method


def test_what_was_saved_is_found_by_the_weights(tmp_path: Path) -> None:
    lm = knowing("gpt2")
    stored = tiny_mend(lm).save(tmp_path)
    found = load("mend", lm, [tmp_path])
    assert found.card == stored.card
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, stored.tensors[name])
        torch.testing.assert_close(tensor, tiny_mend(lm).tensors[name].float(), rtol=1e-3, atol=1e-4)
    with pytest.raises(BadInput, match="has to be trained on 'knowing-llama' first"):
        load("mend", knowing("llama"), [tmp_path])


def test_what_is_in_the_cache_is_used_by_the_editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lm = knowing("llama")
    monkeypatch.setenv("PARAMEM_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=r"paramem\.editing\.train ke --model knowing-llama"):
        method("ke").edit(lm, REQUEST)
    tiny_ke(lm).save(own_folder(lm))
    before = float(lm.score([REQUEST.prompt], [REQUEST.target_new]).logprob[0])
    with method("ke").edit(lm, REQUEST).applied(lm) as edited:
        assert float(edited.score([REQUEST.prompt], [REQUEST.target_new]).logprob[0]) > before
        with pytest.raises(BadInput, match="first"):
            load("ke", edited)  # these weights were not trained on


def test_damage_is_noticed(tmp_path: Path) -> None:
    tiny_mend(knowing("gpt2")).save(tmp_path)
    weights, card = tmp_path / "mend.safetensors", tmp_path / "mend.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x00\x00")
    with pytest.raises(CorruptFile, match="not the file that its card describes"):
        load_from(tmp_path, "mend")
    weights.unlink()
    with pytest.raises(CorruptFile, match="cannot read"):
        load_from(tmp_path, "mend")
    record = json.loads(card.read_text())
    for change, message in (({"schema": 0}, "schema"), ({"shoe_size": 44}, "not the card")):
        card.write_text(json.dumps(record | change))
        with pytest.raises(BadRecord, match=message):
            read_card(card)
    card.write_text("no json")
    with pytest.raises(BadRecord, match="no readable card"):
        read_card(card)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable, match="choose another folder"):
        tiny_mend(knowing("gpt2")).save(tmp_path / "file" / "folder")


def test_shipped_networks_belong_to_shipped_testbeds_and_are_small() -> None:
    shipped = [(folder, card) for folder, card in cards() if card.method in TRAINERS]
    assert {(card.method, card.model) for _, card in shipped} == {
        (name, testbed) for name, trainer in TRAINERS.items() for testbed in trainer.testbeds
    }
    total = 0
    for folder, card in shipped:
        assert folder.name == card.model
        assert load_model(card.model).fingerprint() == card.model_hash, f"{card.method} of {card.model}: train it again"
        assert card.size_bytes < 2e6
        assert load_from(folder, card.method).card == card
        assert card.held_out
        assert card.measures
        total += (folder / f"{card.method}.safetensors").stat().st_size
    assert total <= 10.5e6
    assert FOLDER.name == module.__name__.rsplit(".", 1)[1]


def test_shipped_networks_learned_from_no_subject_for_tests_and_say_what_validation_gave() -> None:
    seeds = set()
    for _, card in cards():
        assert card.held_out.startswith("subjects for validation")
        assert "edit: exact" in card.measures
        if card.method == "serac":
            seeds.add(card.settings["shape"]["seed"])
    assert len(seeds) == len(TRAINERS["serac"].testbeds), "every testbed has a gate of its own"
    lm = load_model("gpt2-s0")
    learned, kept = ({each.subject for each in edits_for(lm, part=part)} for part in ("learn", "validation"))
    tested = {each.subject for each in edits_for(lm, part="test")}
    assert not learned & kept
    assert not (learned | kept) & tested
    card = load("mend", lm).card
    settings = settings_of("mend", lm.name)
    assert card.recipe == recipe_hash("mend", lm.fingerprint(), edits_for(lm, part="learn"), settings)
    assert card.recipe != recipe_hash("mend", lm.fingerprint(), edits_for(lm, part="train"), settings), "the control"


def test_eight_bits_keep_a_matrix_to_a_hundredth_of_its_largest_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 40, generator=generator) * torch.tensor([[1e-2], [1.0], [1e3], [0.0], [5.0], [1.0]])
    tensors = {"matrix": matrix, "bias": torch.randn(40, generator=generator), "rows": torch.tensor([3, 70000, 9])}
    stored, found = pack(tensors, 8), unpack(pack(tensors, 8))
    assert stored["matrix"].dtype == torch.int8
    assert found.keys() == tensors.keys()
    assert torch.equal(found["rows"], tensors["rows"])
    largest = matrix.abs().amax(1, keepdim=True)
    assert bool(((found["matrix"] - matrix).abs() <= 0.01 * largest).all())
    assert not torch.equal(found["matrix"], matrix), "the control: it is rounded"
    assert torch.equal(unpack(pack(found, 8))["matrix"], found["matrix"]), "what was read is written as it was"
    half = unpack(pack(tensors, 16))
    torch.testing.assert_close(half["matrix"], matrix, rtol=1e-3, atol=1e-6)
    assert pack(tensors, 16)["matrix"].dtype == torch.float16


def test_another_model_of_the_same_family_has_no_networks(tmp_path: Path) -> None:
    tiny_mend(knowing("gpt2")).save(tmp_path)
    with pytest.raises(BadInput, match="trained on"):
        load("mend", make_lm("gpt2"), [tmp_path])
