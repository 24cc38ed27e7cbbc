"""A living, executable survey of parametric knowledge in language models.

Names are resolved on first use (PEP 562), so that ``import paramem`` stays far below a third of a second and never
pulls in torch: the command line, the taxonomy and the checks work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramem.claims import claim
    from paramem.errors import ParamemError
    from paramem.evaluation.evaluate import evaluate
    from paramem.facts import EditRequest, Fact, Probe
    from paramem.interventions import (
        HiddenStatePatch,
        Intervention,
        LogitsMix,
        PromptRewrite,
        WeightDelta,
        load_intervention,
    )
    from paramem.models import LM, Batch, Scores, Site, load

__version__ = "0.1.0"

_HOMES = {
    "LM": "models",
    "Batch": "models",
    "EditRequest": "facts",
    "Fact": "facts",
    "HiddenStatePatch": "interventions",
    "Intervention": "interventions",
    "LogitsMix": "interventions",
    "ParamemError": "errors",
    "Probe": "facts",
    "PromptRewrite": "interventions",
    "Scores": "models",
    "Site": "models",
    "WeightDelta": "interventions",
    "claim": "claims",
    "evaluate": "evaluation",
    "load": "models",
    "load_intervention": "interventions",
}

__all__ = [  # noqa: RUF022 - grouped as the design groups them
    "load",
    "LM",
    "Batch",
    "Scores",
    "Site",
    "Fact",
    "Probe",
    "EditRequest",
    "Intervention",
    "WeightDelta",
    "HiddenStatePatch",
    "PromptRewrite",
    "LogitsMix",
    "load_intervention",
    "evaluate",
    "claim",
    "ParamemError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the module that owns ``name`` on first use and remember the value."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'paramem' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"paramem.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, whether or not they have been imported yet."""
    return sorted(__all__)
