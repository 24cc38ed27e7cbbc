"""The large grid: what it costs is counted right, a finished size is kept, rates follow the rule, errors are clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from paramem.capacity import grid, large
from paramem.capacity.biographies import VOCABULARY
from paramem.capacity.large import LARGE, asked_large, budget, chosen, large_cells
from paramem.capacity.measuring import ask, summary
from paramem.capacity.rates import best_factors, swept
from paramem.capacity.stacked import Architecture, Shape, Stack
from paramem.capacity.training import _nats
from paramem.capacity.work import MARGIN, Work, check_fits, forward_flops, kept_for_backward
from paramem.errors import BadParameter
from paramem.models import usable_device

CPU = torch.device("cpu")
TINY = large_cells([(8, 1)], loads=(0.1, 0.2))


def test_the_grid_reaches_thirty_million_parameters_and_names_suffice() -> None:
    cells = large_cells()
    assert max(cell.shape.parameters() for cell in cells) > 30_000_000
    assert all(2 * cell.people <= 64**cell.parts for cell in (*cells, *grid.cells()))
    assert {cell.parts for cell in grid.cells()} == {2}
    assert len({cell.name for cell in (*cells, *grid.cells())}) == len(cells) + len(grid.cells())
    sizes = [cell.shape.parameters() for cell in cells]
    assert sizes == sorted(sizes), "the cheapest first, so that an interruption costs the least"


def test_an_accelerator_gets_the_large_grid_in_full_profiles_and_nobody_else() -> None:
    cuda = torch.device("cuda")
    assert chosen("auto", profile="full", device=cuda) == chosen("auto", profile="paper", device=cuda) == large_cells()
    assert chosen("auto", profile="default", device=cuda) == ()
    assert chosen("auto", profile="full", device=CPU) == ()
    assert chosen("none", profile="full", device=cuda) == ()
    named = chosen("8x1 16x2", profile="default", device=CPU)
    assert {(cell.width, cell.layers) for cell in named} == {(8, 1), (16, 2)}


@pytest.mark.parametrize("large", ["", "64", "64x", "0x2", "8x1,16x2", "all"])
def test_sizes_that_are_none_are_refused(large: str) -> None:
    with pytest.raises(BadParameter, match="width x layers"):
        chosen(large, profile="full", device=CPU)


def test_a_device_that_is_not_there_is_named_with_a_remedy() -> None:
    assert usable_device("cpu") == CPU
    for name in ("cuda:77", "abacus"):
        with pytest.raises(BadParameter, match=rf"{name}.*leave it at 'auto'"):
            usable_device(name)
    assert usable_device("auto").type in ("cpu", "cuda")


def test_a_finished_size_is_kept_and_an_interrupted_one_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = TINY
    trainings: list[grid.Cell] = []

    def watched(cell: grid.Cell, *args: object, **kwargs: object) -> Stack:
        trainings.append(cell)
        if cell == second and len(trainings) == 2:
            raise KeyboardInterrupt
        return grid.train(cell, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(large, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        asked_large(TINY, 0, CPU, folder=tmp_path)
    assert [path.name.split("-s0-")[0] for path in tmp_path.iterdir()] == [first.name]
    table = asked_large(TINY, 0, CPU, folder=tmp_path)
    assert trainings == [first, second, second], "the first was not told again"
    again = asked_large(TINY, 0, CPU, folder=tmp_path)
    assert len(trainings) == 3
    assert again.equals(table)
    asked_large(TINY[:1], 1, CPU, folder=tmp_path)
    assert len(trainings) == 4, "the control: another seed is another measurement"
    [kept] = tmp_path.glob(f"{first.name}-s0-*")
    kept.write_bytes(b"{}")
    asked_large(TINY[:1], 0, CPU, folder=tmp_path)
    assert len(trainings) == 5, "a damaged file is measured again"
    assert set(json.loads(kept.read_bytes())) == set(large.COLUMNS)


def test_another_recipe_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = large._file_name(TINY[0], 0, CPU)
    assert large._file_name(TINY[0], 0, torch.device("cuda")) != before
    monkeypatch.setitem(grid.RATES, 100, 0.01)
    assert large._file_name(TINY[0], 0, CPU) != before


def test_large_cells_are_measured_as_small_ones_are(tmp_path: Path) -> None:
    table = asked_large(TINY, 3, CPU, folder=tmp_path)
    small = summary(ask(TINY, 3, anew=True))
    for column in ("parameters", "people", "there", "known", "share"):
        assert table[column].tolist() == pytest.approx(small[column].tolist()), column
    assert (table["share"] > 0.5).all()


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(asked_large(TINY[:1], 0, CPU, folder=tmp_path / "file" / "below")) == 1


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "moe"])
def test_flops_are_those_that_torch_counts(architecture: Architecture) -> None:
    shape = Shape(architecture=architecture, width=16, layers=3, heads=2)
    models, ids = Stack.initialised(shape, (0,), "meta"), torch.zeros(1, 5, 9, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits, uneven = models.run(ids)
        forward = counter.get_total_flops()
        (logits.sum() + uneven.sum()).backward()  # type: ignore[no-untyped-call]
    assert forward == forward_flops(shape, 5, 9)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize(("width", "layers", "heads"), [(64, 2, 1), (128, 4, 2), (512, 10, 8)])
def test_what_a_step_keeps_is_estimated_from_above_and_not_far(width: int, layers: int, heads: int) -> None:
    shape = Shape(width=width, layers=layers, heads=heads)
    models, ids = Stack.initialised(shape, (0,), "meta"), torch.zeros(1, 64, 11, dtype=torch.long, device="meta")
    kept: dict[int, int] = {}
    own = models.buffer.untyped_storage()._cdata

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata != own:
            kept[storage._cdata] = storage.nbytes() // 4
        holding.append(tensor)  # so that no storage is freed and its address taken again
        return tensor

    holding: list[torch.Tensor] = []
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, _ = models.run(ids[..., :-1])
        _nats(logits, ids).mean()
    counted = sum(kept.values())
    assert logits.shape[-1] == VOCABULARY
    assert counted <= kept_for_backward(shape, 64, 10) <= 1.5 * counted


def test_the_budget_grows_with_the_size_and_is_that_of_the_cells() -> None:
    table = budget()
    assert list(zip(table["width"], table["layers"], strict=True)) == list(LARGE)
    for column in ("parameters", "million tokens", "PFLOP", "GiB"):
        assert table[column].is_monotonic_increasing, column
    smallest = [Work.of(cell) for cell in large_cells(LARGE[:1])]
    assert table["PFLOP"][0] == pytest.approx(sum(work.flops for work in smallest) / 1e15)
    cell = large_cells(LARGE[:1])[0]
    assert Work.of(cell).tokens == pytest.approx(cell.people * 100 * (cell.parts + 6), rel=0.01)


def test_what_does_not_fit_is_refused_before_anything_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = large_cells([(8, 1), (64, 2)], loads=(0.1,))
    need = [int(MARGIN * Work.of(cell).memory) + 1 for cell in both]
    check_fits(both, CPU, free=need[1])
    with pytest.raises(BadParameter, match=rf"{both[1].name}.*large='8x1'"):
        check_fits(both, CPU, free=need[0])
    monkeypatch.setattr("paramem.capacity.work.free_memory", lambda device: 0)
    monkeypatch.setattr(large, "train", lambda *_, **__: pytest.fail("told all the same"))
    with pytest.raises(BadParameter, match="GiB free"):
        asked_large(both, 0, CPU, folder=tmp_path)


def test_running_out_of_memory_all_the_same_says_what_to_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Stack:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(large, "train", full)
    with pytest.raises(BadParameter, match="leave this size out"):
        asked_large(TINY, 0, CPU, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_rates_are_those_that_were_chosen_and_fall_with_the_width_above() -> None:
    assert {grid.rate_for(width, 100) for width in grid.HEADS} == {grid.RATES[100]}
    assert grid.rate_for(24, 100) == pytest.approx(grid.RATES[100] / 2)
    for width, layers in LARGE:
        assert large_cells([(width, layers)])[0].telling.lr == pytest.approx(0.03 * 12 / width)


def test_a_sweep_tells_a_good_rate_from_a_bad_one() -> None:
    table = swept([8], factors=(0.01, 1.0), layers=1, load=0.2, seeds=(9000,))
    assert table["known"][1] > 2 * table["known"][0]
    best = best_factors(table)
    assert best.loc[8, "factor"] == 1.0
    assert best.loc[8, "share_of_the_rule"] == 1.0
