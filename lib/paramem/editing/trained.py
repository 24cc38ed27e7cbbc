"""What was learned for an editor on one model: where it is kept, how it is found, and what its card says.

    found = load("mend", lm)                 # shipped for a bundled testbed, or made by you and kept in the cache
    found.tensors, found.card.settings       # what the editor's module turns into its networks

A network belongs to the very weights that it was trained on, so it is found by their hash and not by a name. Shipped
ones lie in ``paramem/editing/trained/<testbed>/``, a user's own in ``$PARAMEM_CACHE/trained/<hash>/`` or in any folder
that is named; there, ``<method>.safetensors`` (rounded, see `paramem.editing.packing`) and ``<method>.json``.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from paramem.editing.outer_products import Place, sizes
from paramem.editing.packing import Bits, pack, unpack
from paramem.editing.statistics import cache_folder
from paramem.errors import BadInput, BadParameter, BadRecord, CorruptFile, Unwritable
from paramem.evaluation.plan import request_hash
from paramem.files import write_atomically

if TYPE_CHECKING:
    from paramem.facts import EditRequest
    from paramem.lm import LM

FOLDER = Path(__file__).parent / "trained"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """How a network was made and what it reached.

    model, model_hash  the model it belongs to, and the hash of its weights (`LM.fingerprint`)
    recipe             hash over settings, training edits and model: what `paramem.editing.train` compares
    settings           everything that its module needs to rebuild the networks around the tensors
    held_out           what was not seen in training and measured on
    measures           numbers reached on what was held out, with the stored (rounded) tensors
    bits               that a number of a matrix is kept in
    """

    method: str
    model: str
    model_hash: str
    recipe: str
    settings: Mapping[str, Any]
    seconds: float
    held_out: str
    measures: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    size_bytes: int = 0
    sha256: str = ""
    bits: Bits = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """Tensors by name, in float32, with their card."""

    card: Card
    tensors: Mapping[str, Tensor]

    def save(self, folder: Path) -> Trained:
        """Write both files, each atomically; what comes back has the sizes and the tensors as they are stored.

        Raises Unwritable.
        """
        stored = pack(self.tensors, self.card.bits)
        data = to_bytes(stored, metadata={"format": "pt"})
        card = replace(
            self.card,
            parameters=sum(tensor.numel() for tensor in self.tensors.values() if tensor.is_floating_point()),
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        record = {"schema": SCHEMA, **asdict(card), "versions": _versions()}
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        try:
            write_atomically(folder / f"{card.method}.safetensors", data)
            write_atomically(folder / f"{card.method}.json", text.encode())
        except OSError as error:
            raise Unwritable(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
        return Trained(card=card, tensors=unpack(stored))

    def places(self, method: str, lm: LM) -> tuple[Place, ...]:
        """The matrices that the networks were trained to edit, if they are of that method and fit the model.

        Raises BadInput.
        """
        if self.card.method.split("-")[0] != method:  # "mend-people" is MEND, trained on edits of people
            raise BadInput(f"what was trained for {self.card.method!r} was passed to {method!r}")
        found = tuple(Place(layer, role) for layer, role in self.card.settings["places"])
        wanted = {place: tuple(size) for place, size in zip(found, self.card.settings["sizes"], strict=True)}
        try:
            fits = sizes(lm, found) == wanted
        except BadParameter:
            fits = False
        if not fits:
            raise BadInput(
                f"these {method} networks were trained on {self.card.model!r} and do not fit {lm.name!r}: its matrices "
                "have other sizes. Pass what was trained on this model."
            )
        return found

    def tensors_on(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on a device."""
        return {name: tensor.to(device) for name, tensor in self.tensors.items()}

    def rounded(self) -> Trained:
        """The same as it will be read back."""
        return replace(self, tensors=unpack(pack(self.tensors, self.card.bits)))


def recipe_hash(method: str, model_hash: str, requests: Sequence[EditRequest], settings: Any) -> str:
    """sha256 over everything that determines what is learned: the model, the training edits in order, the settings."""
    parts = [method, model_hash, json.dumps(asdict(settings), sort_keys=True), *map(request_hash, requests)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def new_card(
    method: str,
    lm: LM,
    requests: Sequence[EditRequest],
    settings: Any,
    seconds: float,
    places: Sequence[Place] = (),
    **more: Any,
) -> Card:
    """The card of something just trained; ``settings`` is a dataclass, ``more`` is kept beside its fields.

    places: the edited matrices, for editors that change weights.
    """
    fingerprint = lm.fingerprint()
    kept = {**asdict(settings), **more}
    if places:
        kept |= {"places": [list(each) for each in places], "sizes": [list(s) for s in sizes(lm, places).values()]}
    return Card(
        method=method,
        model=lm.name,
        model_hash=fingerprint,
        recipe=recipe_hash(method, fingerprint, requests, settings),
        settings=json.loads(json.dumps(kept)),
        seconds=round(seconds, 1),
        held_out="",
    )


def load_from(folder: Path, method: str) -> Trained:
    """What `Trained.save` wrote; raises BadRecord, CorruptFile."""
    card = read_card(folder / f"{method}.json")
    path = folder / f"{method}.safetensors"
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != card.sha256:
            raise CorruptFile(f"{path} is not the file that its card describes: train it again")
        return Trained(card=card, tensors=unpack(from_bytes(data)))
    except (OSError, SafetensorError) as error:
        raise CorruptFile(f"cannot read {path}: {error}; train it again") from error


def read_card(path: Path) -> Card:
    """One card; BadRecord names what is wrong with it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BadRecord(path, 0, "-", f"no readable card: {error}") from error
    record.pop("versions", None)
    if record.pop("schema", None) != SCHEMA:
        raise BadRecord(path, 0, "schema", f"only schema {SCHEMA} is known: train the network again")
    try:
        return Card(**record)
    except TypeError as error:
        raise BadRecord(path, 0, "-", f"not the card of a trained editor: {error}") from error


def cards(folder: Path = FOLDER) -> Iterator[tuple[Path, Card]]:
    """Every card below a folder with the folder that it stands in, in order of names."""
    for path in sorted(folder.glob("*/*.json")):
        yield path.parent, read_card(path)


def own_folder(lm: LM) -> Path:
    """Where `load` looks for what a user trained on this model."""
    return cache_folder() / "trained" / lm.fingerprint()[:24]


def load(method: str, lm: LM, folders: Sequence[Path] = ()) -> Trained:
    """What was learned for ``method`` on exactly these weights: in one of ``folders``, in the cache, or shipped.

    Raises BadInput, with the command that trains it, where there is nothing.
    """
    now = lm.fingerprint()
    for folder in (*folders, own_folder(lm)):
        if (folder / f"{method}.json").is_file() and read_card(folder / f"{method}.json").model_hash == now:
            return load_from(folder, method)
    others = set()
    for folder, card in cards():
        if card.method == method and card.model_hash == now:
            return load_from(folder, method)
        others |= {card.model} if card.method == method else set()
    raise BadInput(_missing(method, lm.name, others))


def _missing(method: str, model: str, others: set[str]) -> str:
    if model in others:
        return (
            f"{method} was trained on {model!r} with other weights than the model has now. Inside an applied edit, "
            f"pass what was loaded before: trained=load({method!r}, lm); or train it on these weights."
        )
    shipped = f"there are networks for {', '.join(sorted(others))}" if others else "no network is shipped"
    return (
        f"{method} has to be trained on {model!r} first ({shipped}): python -m paramem.editing.train {method} "
        f"--model {model} [--dataset FILE], or paramem.editing.train.train(...) in Python, and pass trained=..."
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    # "2.13.0+cpu" and "2.13.0" compute the same here: the local part says only which wheel was installed
    return {"python": platform.python_version(), "torch": version("torch").split("+")[0]}
