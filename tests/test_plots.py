"""Figures: one per call, closed for pyplot, with axes, units and legends that the data asks for."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from paramem import plots
from paramem.detection.causal_tracing import TraceSettings, average_indirect_effect, trace
from parity import facts, tiny


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    yield
    assert not plt.get_fignums()


def test_trace_maps_have_a_row_per_token_and_mark_the_subject() -> None:
    found = trace(tiny(), facts()[0]["prompt"], facts()[0]["subject"], TraceSettings(samples=2))
    figure = plots.trace_maps([found, found], "title")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(found.tokens)
    assert [i for i, label in enumerate(labels) if label.endswith("*")] == list(found.subject)
    assert figure.axes[0].get_xlabel() == "restored layer"
    curves = plots.effect_curves(
        {"state": average_indirect_effect([found, found])}, "t", roles=["subject last", "last"]
    )
    assert len(curves.axes[0].lines) == 3  # two roles and the zero line


def test_rates_draw_every_interval_inside_the_axis() -> None:
    table = pd.DataFrame({"edit": ["a", "b"] * 2, "metric": ["x"] * 2 + ["y"] * 2, "mean": [0.0, 1.0, 0.5, 0.7]})
    table = table.assign(low=table["mean"].clip(lower=0.1) - 0.1, high=(table["mean"] + 0.1).clip(upper=1))
    (axis,) = plots.rates(table, "title", rows="metric", columns="edit").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]
    assert axis.get_xlim() == (-0.03, 1.03)
    assert len(axis.containers) == 2


def test_rates_fit_small_values_and_name_one_kind_in_no_legend() -> None:
    table = pd.DataFrame({"edit": ["a", "b"], "metric": ["x"] * 2, "mean": [0.02, 0.1], "low": [0.0, 0.05]})
    table = table.assign(high=table["mean"] + 0.04)
    figure = plots.rates(table, "title", rows="metric", columns="edit", fit=True)
    low, high = figure.axes[0].get_xlim()
    assert low < 0.0
    assert 0.14 < high < 0.2
    assert len(figure.legends) == 1
    alone = plots.rates(table, "title", rows="edit", columns="metric")
    assert alone.axes[0].get_xlim() == (-0.03, 1.03), "the control: without fit shares lie between 0 and 1"
    assert not alone.legends


def test_losses_of_zero_leave_a_gap_and_not_a_plunge() -> None:
    (axis,) = plots.loss_curves({"kl": [0.0, 0.1, 0.2]}, "title").axes
    assert np.isnan(axis.lines[0].get_ydata()[0])
    assert axis.get_yscale() == "log"


@pytest.mark.parametrize("shares", [True, False])
def test_bands_of_shares_stay_shares(shares: bool) -> None:
    table = pd.DataFrame({"x": [1] * 4 + [2] * 4, "y": [0, 0, 0, 1, 0.5, 1, 1, 1], "of": "a"})
    (axis,) = plots.curves(table, "title", x="x", y="y", lines="of", shares=shares).axes
    [band] = [path for collection in axis.collections for path in collection.get_paths()]
    inside = band.vertices[:, 1].min() >= 0 and band.vertices[:, 1].max() <= 1
    assert inside == shares, "the control: a normal band around 0.25 of four reaches below zero"
    assert list(axis.lines[0].get_ydata()) == [0.25, 0.875]


def test_grids_and_growth() -> None:
    table = pd.DataFrame({"seen": [1.0, 0.5], "withheld": [0.9, 0.0]}, index=["born_in", "plays"])
    assert len(plots.grid(table, "title", label="share").axes[0].texts) == 4
    assert len(plots.growth(table, "title", ylabel="share").axes[0].lines) == 2


def test_promises_draw_a_diagonal_and_a_line_of_every_kind() -> None:
    table = pd.DataFrame({"confidence": [0.1, 0.9] * 2, "right": [0.2, 0.7] * 2, "of": ["a"] * 4, "kind": list("xxyy")})
    (axis,) = plots.promises(table.assign(low=0.0, high=1.0), "title", panels="of", lines="kind").axes
    diagonal, *drawn = [line for line in axis.lines if line.get_linestyle() == "-"]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert [list(line.get_ydata()) for line in drawn] == [[0.2, 0.7]] * 2


def test_scatter_draws_every_row_once_under_its_kind() -> None:
    table = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": [0.0, 1, 4, 9], "layer": [0, 0, 1, 2], "of": ["a", "b", "a", "a"]})
    figure = plots.scatter(table, "title", x="x", y="y", points="layer", panels="of")
    drawn = [[tuple(point) for point in part.get_offsets()] for axis in figure.axes for part in axis.collections]
    assert drawn == [[(0, 0)], [(2, 4)], [(3, 9)], [(1, 1)], [], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_weight_maps_are_dark_where_the_change_is_largest() -> None:
    change = torch.zeros(4, 6)
    change[:, 2], change[1, 5] = -2.0, 1.0
    figure = plots.weight_maps({"a": change, "b": 10 * change, "c": change}, "title")
    drawn = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(drawn) == 3, "an odd panel is left empty"
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]
    for shown in drawn:
        assert shown is not None
        np.testing.assert_allclose(shown[:, 2], 1.0)
        assert shown[1, 5] == 0.5
        assert shown[0, 0] == 0.0
