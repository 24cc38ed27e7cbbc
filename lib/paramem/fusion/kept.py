r"""Models that were fine-tuned once, and kept.

    tuned = kept_fine_tune(lm, rows, CONTINUED, seed=0, name="CT")    # trained now, or found
    python -m paramem.fusion.kept                                     # trains the shipped ones again

A training is found by a hash of all that goes into it - the model's weights, the rows in their order, the settings, the
seed - among those that are shipped and then in the user's cache; what is not there is trained and put into the cache.
What is kept of a matrix is its change, each row in 127 steps of the row's largest number,

    W' = W + s q,    q in {-127, ..., 127}^(m x n),    s_i = max_j |dW_ij| / 127,

and a model that was just trained is rounded in the same way, so that a kept one and a new one are the same numbers.
`kept` does the same for whatever else is made at length and put as tensors.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from safetensors.torch import save
from torch import Tensor, nn

from paramem.editing.statistics import cache_folder
from paramem.errors import BadInput, BadParameter
from paramem.files import write_atomically
from paramem.fusion.training import TrainSettings, fine_tune
from paramem.interventions.storage import digest
from paramem.lm import LM
from paramem.world.recipe import Row

SHIPPED = Path(__file__).parent / "trained"
STEPS = 127
FORMAT = 1  # in every hash: raise it when what `fine_tune` does with the same rows and settings changes

T = TypeVar("T")
Tensors = Mapping[str, Tensor]
_into: ContextVar[Path | None] = ContextVar("paramem_kept_into", default=None)


class NotKept(UserWarning):
    """What was made at length could not be written, and will be made again the next time."""


def kept_fine_tune(
    lm: LM,
    rows: Sequence[Row],
    settings: TrainSettings,
    *,
    seed: int = 0,
    name: str = "",
    train: Callable[[LM], Iterable[nn.Parameter]] | None = None,
    during: Callable[[LM], AbstractContextManager[object]] = nullcontext,
    recipe: str = "",
) -> LM:
    """`fine_tune`, its change rounded to eight bits: found where it was kept, else trained now and kept.

    train, during: as there. A function has no hash, so recipe says all that decides what the two do.
    A folder that cannot be written costs the cache, not the result, and warns `NotKept` once; a damaged file is made
    again.
    Raises BadInput without rows, BadParameter for train or during without a recipe.
    """
    if not recipe and (train is not None or during is not nullcontext):
        raise BadParameter("train or during without a recipe: say in it all that decides what they do, or leave them")
    return kept(
        file_name(lm, rows, settings, seed, recipe),
        lambda: packed(lm, fine_tune(lm, rows, settings, seed=seed, name=name, train=train, during=during)),
        lambda change: changed(lm, change, name),
        model=lm.name,
        name=name,
        settings=repr(settings),
        seed=seed,
    )


def kept(
    file: str,
    make: Callable[[], dict[str, Tensor]],
    use: Callable[[Tensors], T],
    *,
    shipped: Path = SHIPPED,
    **note: object,
) -> T:
    """What ``use`` makes of the tensors that are kept under a name, or of those that ``make`` makes, kept from now on.

    ``use`` raises KeyError or ValueError for tensors that do not fit. shipped: where to look before the user's cache.
    note: about them, for who looks into the file.
    """
    into = _into.get() or cache_folder() / "trained"
    for folder in [into] if _into.get() else [shipped, into]:
        with suppress(OSError, SafetensorError, KeyError, ValueError):
            return use(read((folder / file).read_bytes()))
    tensors = make()
    try:
        write_atomically(into / file, written(tensors, {**note, "torch": torch.__version__}))
    except OSError as error:
        _warn(into, error.strerror or str(error))
    return use(tensors)


def written(tensors: Tensors, note: Mapping[str, object]) -> bytes:
    """A file of tensors, with a note and their sha256 in its header."""
    told = {**note, "sha256": digest("kept", {}, tensors)}
    return save(dict(tensors), metadata={"paramem": json.dumps(told)})


def read(data: bytes) -> Tensors:
    """What `written` wrote. Raises SafetensorError, KeyError or ValueError for a damaged file, or for another one."""
    tensors = unpacked(data)
    size = int.from_bytes(data[:8], "little")  # of the header, which follows
    told = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["paramem"])
    if not isinstance(told, dict) or told.get("sha256") != digest("kept", {}, tensors):
        raise ValueError("the tensors are not those that were written")
    return tensors


@cache
def _warn(folder: Path, cause: str) -> None:
    """Once for every folder and cause: each of many trainings would say the same."""
    warnings.warn(
        f"what was trained is not kept and will be trained again the next time: {folder} cannot be written ({cause}); "
        "set PARAMEM_CACHE to a folder that can",
        NotKept,
        stacklevel=4,
    )


def file_name(lm: LM, rows: Sequence[Row], settings: TrainSettings, seed: int, recipe: str = "") -> str:
    """The file of a training: a hash of all that goes into it."""
    return hashed(f"{FORMAT}\n{lm.fingerprint()}\n{settings!r}\n{seed}\n{recipe}", *map(repr, rows))


def hashed(*parts: str) -> str:
    """A file name from all that decides what is in it."""
    return f"{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}.safetensors"


def packed(before: LM, after: LM) -> dict[str, Tensor]:
    """The change of every parameter that moved: int8 steps ``name``, and ``name/scale``, one for each row."""
    was, found = dict(before.model.named_parameters()), {}
    for name, now in after.model.named_parameters():
        change = (now - was[name]).detach().cpu().float()
        if not bool(change.any()):
            continue
        steps, scale = rounded(change.reshape(len(change), -1))
        found[name], found[f"{name}/scale"] = steps.reshape(change.shape), scale
    return found


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Steps (..., n), int8, and the size of one step (...,) of each row of numbers (..., n)."""
    scale = rows.abs().amax(-1, keepdim=True) / STEPS
    return (rows / scale.clamp(min=1e-30)).round().to(torch.int8), scale[..., 0]


def changed(lm: LM, change: Tensors, name: str = "") -> LM:
    """A copy of the model with a packed change. Raises KeyError or ValueError for the change of another model."""
    after = LM.of(copy.deepcopy(lm.model), lm.tokenizer, name or lm.name)
    parameters = dict(after.model.named_parameters())
    for key in change:
        if key.endswith("/scale"):
            continue
        steps, scale, parameter = change[key], change[f"{key}/scale"], parameters[key]
        if steps.shape != parameter.shape or scale.shape != steps.shape[:1]:
            raise ValueError(f"{key}: a change of shape {tuple(steps.shape)} for {tuple(parameter.shape)}")
        moved = steps.float() * scale.reshape(-1, *[1] * (steps.ndim - 1))
        parameter.copy_(parameter + moved.to(parameter))
    return after


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Inside, trainings are looked for and kept in this folder alone."""
    token = _into.set(folder)
    try:
        yield
    finally:
        _into.reset(token)


# Modules whose ``train_shipped(lm)`` trains all that the default run of their notebook asks, and on which model.
TRAINED_BY = {
    "paramem.fusion.study": "read-s0",
    "paramem.fusion.exposure": "read-s0",
    "paramem.injection.continued": "read-s0",
    "paramem.injection.rag_study": "read-s0",
    "paramem.injection.latent_study": "gpt2-s0",
}


def rebuild(folder: Path = SHIPPED) -> None:
    """Train all models that are shipped again, from nothing; an interruption loses none of those that are there."""
    from paramem.models import load

    def train() -> None:
        for module, model in TRAINED_BY.items():
            importlib.import_module(module).train_shipped(load(model))
            print(f"{model}: the models of {module} are trained", flush=True)

    replaced(folder, train)


def replaced(folder: Path, train: Callable[[], object]) -> None:
    """Keep what ``train`` trains, from nothing, in place of all that the folder holds. Raises BadInput for nothing."""
    with TemporaryDirectory(dir=folder.parent) as place, keeping(Path(place)):
        train()
        folder.mkdir(exist_ok=True)
        made = [new.replace(folder / new.name) for new in Path(place).iterdir()]
        if not made:
            raise BadInput(f"nothing was trained that {folder} could hold: it stays as it is")
        for old in set(folder.glob("*.safetensors")) - set(made):
            old.unlink()


if __name__ == "__main__":
    # Not this module's own, but the one that others import: `keeping` holds in the module that it is called in.
    from paramem.fusion.kept import rebuild as rebuild_imported

    torch.set_num_threads(1)
    typer.run(rebuild_imported)
