"""Which learning rates the study of fusion takes, chosen on development questions of a draw that is not measured.

    python -m paramem.fusion.choice              # read-s0, draw 900: some minutes of one core

Every pair of rates is tried as CT&SFT; the one that answers most counts, by the mean over the four cases of the share
of complete answers (in S4, of refusals). Accuracy would not do: an answer of which one half is refused is accurate.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
import typer

from paramem.fusion.questions import SCENARIOS
from paramem.fusion.study import FusionSettings, Ground, continued, graded, prepare, supervised, taught_rows
from paramem.lm import LM

DRAW = 900
CONTINUED, SUPERVISED = (5e-4, 1e-3), (2e-4, 5e-4)


def chosen_on_dev(
    lm: LM,
    ground: Ground,
    continued_rates: Sequence[float] = CONTINUED,
    supervised_rates: Sequence[float] = SUPERVISED,
    settings: FusionSettings | None = None,
) -> pd.DataFrame:
    """One row for each pair of rates, the best first: continued, supervised, S1 to S4 (shares of complete answers) and
    their mean. No question of the test is asked."""
    settings, rows = settings or FusionSettings(), list[dict[str, float]]()
    (taught,) = taught_rows(lm, ground, SCENARIOS)
    for infusing, tuning in itertools.product(continued_rates, supervised_rates):
        tried = replace(
            settings,
            continued=replace(settings.continued, lr=infusing),
            supervised=replace(settings.supervised, lr=tuning),
        )
        both = supervised(continued(lm, ground, tried), taught, ground, tried, name="CT&SFT")
        answered = graded(both, ground.part("dev"), ground, "CT&SFT").groupby("scenario")["complete"].mean()
        by_case = {str(case): float(share) for case, share in answered.items()}
        rows.append(
            {"continued": infusing, "supervised": tuning, **by_case, "mean": sum(by_case.values()) / len(by_case)}
        )
    return pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)


def main(model: str = "read-s0", draw: int = DRAW) -> None:
    """Try every pair of rates on MODEL and print what each answers."""
    from paramem.material import world_behind
    from paramem.models import load

    lm = load(model)
    print(chosen_on_dev(lm, prepare(world_behind(lm), draw)).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
