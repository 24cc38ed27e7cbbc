"""Editors that change what the weights know."""

from __future__ import annotations

from paramem.registry.method import Method

MASTERY: tuple[Method, ...] = (
    Method(
        name="rome",
        title="ROME (consistent keys)",
        kind="editor",
        paper="meng2022rome",
        phase="mastery",
        module="paramem.editing.rome",
        function="rome",
        settings="RomeSettings",
    ),
    Method(
        name="rome-original-keys",
        title="ROME (original keys)",
        kind="editor",
        paper="meng2022rome",
        phase="mastery",
        module="paramem.editing.rome",
        function="rome",
        settings="RomeSettings",
        variant={"keys": "original"},
    ),
    Method(
        name="rome-no-covariance",
        title="ROME without covariance",
        kind="editor",
        paper="meng2022rome",
        phase="mastery",
        module="paramem.editing.rome",
        function="rome",
        settings="RomeSettings",
        variant={"covariance": False},
    ),
    Method(
        name="ft-l",
        title="FT-L (last-token objective)",
        kind="editor",
        paper="zhang2024knowedit",
        phase="mastery",
        module="paramem.editing.fine_tuning",
        function="fine_tune",
        settings="FineTuneSettings",
        variant={"objective": "last-token"},
    ),
    Method(
        name="ft-m",
        title="FT-M (masked objective)",
        kind="editor",
        paper="zhang2024knowedit",
        phase="mastery",
        module="paramem.editing.fine_tuning",
        function="fine_tune",
        settings="FineTuneSettings",
        variant={"objective": "masked"},
    ),
    Method(
        name="ft-constrained",
        title="Constrained fine-tuning (masked objective)",
        kind="editor",
        paper="zhu2020modifying",
        phase="mastery",
        module="paramem.editing.fine_tuning",
        function="fine_tune",
        settings="FineTuneSettings",
        variant={"objective": "masked", "bound": 5e-4},
    ),
)
