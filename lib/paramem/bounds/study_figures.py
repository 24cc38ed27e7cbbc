"""Figures of bounds: risk against complexity, and the terms of a bound stacked."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paramem.plots import MARKERS, STYLE

TERMS = {"empirical": ("empirical risk", ""), "complexity": ("complexity", "//"), "sample": ("sample", "xx")}


def _figure(columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    plt.close(figure)
    return figure, axes[0]


def front(panels: dict[str, tuple[pd.DataFrame, float]], title: str) -> Figure:
    """Empirical risk against what the bound adds to it, one point a model; a bound is the sum of the two.

    panels: name of the loss -> (table with columns kind, d, empirical, added, on_front, and the risk of guessing).
    Points of a kind are joined in order of d; filled ones are on the front of all; bounds in the shaded region are
    vacuous, worse than guessing.
    """
    figure, axes = _figure(len(panels), 4.3 * len(panels) + 1.2, 3.8)
    for axis, (name, (table, guess)) in zip(axes, panels.items(), strict=True):
        kinds = list(dict.fromkeys(table["kind"]))
        for kind, colour, marker in zip(kinds, sns.color_palette("viridis", len(kinds) + 1), MARKERS, strict=False):
            part = table[table["kind"] == kind].sort_values("d")
            axis.plot(part["added"], part["empirical"], color=colour, lw=0.9, alpha=0.6)
            faces = [colour if on else "white" for on in part["on_front"]]
            axis.scatter(
                part["added"],
                part["empirical"],
                c=faces,
                edgecolors=[colour],
                marker=marker,
                s=36,
                label=kind,
                zorder=3,
            )
        _sums(axis, table, guess)
        axis.set(xlabel=f"what the bound adds ({_unit(name)})", ylabel=f"empirical risk ({_unit(name)})", title=name)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside right center", title="filled: on the front", frameon=False)
    for handle, colour in zip(legend.legend_handles, sns.color_palette("viridis", len(labels) + 1), strict=False):
        if handle is not None:
            handle.set_facecolor(colour)  # type: ignore[attr-defined]
    figure.suptitle(_wrapped(title, figure), x=0.01, ha="left", fontsize=10.5)
    return figure


def _wrapped(title: str, figure: Figure) -> str:
    return fill(title, int(13 * figure.get_figwidth()))


def _sums(axis: Axes, table: pd.DataFrame, guess: float) -> None:
    """Lines of equal bound, and the region where the bound is no better than guessing."""
    x = np.linspace(0, max(table["added"].max() * 1.12, 1e-9), 50)
    top = max(table["empirical"].max() * 1.12, guess * 1.02)
    axis.fill_between(x, guess - x, top, color="0.85", lw=0, zorder=0)
    axis.text(0.98, 0.97, f"vacuous: above {guess:.2f}", transform=axis.transAxes, ha="right", va="top", fontsize=8.5)
    best = (table["added"] + table["empirical"]).min()
    axis.plot(x, best - x, color="0.3", lw=0.9, ls="--", zorder=1)
    axis.text(0.02, 0.02, f"dashed: the best bound, {best:.2f}", transform=axis.transAxes, fontsize=8.5)
    axis.set(xlim=(0, x[-1]), ylim=(0, top))


def _unit(name: str) -> str:
    return "bits a token" if name.startswith("bits") else "share of tokens"


def stacked(panels: dict[str, tuple[pd.DataFrame, str]], title: str, *, guess: float, ylabel: str) -> Figure:
    """The three terms of a bound stacked, over whatever varies; the lowest sum is marked, and guessing is a line.

    panels: name -> (table with columns empirical, complexity, sample, bound and, if measured, true; the column on the
    x axis). Bars stand at equal distances, labelled with the values of that column.
    """
    figure, axes = _figure(len(panels), 3.6 * len(panels) + 3.2, 3.6)
    colours = dict(zip(TERMS, ("0.35", "#7fa8c9", "#f2c48d"), strict=True))
    highest = max(float(table["bound"].max()) for table, _ in panels.values())
    for axis, (name, (table, column)) in zip(axes, panels.items(), strict=True):
        x, bottom = np.arange(len(table)), np.zeros(len(table))
        for term, (label, hatch) in TERMS.items():
            axis.bar(
                x, table[term], 0.72, bottom=bottom, color=colours[term], hatch=hatch, edgecolor="white", lw=0.4,
                label=label,
            )  # fmt: skip
            bottom += table[term].to_numpy()
        if "true" in table:
            axis.plot(x, table["true"], "D", color="black", ms=5, mec="white", label="true risk")
        low = int(np.argmin(table["bound"]))
        axis.annotate(f"{bottom[low]:.2f}", (low, bottom[low]), (0, 3), textcoords="offset points", ha="center")
        axis.axhline(guess, color="black", lw=1, ls=":", label=f"guessing, {guess:.2f}: vacuous above")
        step = max(1, len(table) // 8)
        axis.set_xticks(x[::step], [_number(value) for value in table[column].iloc[::step]], rotation=45 * (step > 1))
        axis.set(xlabel=column, title=name, ylim=(0, min(1.08 * max(highest, guess), 2 * guess)))
    axes[0].set_ylabel(ylabel)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(_wrapped(title, figure), x=0.01, ha="left", fontsize=10.5)
    return figure


def _number(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def families(
    panels: dict[str, tuple[pd.DataFrame, str, str]],
    title: str,
    *,
    lines: str,
    levels: dict[str, tuple[float, str]] | None = None,
) -> Figure:
    """One line a value of ``lines``, in each panel another pair of columns.

    panels: name of the panel, also that of its y axis -> (table, column on x, column on y). x is logarithmic where its
    values span more than a decade. levels: panel -> (height, label) of a dotted line; the label stands above the panel,
    where no curve crosses it.
    """
    figure, axes = _figure(len(panels), 3.7 * len(panels) + 1.4, 3.5)
    figure.set_layout_engine("constrained", wspace=0.06)
    kinds = list(dict.fromkeys(kind for table, _, _ in panels.values() for kind in table[lines]))
    colours = dict(zip(kinds, sns.color_palette("viridis", len(kinds) + 1), strict=False))
    looks = dict(zip(kinds, zip(MARKERS, ("-", "--", ":", "-.") * 2, strict=False), strict=False))
    for axis, (name, (table, x, y)) in zip(axes, panels.items(), strict=True):
        for kind, part in table.groupby(lines, sort=False):
            part, (marker, dash) = part.sort_values(x), looks[kind]
            axis.plot(part[x], part[y], dash, color=colours[kind], marker=marker, ms=5, lw=1.2, label=_number(kind))
        if table[x].min() > 0 and table[x].max() > 10 * table[x].min():
            axis.set_xscale("log")
        if levels and name in levels:
            height, label = levels[name]
            axis.axhline(height, color="black", lw=1, ls=":")
            axis.set_title(f"dotted: {label}", fontsize=8.5)
        axis.set(xlabel=x, ylabel=name)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", title=lines, alignment="left", frameon=False
    )
    figure.suptitle(_wrapped(title, figure), x=0.01, ha="left", fontsize=10.5)
    return figure
