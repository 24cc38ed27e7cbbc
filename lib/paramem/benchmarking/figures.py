"""The benchmark's figures, in the style of `paramem.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paramem.benchmarking.comparing import front
from paramem.benchmarking.costs import Cost
from paramem.plots import MARKERS, STYLE


def _figure(columns: int, width: float, height: float, *, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, columns, figsize=(width, height), squeeze=False, layout="constrained", sharey=sharey
        )
    plt.close(figure)
    return figure, axes


def heat_map(table: pd.DataFrame, title: str, *, label: str = "share") -> Figure:
    """Editors as rows; columns (task, measure), in blocks by task; shares in [0, 1], empty where nothing was asked."""
    blocks = list(dict.fromkeys(table.columns.get_level_values(0)))
    widths = [int((table.columns.get_level_values(0) == block).sum()) for block in blocks]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(blocks), figsize=(2.6 + 0.62 * table.shape[1], 1.6 + 0.27 * len(table)), squeeze=False,
            layout="constrained", gridspec_kw={"width_ratios": widths},
        )  # fmt: skip
    plt.close(figure)
    for place, (axis, block) in enumerate(zip(axes[0], blocks, strict=True)):
        sns.heatmap(
            table[block], ax=axis, cmap="viridis", vmin=0, vmax=1, annot=True, fmt=".2f", annot_kws={"size": 7.5},
            linewidths=0.5, cbar=place == len(blocks) - 1, cbar_kws={"label": label}, yticklabels=place == 0,
        )  # fmt: skip
        axis.set(xlabel="", ylabel="", title=block)
        axis.title.set_fontsize(9)
        axis.tick_params(axis="x", rotation=60, length=0, labelsize=8)
        axis.tick_params(axis="y", rotation=0, length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def pareto(points: pd.DataFrame, title: str, *, x: str, y: str, kinds: str) -> Figure:
    """One labelled point an editor (the index), a colour and marker for each of ``kinds``, the front as a line."""
    figure, axes = _figure(1, 7.6, 5.0)
    axis, names = axes[0, 0], sorted(set(points[kinds]))
    for kind, colour, marker in zip(names, sns.color_palette("viridis", len(names)), MARKERS, strict=False):
        part = points[points[kinds] == kind]
        axis.scatter(part[x], part[y], color=colour, marker=marker, s=42, label=kind, zorder=3)
    best = points.loc[list(front({str(n): (r[x], r[y]) for n, r in points.iterrows()}))]
    axis.plot(best[x], best[y], color="0.6", linewidth=1, zorder=1)
    taken: list[tuple[float, float]] = []
    for name, row in points.sort_values(y, ascending=False).iterrows():
        up = 4 - 9 * sum(abs(row[x] - u) < 0.13 and abs(row[y] - v) < 0.025 for u, v in taken)
        axis.annotate(str(name), (row[x], row[y]), xytext=(6, up), textcoords="offset points", fontsize=7.5)
        taken.append((row[x], row[y]))
    axis.set(xlabel=x, ylabel=y, xlim=(-0.03, 1.16), ylim=(None, 1.05))
    axis.legend(loc="lower left", title=kinds)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def stacked(table: pd.DataFrame, title: str, *, xlabel: str) -> Figure:
    """One bar a row, its columns one after the other: shares of each row's total."""
    figure, axes = _figure(1, 7.4, 1.3 + 0.27 * len(table))
    axis, left = axes[0, 0], np.zeros(len(table))
    shares = table.div(table.sum(axis=1), axis=0)
    for column, colour in zip(table.columns, sns.color_palette("viridis", table.shape[1])[::-1], strict=True):
        axis.barh(range(len(table)), shares[column], left=left, color=colour, label=str(column), height=0.75)
        left += shares[column].to_numpy()
    axis.set_yticks(range(len(table)), [str(name) for name in table.index])
    axis.set(xlabel=xlabel, xlim=(0, 1))
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def cost_bars(costs: Mapping[str, Cost], title: str) -> Figure:
    """Seconds and peak memory per edit, side by side, on logarithmic axes."""
    figure, axes = _figure(2, 8.4, 1.3 + 0.27 * len(costs), sharey=True)
    panels: Sequence[tuple[str, list[float]]] = (
        ("seconds per edit", [cost.seconds for cost in costs.values()]),
        ("peak memory, MB", [cost.peak_mb for cost in costs.values()]),
    )
    for axis, (label, values) in zip(axes[0], panels, strict=True):
        axis.barh(range(len(values)), values, color=sns.color_palette("viridis", 3)[1], height=0.7)
        axis.set(xlabel=label)
        if max(values, default=0) > 0:
            axis.set_xscale("log")
    axes[0, 0].set_yticks(range(len(costs)), list(costs))
    axes[0, 0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure
