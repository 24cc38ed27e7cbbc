"""Figures, all in one style: the title says the finding, axes carry units, colours survive greyscale and colour
blindness.

Every function takes tidy data and returns a matplotlib ``Figure`` that is closed for pyplot, so a notebook shows it
once, as the value of its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from .evaluation.intervals import over_edits

if TYPE_CHECKING:
    from pandas.api.typing import SeriesGroupBy
    from torch import Tensor

    from .detection.causal_tracing import Trace

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
SITE_NAMES = {"resid_post": "state", "mlp_out": "MLP output", "attn_out": "attention output"}
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def _figure(n_columns: int = 1, width: float = 6.4, height: float = 3.4, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, n_columns, figsize=(width, height), squeeze=False, layout="constrained", **kwargs
        )
    plt.close(figure)
    return figure, axes[0]


def trace_maps(traces: Sequence[Trace], title: str) -> Figure:
    """Token x layer maps of the answer's restored probability, one panel a trace, on one common scale."""
    figure, axes = _figure(len(traces), 3.1 * len(traces) + 1.2, 0.26 * len(traces[0].tokens) + 1.5)
    low, high = min(t.corrupted for t in traces), max(t.clean for t in traces)
    for axis, trace in zip(axes, traces, strict=True):
        labels = [(t.strip() or repr(t)) + "*" * (i in trace.noised) for i, t in enumerate(trace.tokens)]
        sns.heatmap(
            pd.DataFrame(trace.restored, index=pd.RangeIndex(len(labels))),
            ax=axis,
            cmap="Purples",
            vmin=low,
            vmax=high,
            yticklabels=labels if axis is axes[0] else False,
            cbar=axis is axes[-1],
            cbar_kws={"label": f"p({trace.answer.strip()})"},
            linewidths=0.4,
        )
        axis.set(xlabel="restored layer", title=SITE_NAMES[trace.settings.site])
        axis.tick_params(axis="y", rotation=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def effect_curves(tables: dict[str, pd.DataFrame], title: str, *, roles: Sequence[str]) -> Figure:
    """Average indirect effect over layers with 95 % bands: one panel a site, one line a token role."""
    figure, axes = _figure(len(tables), 3.3 * len(tables) + 0.6, 3.3, sharey=True)
    colours = sns.color_palette("viridis", len(roles))
    for axis, (site, table) in zip(axes, tables.items(), strict=True):
        for role, colour, marker in zip(roles, colours, MARKERS, strict=False):
            rows = table[table["role"] == role]
            axis.plot(rows["layer"], rows["mean"], color=colour, marker=marker, markersize=4, label=role)
            axis.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(xlabel="layer", title=SITE_NAMES.get(site, site))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("average indirect effect on p(answer)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", title="restored at", alignment="left"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def rates(
    table: pd.DataFrame, title: str, *, rows: str, columns: str, xlabel: str = "share of probes", fit: bool = False
) -> Figure:
    """Shares with 95 % intervals (columns ``mean``, ``low``, ``high``): one line of points a row, one marker a
    column, a legend where there are several. The axis goes from 0 to 1; ``fit``: as far as the intervals do, and to 0.
    """
    names, kinds = list(dict.fromkeys(table[rows])), list(dict.fromkeys(table[columns]))
    figure, (axis,) = _figure(1, 7.2, 0.62 * len(names) + 1.3)
    offsets = np.linspace(-0.25, 0.25, len(kinds)) if len(kinds) > 1 else np.zeros(1)
    colours = sns.color_palette("viridis", len(kinds) + 1)
    for kind, offset, colour, marker in zip(kinds, offsets, colours, MARKERS, strict=False):
        part = table[table[columns] == kind].set_index(rows).reindex(names)
        spread = [(part["mean"] - part["low"]).clip(lower=0), (part["high"] - part["mean"]).clip(lower=0)]
        y = np.arange(len(names)) + offset
        axis.errorbar(part["mean"], y, xerr=spread, fmt=marker, color=colour, markersize=5, capsize=2, label=str(kind))
    _rate_axis(axis, names, xlabel)
    if fit:
        low, high = min(0.0, float(table["low"].min())), max(0.0, float(table["high"].max()))
        margin = 0.03 * (high - low) or 0.03
        axis.set_xlim(low - margin, high + margin)
    if len(kinds) > 1:
        figure.legend(loc="outside right center", title=columns, alignment="left", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def _rate_axis(axis: Axes, names: Sequence[str], xlabel: str) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(-0.03, 1.03), xlabel=xlabel)
    axis.invert_yaxis()
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)


def loss_curves(
    losses: dict[str, Sequence[float]], title: str, *, xlabel: str = "step", ylabel: str = "loss"
) -> Figure:
    """One line a name over optimisation steps, on a logarithmic scale."""
    figure, (axis,) = _figure(1, 5.6, 3.0)
    for (name, values), colour, marker in zip(
        losses.items(), sns.color_palette("viridis", len(losses)), MARKERS, strict=False
    ):
        above = np.where(np.asarray(values) > 0, values, np.nan)  # a term that is zero has no place on the scale
        axis.plot(range(len(values)), above, color=colour, marker=marker, markersize=3.5, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def grid(table: pd.DataFrame, title: str, *, label: str) -> Figure:
    """Shares in [0, 1] as a heat map with the numbers in it: rows and columns as in the table."""
    figure, (axis,) = _figure(1, 1.5 + 1.3 * table.shape[1], 1.0 + 0.3 * table.shape[0])
    sns.heatmap(
        table, ax=axis, cmap="viridis", vmin=0, vmax=1, annot=True, fmt=".2f", linewidths=0.6, cbar_kws={"label": label}
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="both", rotation=0, length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def growth(table: pd.DataFrame, title: str, *, ylabel: str) -> Figure:
    """Columns as lines over the index (training steps)."""
    figure, (axis,) = _figure(1, 6.0, 3.0)
    for name, colour, marker in zip(table.columns, sns.color_palette("viridis", table.shape[1]), MARKERS, strict=False):
        axis.plot(table.index, table[name], color=colour, marker=marker, markersize=5, label=name)
    axis.set(xlabel="training step", ylabel=ylabel, ylim=(-0.03, 1.05))
    axis.legend(frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def curves(
    table: pd.DataFrame,
    title: str,
    *,
    x: str,
    y: str,
    lines: str,
    xlabel: str = "",
    ylabel: str = "",
    panels: str | None = None,
    logx: bool = False,
    shares: bool = False,
) -> Figure:
    """Means of ``y`` over whatever else varies (facts), with 95 % normal bands, against ``x``: one line a value of
    ``lines``, one panel a value of ``panels``. shares: values and bands lie in [0, 1], the bands by `over_edits`."""
    names = list(dict.fromkeys(table[panels])) if panels else [None]
    width = 3.1 * len(names) + (2.6 if panels else 3.6)
    figure, axes = _figure(len(names), width, 3.4, sharey=True)
    kinds = list(dict.fromkeys(table[lines]))
    colours = sns.color_palette("viridis", len(kinds))
    for axis, name in zip(axes, names, strict=True):
        part = table if name is None else table[table[panels] == name]
        for kind, colour, marker, dash in zip(kinds, colours, MARKERS * 2, ("-", "--", ":", "-.") * 4, strict=False):
            bands = _bands(part[part[lines] == kind].groupby(x)[y], shares)
            axis.plot(bands.index, bands["mean"], dash, color=colour, marker=marker, markersize=4, label=str(kind))
            axis.fill_between(bands.index, bands["low"], bands["high"], color=colour, alpha=0.15, lw=0)
        axis.set(xlabel=xlabel or x, title=name or "")
        if logx:
            axis.set_xscale("log")
            axis.set_xticks(sorted(set(part[x])), [str(value) for value in sorted(set(part[x]))], minor=False)
            axis.minorticks_off()
        else:
            axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel(ylabel or y)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", title=lines, alignment="left", frameon=False
    )
    figure.suptitle(fill(title, int(13 * width)), x=0.01, ha="left", fontsize=10.5)
    return figure


def _bands(values: SeriesGroupBy[Any, Any], shares: bool) -> pd.DataFrame:
    """mean, low and high by group: normal 95 % intervals, or those of shares; the mean itself where there is none."""
    if shares:
        spans = {name: over_edits(group) for name, group in values if group.notna().any()}
        return pd.DataFrame(spans.values(), index=list(spans), columns=["mean", "low", "high"])
    stats = values.agg(["mean", "sem"])
    half = (1.96 * stats["sem"]).fillna(0)
    return pd.DataFrame({"mean": stats["mean"], "low": stats["mean"] - half, "high": stats["mean"] + half})


def scatter(
    table: pd.DataFrame,
    title: str,
    *,
    x: str,
    y: str,
    points: str,
    xlabel: str = "",
    ylabel: str = "",
    panels: str | None = None,
) -> Figure:
    """One point a row, with a colour and a marker for each value of ``points``, one panel a value of ``panels``."""
    names = list(dict.fromkeys(table[panels])) if panels else [None]
    figure, axes = _figure(len(names), 3.1 * len(names) + 2.0, 3.4, sharex=True, sharey=True)
    kinds = sorted(set(table[points]))
    for axis, name in zip(axes, names, strict=True):
        part = table if name is None else table[table[panels] == name]
        for kind, colour, marker in zip(kinds, sns.color_palette("viridis", len(kinds)), MARKERS, strict=False):
            rows = part[part[points] == kind]
            axis.scatter(rows[x], rows[y], color=colour, marker=marker, s=16, alpha=0.7, linewidths=0, label=str(kind))
        axis.set(xlabel=xlabel or x, title=name or "")
    axes[0].set_ylabel(ylabel or y)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title=points, alignment="left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def promises(table: pd.DataFrame, title: str, *, panels: str, lines: str) -> Figure:
    """Reliability diagrams: what was promised (column ``confidence``) against what came true (``right``, with ``low``
    and ``high``), a line for each value of ``lines``, a panel for each of ``panels``; on the diagonal they agree."""
    names, kinds = list(dict.fromkeys(table[panels])), list(dict.fromkeys(table[lines]))
    figure, axes = _figure(len(names), 3.0 * len(names) + 1.9, 3.5, sharex=True, sharey=True)
    colours = sns.color_palette("viridis", len(kinds) + 1)
    for axis, name in zip(axes, names, strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        for kind, colour, marker in zip(kinds, colours, MARKERS, strict=False):
            part = table[(table[panels] == name) & (table[lines] == kind)]
            spread = [(part["right"] - part["low"]).clip(lower=0), (part["high"] - part["right"]).clip(lower=0)]
            axis.errorbar(
                part["confidence"], part["right"], yerr=spread, fmt=f"{marker}-", color=colour, markersize=4.5,
                capsize=2, linewidth=1, label=str(kind),
            )  # fmt: skip
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="promised: mean confidence", title=name)
    axes[0].set_ylabel("came true: share right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title=lines, alignment="left")
    figure.suptitle(fill(title, 40 * len(names) + 20), x=0.01, ha="left", fontsize=10.5)
    return figure


def ripple_strips(
    maps: dict[str, pd.DataFrame], bars: pd.DataFrame, classes: dict[str, str], title: str, *, xlabel: str
) -> Figure:
    """One row an editor: left every fact of the world after one edit (`ripple_map.cells`), white where the right answer
    kept its probability and black where it lost it, the edited fact framed; right the share of answers that changed by
    class, over all edits, with 95 % intervals (``bars``: editor, shares, mean, low, high) on a square-root scale.
    Classes of which no fact was asked get no line."""
    n, rows = len(maps), len(next(iter(maps.values())))
    found = set(bars.loc[bars["mean"].notna(), "shares"])
    classes = {key: name for key, name in classes.items() if key in found}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            n,
            2,
            figsize=(10.4, n * (0.13 * rows + 0.38) + 1.1),
            squeeze=False,
            layout="constrained",
            width_ratios=(3, 1),
        )
    plt.close(figure)
    for (left, right), (editor, table) in zip(axes, maps.items(), strict=True):
        left.imshow(table, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        left.set_facecolor("#dfe7f3")  # no fact here
        if table.attrs.get("edited"):
            row, column = table.attrs["edited"]
            left.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d95f02", linewidth=2.2))
        left.set_yticks(range(rows), [str(name).strip() for name in table.index], fontsize=6.5)
        left.set_xticks([])
        left.tick_params(length=0)
        left.set_title(editor, fontsize=9, pad=2)
        part = bars[bars["editor"] == editor].set_index("shares").reindex(list(classes))
        y = np.arange(len(classes))
        spread = [(part["mean"] - part["low"]).clip(lower=0), (part["high"] - part["mean"]).clip(lower=0)]
        right.errorbar(part["mean"], y, xerr=spread, fmt="o", color="black", markersize=4, capsize=2, linewidth=1)
        right.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
        right.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5))
        right.set_xticks([0.001, 0.01, 0.1, 0.25, 0.5, 1.0], ["", ".01", ".1", ".25", ".5", "1"], fontsize=7)
        right.set_yticks(y, list(classes.values()), fontsize=7)
        right.grid(axis="x", color="0.9")
        right.set_axisbelow(True)
    axes[-1][0].set_xlabel(_about_strips([table.attrs.get("edited") for table in maps.values()]), fontsize=8)
    axes[-1][1].set_xlabel(xlabel, fontsize=8)
    figure.suptitle(fill(title, 125), x=0.01, ha="left", fontsize=10.5)
    return figure


def _about_strips(edited: Sequence[tuple[int, int] | None]) -> str:
    """What columns, frame and colours of `ripple_strips` mean, by the places of the edited facts (row, column)."""
    where = "; the edited fact framed" if any(edited) else ""
    if all(place == (0, 0) for place in edited):
        where = ": the edited one first, then those with its old or new object"
    return f"one column a subject{where}; blue: no such fact, or not known before"


def balls(
    points: np.ndarray, radii: Sequence[Sequence[float]], titles: Sequence[str], title: str, *, names: Sequence[str]
) -> Figure:
    """Keys in the plane (points [n, 2]) and their balls, one panel for each list of radii; a later panel may show more
    keys than an earlier one."""
    reach = np.array([max(panel[i] for panel in radii if len(panel) > i) for i in range(len(points))])[:, None]
    across, up = (points + reach).max(0) - (points - reach).min(0)
    figure, axes = _figure(len(titles), 2.9 * len(titles) + 0.4, 2.6 * up / across + 1.1, sharex=True, sharey=True)
    colours = sns.color_palette("viridis", len(points) + 1)
    for axis, found, heading in zip(axes, radii, titles, strict=True):
        for place, radius, name, colour in zip(points, found, names, colours, strict=False):
            axis.add_patch(Circle(tuple(place), radius, color=colour, alpha=0.25, linewidth=0))
            axis.plot(*place, "o", color=colour, markersize=5)
            axis.annotate(name, place, textcoords="offset points", xytext=(5, 5), fontsize=9)
        axis.set(aspect="equal", title=heading)
        axis.autoscale_view()
    figure.suptitle(fill(title, 125), x=0.01, ha="left", fontsize=10.5)
    return figure


def weight_maps(changes: dict[str, Tensor], title: str) -> Figure:
    """Changes of value matrices (d_model, d_mlp), one panel each: the darker, the larger against the largest of its
    panel."""
    n = len(changes)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            (n + 1) // 2, 2, figsize=(6.8, 1.3 * ((n + 1) // 2) + 0.6), squeeze=False, layout="constrained"
        )
    plt.close(figure)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    for axis, (name, change) in zip(axes.flat, changes.items(), strict=False):
        size = change.detach().abs().float().cpu().numpy()
        # sixteen shades are as many as the eye tells apart, and the picture packs better
        shades = np.round(16 * size / size.max()) / 16
        axis.imshow(shades, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        axis.set_title(name, fontsize=9, pad=2)
        axis.set_xlabel("column: neuron", fontsize=8)
        axis.set_ylabel("row", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.suptitle(fill(title, 95), x=0.01, ha="left", fontsize=10.5)
    figure.set_dpi(80)
    return figure
