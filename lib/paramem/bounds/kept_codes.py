r"""Trainings of `ground`, kept: a certified model is the bytes of its code, a kilobyte for a thousand numbers.

    trained = kept_train(lm, documents, training, seed)     # found, or trained now and kept
    python -m paramem.bounds.kept_codes                     # trains what default runs of the notebooks ask, again

Kinds of CPU round differently, and hundreds of steps amplify that until it shows in the third digit of a risk. What is
kept is the same everywhere. A training is found by a hash of the model's name, the documents, the settings and the
seed. Not by theta_0 itself, which is a function of the name only up to rounding: instead its loss on the first batch
has to be the one that was kept.
"""

from __future__ import annotations

import hashlib
import os
import runpy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

from paramem.bounds.coding import Code
from paramem.bounds.ground import Architecture, Trained, Training, first_loss, fresh_lm, pretrained, train
from paramem.bounds.source import Documents, Source
from paramem.bounds.sublora import Compressed
from paramem.errors import CorruptFile
from paramem.fusion.kept import hashed, kept, replaced
from paramem.lm import LM
from paramem.project import Project

SHIPPED = Path(__file__).parent / "trained"
NOTEBOOKS = ("bounds/sublora", "bounds/structure_and_size", "bounds/tightness")
FORMAT = 1  # in every hash: raise it when what `train` does with the same settings changes
SAME_LOSS = 1e-4  # what rounding may change of a loss, relatively


def kept_train(lm: LM, documents: Documents, training: Training, seed: int) -> Trained:
    """`ground.train`, found where it was kept, else trained now and kept. Raises BadInput, BadParameter as there."""

    def make() -> dict[str, Tensor]:
        done = train(lm, documents, training, seed).done
        packed = torch.from_numpy(np.frombuffer(done.code.pack(), np.uint8).copy())
        return {"code": packed, "losses": torch.tensor(done.losses), "control": torch.tensor(done.control)}

    def use(found: Mapping[str, Tensor]) -> Trained:
        losses = found["losses"].tolist()
        now = first_loss(lm, documents, training, seed)
        if not abs(now - losses[0]) <= SAME_LOSS * now:
            raise ValueError(f"the loss on the first batch is {now}, and was {losses[0]}: of another model")
        try:
            code = Code.unpack(found["code"].numpy().tobytes())
        except CorruptFile as error:
            raise ValueError(str(error)) from error
        return Trained(lm, training, seed, Compressed(code, tuple(losses), tuple(found["control"].tolist())))

    file = hashed(f"{FORMAT}\n{lm.name}\n{training!r}\n{training.fitting!r}\n{seed}\n", _digest(documents))
    return kept(file, make, use, shipped=SHIPPED, model=lm.name, settings=repr(training), seed=seed)


def kept_pretrained(architecture: Architecture, size: str, source: Source, seed: int, *, steps: int) -> LM:
    """`ground.pretrained`, kept in single precision. Raises BadParameter as there."""

    def make() -> dict[str, Tensor]:
        trained = pretrained(architecture, size, source, seed, steps=steps)
        return {name: each.detach().clone() for name, each in trained.model.named_parameters()}

    @torch.no_grad()
    def use(found: Mapping[str, Tensor]) -> LM:
        lm = fresh_lm(architecture, size, seed)
        for name, parameter in lm.model.named_parameters():
            if found[name].shape != parameter.shape:
                raise ValueError(f"{name}: {tuple(found[name].shape)} for {tuple(parameter.shape)}")
            parameter.copy_(found[name])
        return lm.with_(name=f"{lm.name} after {steps} steps on {source!r}")

    file = hashed(f"{FORMAT}\n{architecture}\n{size}\n{source!r}\n{seed}\n{steps}")
    return kept(file, make, use, shipped=SHIPPED, model=f"{architecture}-{size}-s{seed}", settings=repr(source))


def _digest(documents: Documents) -> str:
    data = hashlib.sha256(np.ascontiguousarray(documents.ids).tobytes())
    data.update(np.ascontiguousarray(documents.lengths).tobytes())
    return data.hexdigest()


def rebuild(folder: Path = SHIPPED) -> None:
    """Run the notebooks' scripts, which train all that they ask, and keep that in place of what is shipped."""
    os.environ["MPLBACKEND"] = "agg"
    notebooks = Project.find().root / "notebooks"
    replaced(folder, lambda: [runpy.run_path(str(notebooks / f"{name}.py")) for name in NOTEBOOKS])


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(rebuild)
