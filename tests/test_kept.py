"""Fine-tuned models that are kept: found by all that went into them, the same numbers whether found or made."""

import copy
import importlib
import json
import runpy
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load as unpacked
from safetensors.torch import save

from paramem import load
from paramem.editing.statistics import cache_folder
from paramem.errors import BadInput, BadParameter
from paramem.fusion import kept, training
from paramem.fusion.kept import (
    SHIPPED,
    STEPS,
    TRAINED_BY,
    NotKept,
    file_name,
    keeping,
    kept_fine_tune,
    packed,
    read,
    written,
)
from paramem.fusion.study import from_nothing
from paramem.fusion.training import TrainSettings, fine_tune, plan, text_row
from paramem.injection import latent_study, rag_study
from paramem.injection.parametric_rag import PragSettings, encode
from paramem.lm import LM
from paramem.material import world_behind
from paramem.world.recipe import collate

SETTINGS = TrainSettings(passes=2, lr=1e-3)
TEXTS = ("Vesna Mendoza was born in Warsaw.", "Vesna Mendoza plays the cello.")


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("read-s0")


@pytest.fixture(scope="module")
def rows(lm):
    return [text_row(lm, text) for text in TEXTS]


def weights(lm: LM) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()])


def test_what_is_found_is_what_was_made_and_close_to_the_training(lm, rows, tmp_path):
    before = lm.fingerprint()
    with keeping(tmp_path):
        made = kept_fine_tune(lm, rows, SETTINGS, name="made")
        (file,) = tmp_path.iterdir()
        written = file.stat().st_mtime_ns
        found = kept_fine_tune(lm, rows, SETTINGS, name="found")
    assert torch.equal(weights(made), weights(found))
    assert file.stat().st_mtime_ns == written
    assert (made.name, found.name) == ("made", "found")
    assert lm.fingerprint() == before
    exact = fine_tune(lm, rows, SETTINGS)
    change, off = weights(exact) - weights(lm), weights(made) - weights(exact)
    assert off.abs().max() <= change.abs().max() / STEPS / 2 * 1.01
    assert off.norm() < 0.02 * change.norm()
    assert change.norm() > 0


def test_the_rounding_bound_is_tight_enough_to_notice_fewer_steps(lm, rows, monkeypatch):
    exact = fine_tune(lm, rows, SETTINGS)
    monkeypatch.setattr("paramem.fusion.kept.STEPS", 7)
    coarse = packed(lm, exact)
    name = next(key for key in coarse if key.endswith("down_proj.weight"))
    change = dict(exact.model.named_parameters())[name] - dict(lm.model.named_parameters())[name]
    off = coarse[name].float() * coarse[f"{name}/scale"][:, None] - change
    assert off.norm() > 0.02 * change.norm()


def test_everything_that_goes_into_a_training_is_in_its_name(lm, rows):
    other = load("read-gpt2-s0")
    names = {
        file_name(lm, rows, SETTINGS, 0),
        file_name(lm, rows, SETTINGS, 1),
        file_name(lm, rows[::-1], SETTINGS, 0),
        file_name(lm, [(rows[0][0], [0.5] * len(rows[0][0])), rows[1]], SETTINGS, 0),
        file_name(lm, rows, replace(SETTINGS, lr=2e-3), 0),
        file_name(other, rows, SETTINGS, 0),
    }
    assert len(names) == 6
    assert file_name(lm.with_(name="another"), [*rows], SETTINGS, 0) == file_name(lm, rows, SETTINGS, 0)


def flipped(data: bytes, place: int) -> bytes:
    """The data with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def not_a_number(data: bytes) -> bytes:
    """The file with the sizes of all steps lost; its header is as it was."""
    tensors = {key: part if part.dtype == torch.int8 else part * torch.nan for key, part in unpacked(data).items()}
    size = int.from_bytes(data[:8], "little")
    return save(tensors, metadata=json.loads(data[8 : 8 + size])["__metadata__"])


DAMAGES = {
    "cut": lambda data: data[:100],
    "empty": lambda data: b"",
    "a bit in its middle": lambda data: flipped(data, len(data) // 2),
    "a bit at its end": lambda data: flipped(data, len(data) - 1),
    "no number": not_a_number,
    "no tensors": lambda data: save({}),
    "no tensors, but a note": lambda data: save({}, metadata={"paramem": "[]"}),
    "no hash": lambda data: save(unpacked(data), metadata={"paramem": "{}"}),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "another model's"])
def test_a_damaged_file_is_made_again(lm, rows, tmp_path: Path, damage):
    with keeping(tmp_path):
        made = kept_fine_tune(lm, rows, SETTINGS)
        (file,) = tmp_path.iterdir()
        good = file.read_bytes()
        if damage == "another model's":
            gpt2 = load("read-gpt2-s0")
            kept_fine_tune(gpt2, [text_row(gpt2, text) for text in TEXTS], SETTINGS)
            (theirs,) = set(tmp_path.iterdir()) - {file}
            theirs.replace(file)
        else:
            file.write_bytes(DAMAGES[damage](good))
        again = kept_fine_tune(lm, rows, SETTINGS)
    assert torch.equal(weights(made), weights(again))
    assert file.read_bytes() == good


def test_a_file_says_the_same_again_whatever_the_order_of_its_tensors(lm, rows):
    change = packed(lm, fine_tune(lm, rows, SETTINGS))
    data = written(change, {"model": lm.name})
    assert written(dict(reversed(change.items())), {"model": lm.name}) == data
    assert all(torch.equal(part, change[key]) for key, part in read(data).items())
    name = next(iter(change))
    assert written({**change, name: -change[name]}, {"model": lm.name}) != data  # the control


def test_a_folder_that_cannot_be_written_costs_the_cache_only_and_says_so_once(lm, rows, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("PARAMEM_CACHE", str(blocked))
    with pytest.warns(NotKept, match=r"file/trained cannot be written \(Not a directory\); set PARAMEM_CACHE"):
        first = kept_fine_tune(lm, rows, SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = kept_fine_tune(lm, rows, SETTINGS)
        with keeping(tmp_path):
            whole = kept_fine_tune(lm, rows, SETTINGS)
    assert torch.equal(weights(first), weights(whole))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(lm))


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("PARAMEM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache/paramem"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/paramem")
    monkeypatch.setenv("PARAMEM_CACHE", "/mine")
    assert cache_folder() == Path("/mine")


def test_what_is_trained_and_under_what_is_in_the_name_as_its_recipe(lm, rows, tmp_path):
    def last(lm: LM) -> list[torch.nn.Parameter]:
        return [lm.weight(lm.n_layers - 1, "down").parameter]

    names = {file_name(lm, rows, SETTINGS, 0, recipe) for recipe in ("", "the last layer", "the last layer, noisy")}
    assert len(names) == 3
    with keeping(tmp_path):
        some = kept_fine_tune(lm, rows, SETTINGS, train=last, recipe="the last layer")
        everything = kept_fine_tune(lm, rows, SETTINGS)
        again = kept_fine_tune(lm, rows, SETTINGS, train=last, recipe="the last layer")
    moved = {
        name
        for (name, after), before in zip(some.model.named_parameters(), lm.model.parameters(), strict=True)
        if not torch.equal(after, before)
    }
    assert moved == {lm.weight(lm.n_layers - 1, "down").name}
    assert torch.equal(weights(some), weights(again))
    assert not torch.equal(weights(some), weights(everything))
    with pytest.raises(BadParameter, match="without a recipe"):
        kept_fine_tune(lm, rows, SETTINGS, train=last)


def test_no_rows_are_refused(lm):
    with pytest.raises(BadInput, match="no rows"):
        kept_fine_tune(lm, [], SETTINGS)


def test_all_that_the_default_runs_ask_is_shipped_and_nothing_else(monkeypatch):
    """After a change of rows or settings, this says that `python -m paramem.fusion.kept` has to be run."""
    asked, read = set(), Path.read_bytes

    def refuse(*_, **__):
        pytest.fail("a default run trains: run `python -m paramem.fusion.kept`, and commit what it makes")

    def noted(path):
        asked.add(path.name) if path.parent == SHIPPED else None
        return read(path)

    for place in ("fusion.kept.fine_tune", "injection.kept_adapters.train_adapters", "injection.latent_study.learn"):
        monkeypatch.setattr(f"paramem.{place}", refuse)
    monkeypatch.setattr(Path, "read_bytes", noted)
    with keeping(SHIPPED):
        for module, model in TRAINED_BY.items():
            importlib.import_module(module).train_shipped(load(model))
    assert {file.name for file in SHIPPED.iterdir()} == asked


def test_shipped_models_are_trained_from_nothing_and_swapped_at_the_end(lm, rows, tmp_path, monkeypatch):
    shipped, trained = tmp_path / "trained", []
    shipped.mkdir()
    (shipped / "stale.safetensors").write_bytes(b"old")

    def train(lm, fails=False):
        trained.append(kept_fine_tune(lm, rows, SETTINGS))
        assert (shipped / "stale.safetensors").is_file()
        if fails:
            raise KeyboardInterrupt

    for fails in (True, False):
        module = SimpleNamespace(train_shipped=lambda lm, fails=fails: train(lm, fails))
        monkeypatch.setitem(sys.modules, "a_study", module)
        monkeypatch.setattr(kept, "TRAINED_BY", {"a_study": "read-s0"})
        with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
            kept.rebuild(shipped)
        names = [file.name for file in tmp_path.rglob("*.safetensors")]
        assert names == ["stale.safetensors"] if fails else names == [file_name(lm, rows, SETTINGS, 0)]
    assert len(trained) == 2


def test_an_interruption_of_the_swap_loses_no_shipped_model(lm, rows, tmp_path, monkeypatch):
    shipped, move = tmp_path / "trained", Path.replace
    shipped.mkdir()
    (shipped / "stale.safetensors").write_bytes(b"old")

    def train(lm):
        for seed in (0, 1):
            kept_fine_tune(lm, rows, SETTINGS, seed=seed)

    def interrupted(path, target):
        if Path(target).parent == shipped and len([*shipped.iterdir()]) == 2:
            raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setitem(sys.modules, "a_study", SimpleNamespace(train_shipped=train))
    monkeypatch.setattr(kept, "TRAINED_BY", {"a_study": "read-s0"})
    names = {file_name(lm, rows, SETTINGS, seed) for seed in (0, 1)}
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kept.rebuild(shipped)
    left = {file.name for file in shipped.iterdir()}
    assert "stale.safetensors" in left
    assert len(left & names) == 1
    monkeypatch.setattr(Path, "replace", move)
    kept.rebuild(shipped)
    assert {file.name for file in shipped.iterdir()} == names


def test_the_command_calls_the_function_that_others_import(monkeypatch):
    """Run as a script the module exists twice, and `keeping` of one says nothing to trainings that ask the other."""
    called = []
    monkeypatch.setattr(kept, "rebuild", lambda: called.append(True))
    monkeypatch.setattr(sys, "argv", ["kept"])
    with pytest.warns(RuntimeWarning, match="found in sys.modules"), pytest.raises(SystemExit) as ended:
        runpy.run_module("paramem.fusion.kept", run_name="__main__")
    assert (ended.value.code, called) == (0, [True])


def test_training_nothing_leaves_what_is_there(tmp_path):
    shipped = tmp_path / "trained"
    shipped.mkdir()
    (shipped / "old.safetensors").write_bytes(b"old")
    with pytest.raises(BadInput, match="nothing was trained"):
        kept.replaced(shipped, lambda: None)
    assert [file.name for file in shipped.iterdir()] == ["old.safetensors"]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two changes are from each other, in sizes of the second."""
    return ((one - other).norm() / other.norm()).item()


# Above what other instructions of a processor make of the same training (2e-4), below what another training is.
ROUNDING = 0.01


def test_what_is_shipped_is_what_training_makes_today():
    """When this fails, `fine_tune` does something else with the same rows: raise `FORMAT`, and train them all again."""
    gpt2, settings = load("gpt2-s0"), latent_study.StudySettings()
    facts = latent_study.draw(gpt2, settings).news.facts

    def change(place, settings=settings):
        with place:
            models = latent_study.train_arms(gpt2, facts, {"plain": latent_study.Arm()}, settings)
        return weights(models["plain"]) - weights(gpt2)

    shipped = change(keeping(SHIPPED))
    assert apart(change(from_nothing()), shipped) < ROUNDING
    longer = replace(settings, training=replace(settings.training, decay_from=0.6))
    assert apart(change(from_nothing(), longer), shipped) > 2 * ROUNDING  # the control


def test_a_shipped_adapter_is_what_training_makes_today(lm, monkeypatch):
    duel, settings = rag_study.prepare(world_behind(lm), 0), PragSettings()
    monkeypatch.setattr("paramem.injection.kept_adapters.train_adapters", None)
    with keeping(SHIPPED):
        shipped = encode(lm, duel.pages, settings, keep=True)[0].delta
    slower = replace(settings, encoding=replace(settings.encoding, decay_from=0.6))
    for how, close in ((settings, True), (slower, False)):
        (made,) = encode(lm, duel.pages[:1], how)
        far = [apart(made.delta.dense(name), shipped.dense(name)) for name in shipped.parts]
        assert (max(far) < 2 * ROUNDING) == close, far


def test_every_step_is_taken_at_the_rate_of_the_plan(lm, rows, monkeypatch):
    rates, settings = [], replace(SETTINGS, passes=8)
    monkeypatch.setattr(
        training, "step", lambda lm, optim, *_: rates.append([group["lr"] for group in optim.param_groups])
    )
    fine_tune(lm, rows, settings)
    planned = [rate for rate, _ in plan(rows, settings, 0)]
    assert rates == [[rate] * len(rates[0]) for rate in planned]
    assert len(set(planned)) > 3  # the control: it is no constant


def test_a_step_follows_no_gradient_longer_than_one(lm, rows):
    after = LM.of(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
    after.model.requires_grad_(True)
    ids, counts = collate(rows)
    training.mean_loss(after, ids, counts).backward()
    assert norm_of_gradients(after) > 1.5
    training.step(after, torch.optim.SGD(after.model.parameters(), lr=0.0), ids, counts)
    assert norm_of_gradients(after) == pytest.approx(1, abs=1e-3)


def norm_of_gradients(lm: LM) -> float:
    return torch.cat([p.grad.flatten() for p in lm.model.parameters()]).norm().item()
