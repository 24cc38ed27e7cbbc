"""The numbers of zhang2024fusion's Tables 2 and 3, in per cent, in the layout of ours (`study.table_2`, `table_3`)."""

from __future__ import annotations

import pandas as pd

_MEASURES = ("accuracy", "complete", "partial", "uncover")
_TABLE_2 = {
    "ChatGLM": (13.3, 3.3, 25.0, 71.7),
    "ChatGLM, CT": (38.3, 18.3, 36.7, 45.0),
    "Qwen": (15.0, 5.0, 21.7, 73.3),
    "Qwen, CT": (43.3, 20.0, 43.3, 36.7),
}
_COLUMNS = ("GPT-4", "ChatGLM Direct", "ChatGLM SFT", "ChatGLM CT&SFT", "ChatGLM Easy", "Qwen SFT", "Qwen CT&SFT")
_TABLE_3 = {
    ("S1", "accuracy"): (81.7, 63.3, 68.3, 61.7, 72.7, 62.9, 63.3),
    ("S1", "complete"): (80.0, 38.3, 38.3, 33.3, 43.3, 31.7, 30.0),
    ("S1", "partial"): (11.7, 40.0, 48.3, 55.0, 35.0, 56.7, 53.3),
    ("S1", "uncover"): (8.3, 21.7, 13.4, 11.7, 21.7, 11.6, 16.7),
    ("S2", "accuracy"): (35.7, 39.3, 52.1, 53.6, 72.1, 49.3, 57.1),
    ("S2", "complete"): (12.9, 9.3, 7.1, 20.0, 42.1, 10.0, 22.1),
    ("S2", "partial"): (40.0, 56.4, 76.4, 69.3, 40.0, 71.5, 61.4),
    ("S2", "uncover"): (47.1, 34.3, 16.5, 10.7, 17.9, 18.5, 16.5),
    ("S3", "accuracy"): (8.3, 10.0, 16.7, 35.0, 78.3, 20.0, 33.3),
    ("S3", "complete"): (3.3, 1.7, 3.3, 16.7, 55.0, 3.3, 20.0),
    ("S3", "partial"): (11.7, 23.3, 40.5, 45.0, 30.0, 48.3, 41.7),
    ("S3", "uncover"): (85.0, 75.0, 56.2, 38.3, 15.0, 48.4, 38.3),
    ("S4", "accuracy"): (37.5, 25.0, 30.0, 40.0, float("nan"), 27.5, 40.0),
}


def table_2() -> pd.DataFrame:
    """Questions of S3 without context, before and after continued training (Table 2)."""
    return pd.DataFrame.from_dict(_TABLE_2, orient="index", columns=list(_MEASURES))


def table_3() -> pd.DataFrame:
    """Four scenarios (Table 3); the "Easy" column of S4 is empty there."""
    found = pd.DataFrame.from_dict(_TABLE_3, orient="index", columns=list(_COLUMNS))
    found.index = pd.MultiIndex.from_tuples(list(_TABLE_3), names=["scenario", "measure"])
    return found
