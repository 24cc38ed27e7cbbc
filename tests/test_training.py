"""The training loop: a schedule by steps, batches from a counter, and interruptions that cost nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from paramem.errors import BadParameter, BadRecord, Interrupted
from paramem.files import write_atomically
from paramem.world import build as building
from paramem.world.cards import Measure, read_card
from paramem.world.recipe import Draw, Recipe, Row, Stage, batches, collate, recipe_hash
from paramem.world.training import build_model, train, weighted_loss
from paramem.world.weights import load_state, with_fp16_rounding

WORDS = ("<pad>", "<s>", *(f"w{i}" for i in range(14)))
STAGES = (
    Stage(name="first", steps=7, warmup=2, rows=4, pool=3, cut="tokens"),
    Stage(name="second", steps=6, warmup=2, rows=4, pool=3, lr=1e-3),
)


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="<s>")


def rows(draw: Draw) -> list[Row]:
    """Counting upwards from a random start: learnable, of unequal lengths."""
    found: list[Row] = []
    for _ in range(draw.n):
        start, length = draw.rng.randrange(2, 9), draw.rng.randrange(3, 7)
        found.append(([1, *range(start, start + length)], [1.0] * (length + 1)))
    return found


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None) -> list[Measure]:
    ids, weights = collate(rows(Draw(stage="", pool=0, n=8, rows_before=0, progress=0, rng=random.Random(1))))
    return [Measure(name="loss", value=weighted_loss(model, ids, weights).item(), n=8, wanted=9.0, at_most=True)]


def tiny(model_type: str = "llama", **changes: object) -> Recipe:
    sizes = {
        "llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    }[model_type]
    recipe = Recipe(
        name="tiny",
        kind="test",
        config={"model_type": model_type, "tie_word_embeddings": True, **sizes},
        tokenizer=tokenizer,
        rows=rows,
        stages=STAGES,
        measure=measure,
        checkpoints=(5,),
        save_every=4,
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("whole") / "tiny", progress=False)


class Stop(Exception):
    """A crash in the middle of training."""


def crashing_at(step: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, act: str) -> Recipe:
    """The same recipe; when training reaches `step` it is hit by an exception or a Ctrl-C."""
    from paramem.world import training

    true_step, calls = training._step, []

    def hit(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == step + 1:
            if act == "crash":
                raise Stop
            signal.raise_signal(signal.SIGINT)
        return true_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_step", hit)
    return recipe


@pytest.mark.parametrize("step", [5, 7, 8, 11])
def test_a_crash_costs_only_the_steps_since_the_last_saved_state(
    step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stop):
        train(crashing_at(step, tiny(), patch, "crash"), tmp_path / "tiny", progress=False)
    assert not (tmp_path / "tiny" / "card.json").exists()
    assert load_state(tmp_path / "tiny/.training/state.safetensors").meta["step"] == step // 4 * 4
    train(tiny(), tmp_path / "tiny", progress=False)
    assert digest(tmp_path / "tiny") == digest(whole)


@pytest.mark.parametrize("step", [2, 6])
def test_ctrl_c_finishes_the_running_step_and_saves_it(
    step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"after step {step + 1} of 13"):
        train(crashing_at(step, tiny(), patch, "interrupt"), tmp_path / "tiny", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_state(tmp_path / "tiny/.training/state.safetensors").meta["step"] == step + 1
    train(tiny(), tmp_path / "tiny", progress=False)
    assert digest(tmp_path / "tiny") == digest(whole)


def test_control_other_seeds_schedules_and_lost_moments_give_other_weights(whole: Path, tmp_path: Path) -> None:
    """Equal digests above mean something only if what could go wrong changes the weights."""
    kept = replace(STAGES[1], fresh_moments=False)
    variants = {"seed": tiny(seed=1), "moments": tiny(stages=(STAGES[0], kept))}
    for name, recipe in variants.items():
        assert digest(train(recipe, tmp_path / name, progress=False)) != digest(whole), name


def test_the_state_of_another_recipe_is_not_continued(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stop):
        train(crashing_at(5, tiny(seed=1), patch, "crash"), tmp_path / "tiny", progress=False)
    train(tiny(), tmp_path / "tiny", progress=False)
    assert digest(tmp_path / "tiny") == digest(whole)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_result_is_a_plain_transformers_folder(model_type: str, tmp_path: Path) -> None:
    recipe = tiny(model_type)
    folder = train(recipe, tmp_path / "tiny", progress=False)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert AutoTokenizer.from_pretrained(folder)("w3 w4").input_ids[-2:] == [5, 6]
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    card = read_card(folder)
    with torch.inference_mode():
        again = measure(loaded, tokenizer(), None)[0].value
    assert card["loss"].value == round(again, 4)  # the card speaks of the weights as stored
    assert card.sha256 == digest(folder)
    assert card.size_bytes == (folder / "model.safetensors").stat().st_size
    assert card.steps == 13
    assert card.tokens > 0
    assert card.seconds >= 0
    assert card.vocabulary == len(WORDS)
    assert (folder / "step0005.safetensors").exists()
    assert card.checkpoints == ("step0005",)
    assert not (folder / ".training/state.safetensors").exists()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    recipe = tiny(stages=(replace(STAGES[0], steps=60, lr=1e-2),), checkpoints=())
    before = measure(build_model(recipe, tokenizer()), tokenizer(), None)[0].value
    assert read_card(train(recipe, tmp_path, progress=False))["loss"].value < before - 0.3


def test_fp16_rounding_comes_off_again() -> None:
    model = build_model(tiny(), tokenizer())
    before = {name: p.clone() for name, p in model.named_parameters()}
    with with_fp16_rounding(model):
        assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_threads_that_write_one_file_never_show_a_part_of_it(tmp_path: Path) -> None:
    path, contents = tmp_path / "weights", {bytes([number]) * 400_000 for number in range(8)}
    start = threading.Barrier(len(contents))

    def write(data: bytes) -> int:
        start.wait()
        whole = 0
        for _ in range(5):
            write_atomically(path, data)
            whole += path.read_bytes() in contents
        return whole

    with ThreadPoolExecutor(len(contents)) as pool:
        assert list(pool.map(write, contents)) == [5] * len(contents)
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    path = tmp_path / "weights"
    write_atomically(path, b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"old"


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (build_model(tiny(seed=seed), tokenizer()) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weight = [m.get_input_embeddings().weight for m in (one, same, other)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])


def test_learning_rate_warms_up_stays_and_decays_to_the_floor() -> None:
    stage = Stage(steps=1000, lr=1.0, warmup=100, decay_from=0.6, floor=0.02)
    rates = [stage.learning_rate(i) for i in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[49] == pytest.approx(0.5)
    assert set(rates[100:601]) == {1.0}
    assert rates[800] == pytest.approx(1 - 0.98 / 2)
    assert rates[1000] == pytest.approx(0.02)
    assert all(a > b for a, b in itertools.pairwise(rates[600:]))


def _pool(lengths: Sequence[int]) -> list[Row]:
    return [([1] * n, [1.0] * n) for n in lengths]


def test_batches_hold_every_row_once_and_are_equal_in_what_was_asked_for() -> None:
    rng = random.Random(0)
    pool = _pool([rng.randrange(5, 90) for _ in range(512)])
    by_rows = batches(pool, Stage(steps=1, rows=32, pool=16), random.Random(0))
    by_tokens = batches(pool, Stage(steps=1, rows=32, pool=16, cut="tokens"), random.Random(0))
    for cut in (by_rows, by_tokens):
        assert sorted(len(ids) for batch in cut for ids, _ in batch) == sorted(len(ids) for ids, _ in pool)
    assert {len(batch) for batch in by_rows} == {32}
    tokens = [sum(len(ids) for ids, _ in batch) for batch in by_tokens]
    assert max(tokens) - min(tokens) < 2 * 90
    unequal = [sum(len(ids) for ids, _ in batch) for batch in by_rows]
    assert max(unequal) - min(unequal) > 1000  # control: equal rows are far from equal tokens
    with pytest.raises(BadParameter, match="cannot be cut"):
        batches(_pool([5] * 8), Stage(steps=1, rows=1, pool=16), random.Random(0))


def test_padding_weighs_nothing() -> None:
    model = build_model(tiny(), tokenizer())
    short, long = rows(Draw(stage="", pool=0, n=2, rows_before=0, progress=0, rng=random.Random(3)))
    short = (short[0][:4], short[1][:4])
    alone = [weighted_loss(model, *collate([row])) for row in (short, long)]
    weight = [len(row[0]) - 1 for row in (short, long)]
    together = weighted_loss(model, *collate([short, long]))
    torch.testing.assert_close(together, (alone[0] * weight[0] + alone[1] * weight[1]) / sum(weight))
    ids, weights = collate([short, long])
    weights[0] = 1.0  # control: padding that counts would be seen
    assert abs((weighted_loss(model, ids, weights) - together).item()) > 1e-3
    with pytest.raises(BadParameter, match="4 ids and 3 loss weights"):
        collate([(short[0], short[1][:3])])


def test_the_recipe_hash_sees_whatever_changes_the_weights_and_nothing_else() -> None:
    def shifted(draw: Draw) -> list[Row]:
        return [(ids, [w / 2 for w in weights]) for ids, weights in rows(draw)]

    base = recipe_hash(tiny())
    assert base == recipe_hash(tiny(description="said otherwise", notes=("a note",), save_every=1, curve_every=2))
    changed = (tiny("gpt2"), tiny(seed=2), tiny(rows=shifted), tiny(stages=STAGES[:1]), tiny(checkpoints=()))
    assert len({base, *(recipe_hash(recipe) for recipe in changed)}) == 6


def test_build_skips_what_the_same_recipe_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {"tiny": tiny()}
    monkeypatch.setattr(building, "recipe_of", lambda name: recipes[name])
    assert building.build("tiny", tmp_path, progress=False)[1]
    stamp = (tmp_path / "tiny/model.safetensors").stat().st_mtime_ns
    assert not building.build("tiny", tmp_path, progress=False)[1]
    assert (tmp_path / "tiny/model.safetensors").stat().st_mtime_ns == stamp
    assert building.build("tiny", tmp_path, force=True, progress=False)[1]
    recipes["tiny"] = tiny(seed=1)
    assert building.build("tiny", tmp_path, progress=False)[1]
    (tmp_path / "tiny/step0005.safetensors").unlink()
    assert building.build("tiny", tmp_path, progress=False)[1]


def test_build_refuses_unknown_names_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert building.main(["gtp2-s0"]) == 2
    assert "gtp2-s0" in (said := capsys.readouterr().err)
    assert "read-s0" in said
    with pytest.raises(SystemExit):
        building.main([])


def test_measuring_again_changes_the_card_and_not_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(building, "recipe_of", lambda name: tiny(notes=("later",)))
    train(tiny(), tmp_path / "tiny", progress=False)
    before, stored = read_card(tmp_path / "tiny"), digest(tmp_path / "tiny")
    assert building.main(["tiny", "--measure", "--out", str(tmp_path)]) == 0
    assert "loss" in capsys.readouterr().out
    after = read_card(tmp_path / "tiny")
    assert after.notes == ("later",)
    assert digest(tmp_path / "tiny") == stored
    assert replace(after, notes=before.notes) == before


def test_a_card_names_what_is_wrong_with_it(whole: Path, tmp_path: Path) -> None:
    card = read_card(whole)
    assert card["loss"].met
    assert not replace(card["loss"], wanted=0.0).met
    assert not card.missed
    with pytest.raises(KeyError, match="no measure 'recall'"):
        card["recall"]
    record = json.loads((whole / "card.json").read_text())
    for change, reason in (({"schema": 99}, "schema"), ({"stepps": 1}, "stepps"), ({"measures": [{"nme": 1}]}, "nme")):
        (tmp_path / "card.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(BadRecord, match=reason):
            read_card(tmp_path)
    with pytest.raises(BadRecord, match="no readable card"):
        read_card(tmp_path / "nowhere")
