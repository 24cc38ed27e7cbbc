"""KnowEdit on one ground: all editors, six tasks, every number with its passport (zhang2024knowedit).

tasks = tasks_for(lm, "world", per_task=4)
bench = benchmark(lm, tasks, editors("all"), layer=0, materials=materials_for(lm, tasks))
bench.table("counterfact", "generated")
"""

from __future__ import annotations

from paramem.benchmarking.bench import Bench, Materials, benchmark, editors, edits_of, joined, materials_for
from paramem.benchmarking.tasks import FACT_TASKS, PROTOCOLS, TASKS, Measure, Task, few_probes, task_of, tasks_for

__all__ = [
    "FACT_TASKS",
    "PROTOCOLS",
    "TASKS",
    "Bench",
    "Materials",
    "Measure",
    "Task",
    "benchmark",
    "editors",
    "edits_of",
    "few_probes",
    "joined",
    "materials_for",
    "task_of",
    "tasks_for",
]
