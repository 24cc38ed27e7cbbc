r"""Long sequences of edits, edit by edit, and what they add up to: made once and kept.

    plan = long_run(lm, n=1000)
    rome = sequences(lm, text_for(lm, n=1000))["ROME"]
    sums = kept_sums(lm, plan.edits, rome, checkpoints=(100, 1000))     # edits made -> WeightDelta

A thousand edits take minutes, and their sum is a small file. It is found by a hash of the model's weights, of the
edits in their order, and of the editor's settings, among those that are shipped and then in the user's cache; what is
not there is made and put into the cache. Sums are rounded to float16, also when they were just made, so that a kept one
and a new one are the same. ``python -m paramem.editing.long_sequences`` makes the shipped ones again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from paramem.editing.alphaedit import AlphaEditSettings, alphaedit_steps
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune
from paramem.editing.low_rank import LowRankSettings, low_rank
from paramem.editing.memit import MemitSettings, memit
from paramem.editing.mend import MendSettings, mend
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.sequence import running
from paramem.editing.statistics import cache_folder, cached_second_moment
from paramem.editing.trained import Trained
from paramem.errors import BadInput, CorruptFile, Unwritable
from paramem.evaluation.plan import request_hash
from paramem.facts import EditRequest
from paramem.interventions import Dense, Intervention, WeightDelta
from paramem.interventions.storage import load_intervention
from paramem.models import LM

SHIPPED = Path(__file__).parent / "sums"
Steps = Callable[[Sequence[EditRequest]], Iterator[tuple[int, Intervention]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequenced:
    """An editor along a sequence. recipe: everything beside model and edits that its sums depend on. steps: from the
    edits to pairs of how many are made and their sum."""

    name: str
    recipe: str
    steps: Steps


def one_by_one(lm: LM, name: str, settings: Any, edit: Callable[[LM, EditRequest], Intervention]) -> Sequenced:
    """An editor that makes one edit at a time, each on the model that the earlier ones left."""

    def steps(requests: Sequence[EditRequest]) -> Iterator[tuple[int, Intervention]]:
        for made in running(lm, requests, lambda now, some: edit(now, some[0])):
            yield made.n, made.total

    return Sequenced(name=name, recipe=repr(settings), steps=steps)


def sequences(lm: LM, texts: Sequence[str], *, layer: int = 0, trained: Trained | None = None) -> dict[str, Sequenced]:
    """The editors that change weights, with their defaults: in one layer, in it and the next one (MEMIT, AlphaEdit), in
    the attention of all layers (AdaLoRA). trained: MEND's networks; MEND is left out without them."""
    moments = {each: cached_second_moment(lm, each, texts) for each in (layer, layer + 1)}
    of_rome, of_memit = RomeSettings(layer=layer), MemitSettings(layers=(layer, layer + 1))
    tuned = FineTuneSettings(layer=layer, objective="last-token")
    adapted, projected = LowRankSettings(adapter="adalora"), AlphaEditSettings(layers=(layer, layer + 1), batch=1)
    found = {
        "FT-L": one_by_one(lm, "ft-l", tuned, lambda now, edit: fine_tune(now, [edit], tuned)),
        "AdaLoRA": one_by_one(lm, "adalora", adapted, lambda now, edit: low_rank(now, [edit], adapted)),
        "ROME": one_by_one(lm, "rome", of_rome, lambda now, edit: rome(now, edit, of_rome, moments[layer])),
        "MEMIT": one_by_one(lm, "memit", of_memit, lambda now, edit: memit(now, [edit], of_memit, moments)),
        "AlphaEdit": Sequenced(
            name="alphaedit",
            recipe=repr(projected),
            steps=lambda requests: alphaedit_steps(lm, requests, projected, moments),
        ),
    }
    if trained is not None:
        recipe = f"{MendSettings()} {trained.card.recipe}"
        found["MEND"] = one_by_one(lm, "mend", recipe, lambda now, edit: mend(now, [edit], MendSettings(), trained))
    return found


def kept_sums(
    lm: LM,
    requests: Sequence[EditRequest],
    editor: Sequenced,
    *,
    checkpoints: Sequence[int],
    folders: Sequence[Path] = (),
) -> dict[int, WeightDelta]:
    """Edits made to their sum, rounded to float16, for every checkpoint.

    folders: where to look; what is made goes into the last of them. By default the shipped ones and the user's cache; a
    folder that cannot be written costs the cache, not the result.
    Raises BadInput for a checkpoint beyond the edits.
    """
    if not checkpoints or min(checkpoints) < 1 or max(checkpoints) > len(requests):
        raise BadInput(
            f"checkpoints {tuple(checkpoints)}: each lies between 1 and the number of edits, {len(requests)}."
        )
    places = tuple(folders) or (SHIPPED, cache_folder() / "sums")
    names = file_names(lm, requests, editor, checkpoints)
    found = {n: kept for n, name in names.items() if (kept := _found([each / name for each in places])) is not None}
    missing = set(names) - found.keys()
    if missing:
        for n, total in editor.steps(requests[: max(missing)]):
            if n in missing:
                stored = in_half(total)
                _keep(stored, places[-1] / names[n])
                found[n] = _in_full(stored, lm.dtype)
    return {n: found[n] for n in sorted(found)}


def file_names(
    lm: LM, requests: Sequence[EditRequest], editor: Sequenced, checkpoints: Sequence[int]
) -> dict[int, str]:
    """Edits made to the name of the file that holds their sum."""
    model, hashes = lm.fingerprint(), [request_hash(request) for request in requests[: max(checkpoints)]]
    found = {}
    for n in checkpoints:
        digest = hashlib.sha256("\n".join([editor.name, model, editor.recipe, *hashes[:n]]).encode()).hexdigest()
        found[n] = f"{editor.name}-{n}-{digest[:16]}.safetensors"
    return found


def shipped(lm: LM, requests: Sequence[EditRequest], editor: Sequenced, n: int) -> bool:
    """Whether the sum of the first ``n`` edits comes with the library."""
    return len(requests) >= n and (SHIPPED / file_names(lm, requests, editor, [n])[n]).is_file()


def in_half(total: Intervention) -> WeightDelta:
    """The same change in float16, or in bfloat16 where a number is too large for that. Raises BadInput for what is no
    change of weights."""
    if not isinstance(total, WeightDelta):
        raise BadInput(f"{total!r} changes no weights, so it has no sum to keep.")
    return WeightDelta({name: Dense(_halved(part.dense().detach())) for name, part in total.parts.items()})


def _halved(change: Tensor) -> Tensor:
    half = change.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else change.to(torch.bfloat16)


def _in_full(stored: WeightDelta, dtype: torch.dtype) -> WeightDelta:
    return WeightDelta({name: Dense(part.dense().to(dtype)) for name, part in stored.parts.items()})


def _found(paths: Sequence[Path]) -> WeightDelta | None:
    for path in paths:
        if path.is_file():
            try:
                kept = load_intervention(path)
            except CorruptFile:
                continue  # made again
            if isinstance(kept, WeightDelta):
                return _in_full(kept, torch.float32)
    return None


def _keep(stored: WeightDelta, path: Path) -> None:
    with suppress(Unwritable):  # a read-only cache: the caller has the sum all the same
        stored.save(path)


# MEND's first edits are kept because its steps grow until what kinds of CPU round differently is seen.
REBUILT: Mapping[str, tuple[int, ...]] = {"FT-L": (1000,), "ROME": (1000,), "AdaLoRA": (100, 300), "MEND": (10, 30)}


def rebuild(model: str = "edit-gpt2-s0", folder: Path = SHIPPED) -> None:
    """Make the sums that are shipped and are not there; about five minutes of one core for a testbed."""
    from paramem.editing.trained import load as trained_for
    from paramem.evaluation.over_time import long_run
    from paramem.material import text_for
    from paramem.models import load

    lm = load(model)
    plan, editors = long_run(lm, n=1000), sequences(lm, text_for(lm, n=1000), trained=trained_for("mend", lm))
    for name, checkpoints in REBUILT.items():
        kept_sums(lm, plan.edits, editors[name], checkpoints=checkpoints, folders=(folder,))
        print(f"{model}: {name} after {' and '.join(map(str, checkpoints))} edits is in {folder.name}/")


if __name__ == "__main__":
    typer.run(rebuild)
