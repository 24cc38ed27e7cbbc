"""What every intervention can do, and their composition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from paramem.errors import BadInput
from paramem.interventions import storage

if TYPE_CHECKING:
    from paramem.lm import LM


@dataclass(frozen=True)
class Size:
    """How much an intervention stores."""

    parameters: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.bytes + other.bytes)

    @classmethod
    def of(cls, *tensors: Tensor) -> Size:
        return cls(sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors))


class Intervention(ABC):
    """Something that can be put on a model and taken off again.

    A subclass names its `kind` (for files), and describes itself as plain data plus tensors (`state`, `from_state`).
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Intervention]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            cls.kinds[cls.kind] = cls

    @abstractmethod
    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model under this intervention; raises `IncompatibleIntervention` when it was made for another model."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What to store: JSON-compatible data, and tensors by name."""

    @classmethod
    @abstractmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
        """The inverse of `state`."""

    def size(self) -> Size:
        """Numbers and bytes stored."""
        return Size.of(*self.state()[1].values())

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to a `.safetensors` file, or into a folder; returns the file. Raises `Unwritable`."""
        return storage.save_intervention(self, path)

    def fingerprint(self) -> str:
        """sha256 over everything that `state` holds."""
        return storage.digest(self.kind, *self.state())

    def __add__(self, other: Any) -> Intervention:
        if not isinstance(other, Intervention):
            return NotImplemented
        return Composed((*_parts(self), *_parts(other)))

    def __radd__(self, other: Any) -> Intervention:
        """`sum` starts with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


class Composed(Intervention):
    """Several interventions, put on in order and taken off in reverse order."""

    kind = "composed"

    def __init__(self, parts: tuple[Intervention, ...]) -> None:
        if not parts:
            raise BadInput("a composition needs at least one intervention")
        self.parts = tuple(parts)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        with ExitStack() as stack:
            for part in self.parts:
                lm = stack.enter_context(part.applied(lm))
            yield lm

    def size(self) -> Size:
        return sum((part.size() for part in self.parts), Size())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        described, tensors = [], {}
        for index, part in enumerate(self.parts):
            data, own = part.state()
            described.append({"kind": part.kind, "data": data})
            tensors.update({f"{index}/{name}": tensor for name, tensor in own.items()})
        return {"parts": described}, tensors

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Composed:
        parts = []
        for index, part in enumerate(data["parts"]):
            own = {name.removeprefix(f"{index}/"): t for name, t in tensors.items() if name.startswith(f"{index}/")}
            parts.append(storage.rebuild(part["kind"], part["data"], own))
        return cls(tuple(parts))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(intervention: Intervention) -> tuple[Intervention, ...]:
    return intervention.parts if isinstance(intervention, Composed) else (intervention,)
