"""What editors cost, in units of the bare optimisation steps or forwards of the same rows, as in `core.py`.

    python benchmarks/editing.py [MODEL] [--repeats 9]

A bare step is a forward and a backward of the whole model over all rows that an edit's loss is made of, the prompt with
its target and the essence prompt, with a change of one state at one layer. Second moments are given: they are computed
once for a model. One row is not a ratio of work: CPU seconds of one fact in a batch of ten against half of what the
public implementation, which goes fact by fact, was measured to need on a model of six layers of width 128 (0.48 s); it
holds for such a model on a machine like that one. And the thousandth edit of a sequence costs what the first one does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
import typer
from core import Measured, forward, measure, run
from detection import cpu_seconds

from paramem.arch import Site
from paramem.editing.alphaedit import AlphaEditSettings, alphaedit
from paramem.editing.emmet import EmmetSettings, emmet
from paramem.editing.memit import MemitSettings, memit
from paramem.editing.pmet import PmetSettings, pmet
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.sequence import plus
from paramem.editing.statistics import second_moment
from paramem.editing.targets import TargetSettings
from paramem.evaluation import baseline, evaluate
from paramem.facts import EditRequest
from paramem.interventions import LowRank, WeightDelta
from paramem.material import edits_for, text_for
from paramem.models import LM
from paramem.tokens import Batch

FACT_SECONDS = 0.48 / 2  # CPU seconds for one fact of MEMIT
BATCH, LAYERS = 10, (0, 1)
WHOLE = {"stop_below": -1.0}  # every edit takes all its steps


def bare_steps(lm: LM, requests: Sequence[EditRequest], settings: TargetSettings, layer: int) -> Callable[[], None]:
    """The unit: as many forwards and backwards of the edits' rows, logits at every token."""
    prompts = lm.encode([each.prompt for each in requests], [each.target_new for each in requests])
    essences = lm.encode([settings.essence.replace("{}", each.subject) for each in requests])
    batch, site = Batch.join([prompts, essences]), Site("mlp_out", layer)

    def steps() -> None:
        for _ in range(settings.steps):
            delta = torch.zeros(lm.d_model, requires_grad=True)
            logits = lm.run(batch, patch={site: lambda state, delta=delta: state + delta}).logits
            logits.log_softmax(-1)[:, -1, 0].sum().backward()

    return steps


def single(lm: LM, repeats: int) -> Iterator[Measured]:
    request = edits_for(lm, n=1)[0]
    settings = RomeSettings(layer=0, **WHOLE)
    C = second_moment(lm, 0, text_for(lm, n=400))
    yield measure(
        f"ROME, one fact, {settings.steps} steps",
        "its bare steps",
        1.3,
        lambda: rome(lm, request, settings, C),
        bare_steps(lm, [request], settings, 0),
        repeats,
    )


def batches(lm: LM, repeats: int) -> Iterator[Measured]:
    requests = edits_for(lm, n=BATCH)
    moments = {layer: second_moment(lm, layer, text_for(lm, n=400)) for layer in LAYERS}
    editors: dict[str, tuple[Callable[..., WeightDelta], TargetSettings]] = {
        "MEMIT": (memit, MemitSettings(layers=LAYERS, **WHOLE)),
        "EMMET": (emmet, EmmetSettings(layers=LAYERS, **WHOLE)),
        "AlphaEdit": (alphaedit, AlphaEditSettings(layers=LAYERS, **WHOLE)),
        "PMET": (pmet, PmetSettings(layers=LAYERS, stop_kl=-1.0, **WHOLE)),
    }
    for name, (editor, settings) in editors.items():
        yield measure(
            f"{name}, a batch of {BATCH} facts, layers {LAYERS}, {settings.steps} steps",
            "their bare steps",
            1.3,
            lambda editor=editor, settings=settings: editor(lm, requests, settings, moments),
            bare_steps(lm, requests, settings, LAYERS[-1]),
            max(3, repeats // 2),
        )
    settings = MemitSettings(layers=LAYERS)
    seconds = [cpu_seconds(lambda: memit(lm, requests, settings, moments)) / BATCH for _ in range(max(3, repeats // 2))]
    yield Measured(
        name=f"MEMIT, CPU time of one fact in a batch of {BATCH}",
        unit="half of the public implementation's",
        seconds=statistics.median(seconds),
        unit_seconds=FACT_SECONDS,
        budget=1.0,
    )


def asking(lm: LM, repeats: int) -> Iterator[Measured]:
    requests = edits_for(lm, n=BATCH, relations="people")
    edit = memit(lm, requests, MemitSettings(layers=(0,)), {0: second_moment(lm, 0, text_for(lm, n=400))})
    before = baseline(lm, requests, generated=False)
    probes = sum(1 for request in requests for _ in request.groups())
    yield measure(
        f"{BATCH} edits asked of one edited model with their {probes} probes",
        f"forward of their {len(before.batch)} rows",
        2.0,
        lambda: evaluate(lm, requests, edit, before=before),
        lambda: forward(lm, before.batch),
        max(3, repeats // 2),
    )


def long_runs(lm: LM, repeats: int) -> Iterator[Measured]:
    request = edits_for(lm, n=1)[0]
    settings = RomeSettings(layer=0, **WHOLE)
    C = second_moment(lm, 0, text_for(lm, n=400))
    name, parameter, _ = lm.weight(0, "down")
    generator = torch.Generator().manual_seed(0)
    earlier: WeightDelta | None = None
    for _ in range(999):  # what they say does not matter to the clock, only their number and shape
        left, right = (1e-6 * torch.randn(size, generator=generator) for size in parameter.shape)
        earlier = plus(earlier, WeightDelta({name: LowRank(left[:, None], right[None])}))

    def after(total: WeightDelta) -> WeightDelta:
        with total.applied(lm) as edited:
            step = rome(edited, request, settings, C)
        return plus(total, step)

    yield measure(
        "the 1000th of a sequence of ROME edits",
        "the first",
        1.15,
        lambda: after(earlier),
        lambda: after(WeightDelta({})),
        repeats,
    )


def main(model: str = "gpt2-s0", repeats: int = 9) -> None:
    """Print the table of ratios; exit 1 when one exceeds its budget."""
    run((single, batches, asking, long_runs), model, repeats)


if __name__ == "__main__":
    typer.run(main)
