"""What an edit did: reliability, generalisation, portability, locality, fluency, each number with its passport.

    before = baseline(lm, requests)                                  # computed once, reused over editors
    frame = evaluate(lm, requests, edits, before=before)             # one row per probe, state and protocol
    summary = summarise(frame)                                       # means with intervals over requests
    print(summary.metric("locality", protocol="teacher_forced", level="token", against="own answer"))
    compare({"ROME": summary, "FT-M": other})                        # refuses to mix protocols, models or data
    moved = ripple(lm, world.facts, edit)                            # every fact of a world, asked again

`DEPARTURES` of `fluency` and `scorecard` say where a metric is not what its source measured.
"""

from __future__ import annotations

from paramem.evaluation.answers import Answers, ask, begins_with
from paramem.evaluation.evaluate import Baseline, baseline, evaluate
from paramem.evaluation.fluency import Fluency, generation_entropy, ngram_entropy
from paramem.evaluation.intervals import bootstrap, wilson
from paramem.evaluation.passport import Metric, Passport, compare
from paramem.evaluation.ripple import ask_all, ripple
from paramem.evaluation.summary import Summary, summarise

__all__ = [
    "Answers",
    "Baseline",
    "Fluency",
    "Metric",
    "Passport",
    "Summary",
    "ask",
    "ask_all",
    "baseline",
    "begins_with",
    "bootstrap",
    "compare",
    "evaluate",
    "generation_entropy",
    "ngram_entropy",
    "ripple",
    "summarise",
    "wilson",
]
