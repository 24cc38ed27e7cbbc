"""Bits of knowledge: the count against hand-worked cases, models against transformers, training against chance."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from paramem.capacity import grid
from paramem.capacity.biographies import DOMAIN, NAME_POOL, VOCABULARY, Biographies, people_for, strangers
from paramem.capacity.bits import capacity_ratio, diversity_bits, most_bits, name_bits, value_bits
from paramem.capacity.measuring import ahead, ask, peak, person_bits, quantised, summary
from paramem.capacity.stacked import Shape, Stack
from paramem.capacity.training import Telling, losses, trained
from paramem.errors import BadInput, BadParameter, CorruptFile

LN2 = math.log(2)


def test_a_model_that_knows_nothing_holds_no_bits_and_one_that_knows_all_holds_all() -> None:
    sizes = {"attributes": 3, "diversity": 8, "people": 4}
    assert value_bits(**sizes, value_loss=math.log(8)) == pytest.approx(0)
    assert value_bits(**sizes, value_loss=0) == pytest.approx(4 * 3 * 3)
    assert value_bits(**sizes, value_loss=LN2) == pytest.approx(4 * 3 * 2)  # half as many choices: a bit less each
    # two of four names: six sets. Even odds over the four say nothing but that names differ, 12 orders of 16.
    assert name_bits(people=2, name_pool=4, name_loss=math.log(4)) == pytest.approx(0)  # log2(12 / 16) < 0
    # even odds over the right two: log2(12) less one bit a name, which is log2(6) and the order's bit given back
    assert name_bits(people=2, name_pool=4, name_loss=LN2) == pytest.approx(math.log2(12) - 2)
    everything = most_bits(people=4, name_pool=64, attributes=3, diversity=8)
    assert everything == pytest.approx(name_bits(people=4, name_pool=64, name_loss=math.log(4)) + 36)


def test_no_coder_beats_the_bound_on_any_toy_world() -> None:
    """All worlds of two people out of three names with a value of two: averaged, bits held + code >= entropy."""
    worlds = [
        (names, values) for names in itertools.combinations(range(3), 2) for values in itertools.product("xy", repeat=2)
    ]
    assert math.log2(len(worlds)) == pytest.approx(math.log2(3) + 2)
    for memory in (1, 2, 3, 12):  # how many different weights there are
        held = 0.0
        for place, (names, values) in enumerate(worlds):
            told = [w for i, w in enumerate(worlds) if i % memory == place % memory]  # what the weights single out
            q = {n: sum(n in w[0] for w in told) / (2 * len(told)) for n in range(3)}
            name_loss = -sum(math.log(q[n]) for n in names) / 2
            odds = [
                sum(w[1][w[0].index(n)] == v for w in told if n in w[0]) / sum(n in w[0] for w in told)
                for n, v in zip(names, values, strict=True)
            ]
            held += name_bits(people=2, name_pool=3, name_loss=name_loss)
            held += value_bits(people=2, attributes=1, diversity=2, value_loss=-sum(map(math.log, odds)) / 2)
        assert held / len(worlds) <= math.log2(memory) + 1e-9, memory
    assert held / len(worlds) > 2  # the control: knowing the world exactly does count


@given(st.floats(0, 6), st.floats(0, 6))
def test_more_loss_is_less_knowledge(one: float, other: float) -> None:
    low, high = sorted((one, other))
    sizes = {"people": 50, "attributes": 6, "diversity": 64}
    assert value_bits(**sizes, value_loss=low) >= value_bits(**sizes, value_loss=high)
    assert name_bits(people=50, name_pool=4096, name_loss=low) >= name_bits(people=50, name_pool=4096, name_loss=high)
    strings = {"attributes": 6, "diversity": 64, "alphabet": 50, "length": 2}
    assert diversity_bits(**strings, first_chunk_loss=low) >= diversity_bits(**strings, first_chunk_loss=high)
    if high - low > 0.1 and high < 4:
        assert value_bits(**sizes, value_loss=low) > value_bits(**sizes, value_loss=high)


@pytest.mark.parametrize(
    "call",
    [
        lambda: name_bits(people=5, name_pool=4, name_loss=1.0),
        lambda: name_bits(people=0, name_pool=4, name_loss=1.0),
        lambda: name_bits(people=2, name_pool=4, name_loss=float("nan")),
        lambda: value_bits(people=2, attributes=1, diversity=2, value_loss=-0.1),
        lambda: value_bits(people=2, attributes=0, diversity=2, value_loss=0.1),
        lambda: diversity_bits(attributes=1, diversity=9, alphabet=2, length=3, first_chunk_loss=0.0),
        lambda: most_bits(people=9, name_pool=4, attributes=1, diversity=2),
        lambda: capacity_ratio(3.0, 0),
        lambda: Biographies.drawn(people=NAME_POOL + 1, seed=0),
        lambda: people_for(0.0, 100),
        lambda: Shape(width=12, heads=4),
        lambda: Telling(exposures=0, batch=1),
        lambda: Stack.initialised(Shape(), ()),
        lambda: Stack(Shape(), torch.zeros(1, 7)),
        lambda: grid.cell("gpt2-d9-x1-r1"),
        lambda: grid.load(grid.cells()[0], seed=77),
        lambda: trained(Shape(), [Biographies.drawn(people=3, seed=0)], (0, 1), Telling(exposures=1, batch=1)),
        lambda: peak({}, architecture="gpt2", exposures=7),
        lambda: quantised(Stack.initialised(Shape(width=4, heads=1), (0,)), 0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call: object) -> None:
    with pytest.raises(BadParameter) as caught:
        call()  # type: ignore[operator]
    assert len(str(caught.value)) > 20


def test_people_differ_in_name_and_their_number_fits_the_model() -> None:
    people = Biographies.drawn(people=NAME_POOL, seed=3)
    assert len({tuple(row) for row in people.names.tolist()}) == NAME_POOL
    assert not torch.equal(people.values, Biographies.drawn(people=NAME_POOL, seed=4).values)
    rows = people.rows(DOMAIN)
    assert rows.shape == (NAME_POOL, 9)
    assert rows[:, 0].unique().tolist() == [DOMAIN]
    assert int(rows.max()) < VOCABULARY
    assert strangers(5, torch.Generator()).shape == (5, 9)
    n = people_for(2.0, 5000)
    assert most_bits(people=n, name_pool=NAME_POOL, attributes=6, diversity=64) / 5000 == pytest.approx(2.0, rel=0.08)


def test_llama_is_transformers_llama() -> None:
    shape = Shape(architecture="llama", width=12, heads=3)
    models = Stack.initialised(shape, (4, 5))
    config = LlamaConfig(
        hidden_size=12, intermediate_size=shape.hidden, num_hidden_layers=2, num_attention_heads=3,
        vocab_size=VOCABULARY, tie_word_embeddings=True, rms_norm_eps=shape.norm_eps, pad_token_id=None,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    ours = {name: tensor.detach()[1] for name, tensor in models.tensors.items()}
    state = {
        "model.embed_tokens.weight": ours["embed"],
        "lm_head.weight": ours["embed"],
        "model.norm.weight": ours["norm.g"],
    }
    for layer in range(2):
        into = f"model.layers.{layer}."
        q, k, v = ours[f"{layer}.qkv"].T.split(12)
        state |= {f"{into}self_attn.{n}_proj.weight": W for n, W in zip("qkv", (q, k, v), strict=True)}
        state[f"{into}self_attn.o_proj.weight"] = ours[f"{layer}.out"].T
        state |= {f"{into}mlp.{n}_proj.weight": ours[f"{layer}.{n}"].T for n in ("gate", "up", "down")}
        state[f"{into}input_layernorm.weight"] = ours[f"{layer}.norm1.g"]
        state[f"{into}post_attention_layernorm.weight"] = ours[f"{layer}.norm2.g"]
    theirs.load_state_dict(state)
    ids = torch.randint(VOCABULARY, (2, 5, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = models.logits(ids)[1]
        assert torch.allclose(logits, theirs(ids[1]).logits, atol=1e-5)
        assert not torch.allclose(logits, theirs(ids[1].flip(1)).logits, atol=1e-1)  # the control
    assert shape.parameters() == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "moe"])
def test_models_of_a_stack_do_not_touch_one_another_and_see_no_future(architecture: grid.Architecture) -> None:
    shape = Shape(architecture=architecture, width=8)
    both, second = Stack.initialised(shape, (0, 1)), Stack.initialised(shape, (1,))
    ids = torch.randint(VOCABULARY, (2, 3, 6), generator=torch.Generator().manual_seed(1))
    logits = both.logits(ids)
    assert torch.allclose(logits[1:], second.logits(ids[1:]), atol=1e-6)
    assert not torch.allclose(logits[:1], second.logits(ids[:1]), atol=1e-2)
    later = ids.clone()
    later[..., -1] = (later[..., -1] + 1) % VOCABULARY
    assert torch.allclose(both.logits(later)[:, :, :-1], logits[:, :, :-1], atol=1e-6)
    assert not torch.allclose(both.logits(later)[:, :, -1], logits[:, :, -1], atol=1e-3)
    logits[1].sum().backward()
    gradients = {name: tensor.grad for name, tensor in both.tensors.items() if tensor.grad is not None}
    assert all(not gradient[0].any() for gradient in gradients.values())
    assert any(gradient[1].any() for gradient in gradients.values())


def test_an_expert_is_a_feed_forward_layer_and_only_the_best_one_answers() -> None:
    shape = Shape(architecture="moe", width=8, experts=3, layers=1)
    models = Stack.initialised(shape, (0,))
    x = torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out, uneven = models._experts(0, x)
    t = {name: tensor.detach()[0] for name, tensor in models.tensors.items()}
    for token in range(10):
        weight = (x[0, token] @ t["0.router"]).softmax(-1)
        best = int(weight.argmax())
        hidden = torch.nn.functional.gelu(x[0, token] @ t["0.up"][best] + t["0.up.b"][best], approximate="tanh")
        one = weight[best] * (hidden @ t["0.down"][best] + t["0.down.b"][best])
        assert torch.allclose(out[0, token], one, atol=1e-6)
    assert 1.0 - 1e-5 <= float(uneven) <= 3.0  # 1 when tokens and weight are spread evenly


def test_names_of_more_parts_are_more_names() -> None:
    people = Biographies.drawn(people=50, seed=0, parts=3)
    assert people.names.shape == (50, 3)
    assert people.parts == 3
    assert people.rows().shape == (50, 10)
    assert len({tuple(row) for row in people.names.tolist()}) == 50
    assert strangers(4, torch.Generator(), 3).shape == (4, 10)
    known = losses(Stack.initialised(Shape(width=8), (0,)), [people], rows=7)
    assert known.pool == 64**3
    assert known.names.shape == known.values.shape == (1, 50)
    whole = losses(Stack.initialised(Shape(width=8), (0,)), [people])
    assert torch.allclose(known.values, whole.values, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "moe"])
def test_a_stack_stays_on_its_device(architecture: grid.Architecture) -> None:
    """On the device without numbers: an operation that mixed it with the CPU would raise."""
    models = Stack.initialised(Shape(architecture=architecture, width=8), (0, 1), "meta")
    logits, unbalanced = models.run(torch.zeros(2, 3, 5, dtype=torch.long, device="meta"))
    assert logits.device.type == unbalanced.device.type == models.gradient.device.type == "meta"
    logits.sum().backward()
    models._rotary[5] = torch.zeros(5, 4), torch.zeros(5, 4)
    with pytest.raises(RuntimeError):
        models.run(torch.zeros(2, 3, 5, dtype=torch.long, device="meta"))


def test_numbers_are_assigned_and_gradients_forgotten_in_place() -> None:
    models, other = Stack.initialised(Shape(width=8), (0, 1)), Stack.initialised(Shape(width=8), (2, 3))
    ids = torch.randint(VOCABULARY, (2, 3, 6), generator=torch.Generator().manual_seed(1))
    models.logits(ids).sum().backward()
    assert models.gradient.abs().sum() > 0
    assert models.gradient.shape == models.flat.shape
    models.assign(other.flat)
    models.forget()
    assert torch.equal(models.flat, other.flat)
    assert torch.equal(models.logits(ids), other.logits(ids))
    assert models.gradient.abs().sum() == 0


def test_training_teaches_its_own_people_and_nobody_else() -> None:
    people = [Biographies.drawn(people=12, seed=seed) for seed in (0, 1)]
    models = trained(Shape(width=8), people, (0, 1), Telling(exposures=60, batch=6, lr=0.03))
    known = losses(models, people)
    assert min(known.bits) > 0.4 * known.most * known.parameters
    assert max(known.ratio) <= known.most
    others = losses(models, people[::-1])
    assert max(others.bits) == pytest.approx(0, abs=5)  # knowing somebody else's people is knowing nothing
    untrained = losses(Stack.initialised(Shape(width=8), (0, 1)), people)
    assert max(untrained.bits) == pytest.approx(0, abs=5)
    assert person_bits(known).mean() * 12 == pytest.approx(known.bits[0], rel=5e-3)
    span = ahead(known, untrained)
    assert span.low > 0
    assert ahead(known, known).low < 0 < ahead(known, known).high


def test_a_stack_trains_each_model_as_if_it_were_alone() -> None:
    people = [Biographies.drawn(people=6, seed=seed) for seed in (0, 1)]
    telling = Telling(exposures=3, batch=3)
    both = trained(Shape(width=8), people, (0, 1), telling)
    alone = trained(Shape(width=8), people[1:], (1,), telling)
    assert torch.allclose(both.flat[1], alone.flat[0], atol=1e-4)
    assert not torch.allclose(both.flat[0], alone.flat[0], atol=1e-2)


def test_everybody_is_told_as_often_as_promised_and_junk_comes_on_top() -> None:
    from paramem.capacity.training import _batches

    people = Biographies.drawn(people=10, seed=0)
    rows = people.rows().tolist()
    for junk, more in (("none", 0), ("strangers", 28), ("repeated", 28)):
        telling = Telling(exposures=6, batch=4, junk=junk)  # type: ignore[arg-type]
        stream = _batches(people, telling, seed=0)
        drawn = [next(stream) for _ in range(telling.steps(10))]
        assert {len(batch) for batch in drawn} == {4 + more}
        counts = [sum(batch[:4].tolist().count(row) for batch in drawn) for row in rows]
        assert counts == [6] * 10
    few = {tuple(row) for batch in drawn for row in batch[4:].tolist()}
    assert len(few) <= telling.repeated_people


def test_fewer_bits_know_less_and_sixteen_know_as_much() -> None:
    people = [Biographies.drawn(people=12, seed=0)]
    models = trained(Shape(width=8), people, (0,), Telling(exposures=60, batch=6, lr=0.03))
    known = {bits: losses(quantised(models, bits), people).bits[0] for bits in (16, 8, 3, 1)}
    full = losses(models, people).bits[0]
    assert known[16] == pytest.approx(full, rel=1e-3)
    assert known[8] == pytest.approx(full, rel=0.05)
    assert known[1] < 0.7 * full
    columns = quantised(models, 1).tensors["0.up"][0]
    assert all(len(column.unique()) <= 2 for column in columns.T)


def test_every_cell_has_a_name_of_its_own_and_is_told_in_like_steps() -> None:
    names = [each.name for each in grid.cells()]
    assert len(set(names)) == len(names)
    for each in grid.cells():
        assert grid.cell(each.name) == each
        steps = each.telling.steps(each.people)
        wanted = each.exposures * grid.STEPS_AN_EPOCH[each.exposures]
        assert wanted <= steps <= 1.07 * wanted


def test_shipped_weights_are_those_of_the_grid_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(path.name for path in grid.FOLDER.glob("*.safetensors"))
    assert files == sorted(f"{each.name}.safetensors" for each in grid.cells())
    assert sum((grid.FOLDER / name).stat().st_size for name in files) < 1_000_000
    asked = ask([grid.cells()[0]], seed=1)
    table = summary(asked)
    assert (table["known"] <= table["there"]).all()
    assert (table["known"] > 0.3 * table["there"]).all()
    monkeypatch.setattr(grid, "FOLDER", tmp_path)
    with pytest.raises(BadInput, match=r"python -m paramem\.capacity\.grid"):
        grid.load(grid.cells()[0], seed=0)
    (tmp_path / f"{grid.cells()[0].name}.safetensors").write_bytes(b"no weights")
    with pytest.raises(CorruptFile, match="train the cell again"):
        grid.load(grid.cells()[0], seed=0)
