"""Figures of bounds beside the risks that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paramem.plots import _figure


def ladder(tables: Mapping[str, pd.DataFrame], title: str, *, units: Sequence[str], guess: str = "guessing") -> Figure:
    """One panel a metric (the frames of `certify`, indexed by metric), one row a model: true risk, empirical risk and
    bound on one line, and what guessing reaches as a dashed one. A bound to the right of it is vacuous.

    tables: metric -> frame with the columns ``bound``, ``empirical``, ``true``, ``guess``, indexed by model.
    """
    figure, axes = _figure(len(tables), 8.4, 0.42 * len(next(iter(tables.values()))) + 1.7)
    for number, (axis, (metric, table), unit) in enumerate(zip(axes, tables.items(), units, strict=True)):
        y = np.arange(len(table))
        axis.hlines(y, table["empirical"], table["bound"], color="0.6", linewidth=2, zorder=1)
        axis.scatter(table["bound"], y, marker="|", s=180, linewidth=2.5, color="#440154", label="bound", zorder=3)
        axis.scatter(table["empirical"], y, marker="o", s=42, color="#21918c", label="empirical risk", zorder=2)
        axis.scatter(table["true"], y, marker="x", s=34, color="black", label="true risk", zorder=4)
        axis.axvline(float(table["guess"].iloc[0]), color="#d95f02", linestyle="--", label=guess, zorder=0)
        axis.set_yticks(y, list(table.index) if number == 0 else [""] * len(y))
        axis.set(title=metric, xlabel=unit)
        axis.invert_yaxis()
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def training_curves(losses: Mapping[str, Sequence[float]], switch: int, title: str, *, window: int = 20) -> Figure:
    """Training loss in bits per token, running means over ``window`` steps; a line where quantisation begins."""
    figure, (axis,) = _figure(1, 7.2, 3.4)
    for (name, values), style in zip(losses.items(), ("-", "--", "-.", ":", (0, (5, 1))), strict=False):
        smooth = pd.Series(np.array(values) / np.log(2)).rolling(window, min_periods=1).mean()
        axis.plot(smooth, linestyle=style, label=name)
    axis.axvline(switch, color="0.5", linewidth=1)
    axis.annotate(" quantised from here", (switch, axis.get_ylim()[1]), va="top", fontsize=8.5, color="0.35")
    axis.set(xlabel="step", ylabel="bits per token")
    figure.legend(loc="outside right center", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure
