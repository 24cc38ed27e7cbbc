"""What the core costs, in units of plain forwards of the same rows on the same model, measured in one run on one
thread.

    python benchmarks/core.py [MODEL] [--repeats 9]

Ratios, so that a busy machine does not matter: the two sides of a ratio take turns and the median of the turns
counts. The budget is what the project promises; the exit status is 1 when one is exceeded.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import typer
from rich.console import Console
from rich.table import Table

from paramem.arch import Site
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.statistics import second_moment
from paramem.evaluation import baseline, evaluate
from paramem.material import edits_for, facts_for, text_for
from paramem.models import LM, load
from paramem.tokens import Batch


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the report: seconds of the thing and of its unit, and the ratio promised at most."""

    name: str
    unit: str
    seconds: float
    unit_seconds: float
    budget: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.unit_seconds


def measure(
    name: str, unit: str, budget: float, thing: Callable[[], object], base: Callable[[], object], repeats: int
) -> Measured:
    """Time both by turns after one warm-up each; medians of CPU time, which other programs take nothing from.

    Where there is a GPU, its work is no CPU time, and the clock on the wall is read.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    thing(), base()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, found in zip((thing, base), times, strict=True):
            start = clock()
            run()
            found.append(clock() - start)
    seconds, unit_seconds = map(statistics.median, times)
    return Measured(name=name, unit=unit, seconds=seconds, unit_seconds=unit_seconds, budget=budget)


@torch.no_grad()
def forward(lm: LM, batch: Batch) -> torch.Tensor:
    """The unit: transformers' own forward of the rows, logits at every token."""
    return lm.model(input_ids=batch.input_ids, attention_mask=None, use_cache=False).logits


def editing(lm: LM, repeats: int) -> Iterator[Measured]:
    request = edits_for(lm, n=1)[0]
    texts = text_for(lm, n=400)
    C = second_moment(lm, 0, texts)
    settings = RomeSettings(layer=0, stop_below=0.0)
    essence = settings.essence.replace("{}", request.subject)
    batch = Batch.join([lm.encode([request.prompt], [request.target_new]), lm.encode([essence])])
    site = Site("mlp_out", 0)

    def bare_steps() -> None:
        for _ in range(settings.steps):
            delta = torch.zeros(lm.d_model, requires_grad=True)
            lm.run(batch, patch={site: lambda h, delta=delta: h + delta}).logits.log_softmax(-1)[
                :, -1, 0
            ].sum().backward()

    yield measure(
        f"ROME edit, {settings.steps} steps, second moment given",
        "forward and backward of its rows, as often",
        1.3,
        lambda: rome(lm, request, settings, C),
        bare_steps,
        repeats,
    )


def statistics_of_keys(lm: LM, repeats: int) -> Iterator[Measured]:
    texts, n_tokens = text_for(lm, n=4000), 0
    count = 0
    while n_tokens < 25_000:
        n_tokens += len(lm.tokenizer(texts[count])["input_ids"])
        count += 1
    batches = list(lm.text_batches(texts[:count]))
    yield measure(
        f"second moment of the keys of {n_tokens} tokens",
        "forward of the same rows",
        1.5,
        lambda: second_moment(lm, lm.n_layers // 2, texts[:count]),
        lambda: [forward(lm, batch) for batch in batches],
        max(3, repeats // 3),
    )


def evaluation(lm: LM, repeats: int) -> Iterator[Measured]:
    request = edits_for(lm, n=1, relations="people")[0]
    edit = rome(lm, request, RomeSettings(layer=0), second_moment(lm, 0, text_for(lm, n=400)))
    before = baseline(lm, [request])
    rows = before.batch
    for name, known in {
        "scored": baseline(lm, [request], generated=False),
        "scored and answered freely": before,
    }.items():
        yield measure(
            f"an edit with its {sum(1 for _ in request.groups())} probes, {name}",
            f"forward of its {len(rows)} rows",
            2.0,
            lambda known=known: evaluate(lm, request, edit, before=known),
            lambda: forward(lm, rows),
            repeats,
        )


def hooks(lm: LM, repeats: int) -> Iterator[Measured]:
    batch = lm.encode([fact.prompt for fact in facts_for(lm)[:64]])
    sites = [Site(kind, layer) for kind in ("resid_pre", "attn_out", "mlp_out") for layer in range(lm.n_layers)]
    with torch.no_grad():
        yield measure(
            f"forward with {len(sites)} sites captured, {len(batch)} rows",
            "plain forward",
            1.15,
            lambda: lm.run(batch, capture=sites),
            lambda: forward(lm, batch),
            4 * repeats,
        )


def show(model: str, found: Sequence[Measured]) -> bool:
    """Print the table of ratios; whether one exceeds its budget."""
    table = Table("what", "milliseconds", "unit", "milliseconds", "ratio", "at most", title=f"{model}, one thread")
    for line in found:
        over = line.ratio > line.budget
        ratio = f"[bold red]{line.ratio:.2f}[/]" if over else f"{line.ratio:.2f}"
        table.add_row(
            line.name,
            f"{1e3 * line.seconds:.1f}",
            line.unit,
            f"{1e3 * line.unit_seconds:.1f}",
            ratio,
            f"{line.budget:g}",
        )
    Console(width=150).print(table)
    return any(line.ratio > line.budget for line in found)


def run(parts: Sequence[Callable[[LM, int], Iterator[Measured]]], model: str, repeats: int) -> None:
    """Measure all parts on one thread, show them, and exit with 1 when one exceeds its budget."""
    torch.set_num_threads(1)
    lm = load(model, device="cpu")
    raise typer.Exit(int(show(model, [line for part in parts for line in part(lm, repeats)])))


def main(model: str = "gpt2-s0", repeats: int = 9) -> None:
    """Print the table of ratios; exit 1 when one exceeds its budget."""
    run((editing, statistics_of_keys, evaluation, hooks), model, repeats)


if __name__ == "__main__":
    typer.run(main)
