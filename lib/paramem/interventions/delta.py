"""Changes of weights, dense or of low rank, with arithmetic.

    delta = WeightDelta({"transformer.h.2.mlp.c_proj.weight": LowRank(left, right)})
    (0.5 * delta + other).applied(lm)

Every part has its parameter's own stored layout (`LM.weight` says where that is transposed). Sums of low-rank parts
stay factored: the factors are set side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from paramem.errors import BadInput, IncompatibleIntervention
from paramem.interventions.base import Intervention

if TYPE_CHECKING:
    from paramem.lm import LM


@dataclass(frozen=True, eq=False)
class Dense:
    """A change of a whole tensor."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def dense(self) -> Tensor:
        return self.tensor

    def scaled(self, factor: float) -> Dense:
        return Dense(self.tensor * factor)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change `left @ right` of a matrix; raises `BadInput` when the factors do not fit."""

    left: Tensor  # [rows, r]
    right: Tensor  # [r, columns]

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise BadInput(
                f"factors of shapes {tuple(self.left.shape)} and {tuple(self.right.shape)} do not multiply: "
                "left is [rows, r], right is [r, columns]"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[0], self.right.shape[1])

    @property
    def rank(self) -> int:
        """The number of columns of the factors, an upper bound of the rank."""
        return self.left.shape[1]

    @property
    def T(self) -> LowRank:
        """The same change of the transposed matrix."""
        return LowRank(self.right.T, self.left.T)

    def dense(self) -> Tensor:
        return self.left @ self.right

    def scaled(self, factor: float) -> LowRank:
        return LowRank(self.left * factor, self.right)


Part = Dense | LowRank


class WeightDelta(Intervention):
    """Changes of parameters by name."""

    kind = "weight_delta"

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts: dict[str, Part] = dict(sorted(parts.items()))

    @classmethod
    def between(cls, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> WeightDelta:
        """What turns the state dict `before` into `after`; equal tensors and shared names of one tensor are left out.

        `before` must be a copy if the model was changed in place. Raises `IncompatibleIntervention`.
        """
        if before.keys() != after.keys():
            odd = sorted(before.keys() ^ after.keys())
            raise IncompatibleIntervention(f"the two states have different parameters, such as {odd[0]}")
        parts: dict[str, Part] = {}
        seen: set[tuple[int, torch.Size]] = set()
        for name, new in after.items():
            old, place = before[name], (new.data_ptr(), new.shape)
            if old.shape != new.shape:
                raise IncompatibleIntervention(f"{name} has shape {tuple(old.shape)} before, {tuple(new.shape)} after")
            if place not in seen and new.is_floating_point() and not torch.equal(old, new):
                parts[name] = Dense((new - old).detach())
            seen.add(place)
        return cls(parts)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """Add the changes to the parameters; on leaving, the very bits that were there are written back.

        Deltas may be nested and left in any order.
        """
        application = _Application(self._targets(lm))
        stack = _active.setdefault(lm.model, [])
        try:
            stack.append(application)
            application.write()
            yield lm
        finally:
            _take_off(stack, application)

    def dense(self, name: str) -> Tensor:
        """One parameter's change as a full tensor."""
        return self.parts[name].dense()

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, WeightDelta):
            return super().__add__(other)
        parts = dict(self.parts)
        for name, part in other.parts.items():
            parts[name] = _plus(name, parts[name], part) if name in parts else part
        return WeightDelta(parts)

    def __mul__(self, factor: Any) -> WeightDelta:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return WeightDelta({name: part.scaled(float(factor)) for name, part in self.parts.items()})

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> WeightDelta:
        return self * (1 / factor) if isinstance(factor, (int, float)) else NotImplemented

    def __neg__(self) -> WeightDelta:
        return self * -1.0

    def __sub__(self, other: Any) -> Any:
        return self + -other if isinstance(other, WeightDelta) else NotImplemented

    def __repr__(self) -> str:
        return f"WeightDelta({', '.join(f'{name} {list(part.shape)}' for name, part in self.parts.items())})"

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {}
        for name, part in self.parts.items():
            if isinstance(part, Dense):
                tensors[f"{name}:dense"] = part.tensor
            else:
                tensors[f"{name}:left"], tensors[f"{name}:right"] = part.left, part.right
        return {"parameters": list(self.parts)}, tensors

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> WeightDelta:
        return cls({name: _part(name, tensors) for name in data["parameters"]})

    def _targets(self, lm: LM) -> list[tuple[nn.Parameter, Part]]:
        """Each parameter once with its change; tied parameters have several names."""
        targets: dict[int, tuple[nn.Parameter, Part]] = {}
        for name, part in self.parts.items():
            parameter = _parameter(lm, name, part)
            known = targets.setdefault(id(parameter), (parameter, part))[1]
            if known is not part and not torch.equal(known.dense(), part.dense()):
                raise IncompatibleIntervention(f"{name} is tied to another parameter that changes differently")
        return list(targets.values())


class _Application:
    """One delta on one model: what to add where, and what was there before."""

    def __init__(self, targets: list[tuple[nn.Parameter, Part]]) -> None:
        self.targets = targets
        self.saved: list[Tensor] = []

    def write(self) -> None:
        self.saved = [parameter.detach().clone() for parameter, _ in self.targets]
        with torch.no_grad():
            for parameter, part in self.targets:
                change = part.dense().to(parameter.device)
                exact = torch.promote_types(parameter.dtype, change.dtype)
                parameter.copy_(parameter.to(exact) + change.to(exact))

    def restore(self) -> None:
        with torch.no_grad():
            for (parameter, _), old in zip(self.targets, self.saved, strict=False):
                parameter.copy_(old)


_active: WeakKeyDictionary[nn.Module, list[_Application]] = WeakKeyDictionary()


def _take_off(stack: list[_Application], application: _Application) -> None:
    """Undo one application; those put on later are undone before it and put on again."""
    index = stack.index(application)
    later = stack[index + 1 :]
    for undone in reversed(stack[index:]):
        undone.restore()
    del stack[index]
    for again in later:
        again.write()


def _plus(name: str, one: Part, other: Part) -> Part:
    if one.shape != other.shape:
        raise IncompatibleIntervention(f"cannot add changes of {name}: shapes {one.shape} and {other.shape}")
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return LowRank(torch.cat((one.left, other.left), dim=1), torch.cat((one.right, other.right), dim=0))
    return Dense(one.dense() + other.dense())


def _part(name: str, tensors: Mapping[str, Tensor]) -> Part:
    if f"{name}:dense" in tensors:
        return Dense(tensors[f"{name}:dense"])
    return LowRank(tensors[f"{name}:left"], tensors[f"{name}:right"])


def _parameter(lm: LM, name: str, part: Part) -> nn.Parameter:
    try:
        parameter = lm.model.get_parameter(name)
    except AttributeError as error:
        raise IncompatibleIntervention(
            f"model {lm.name!r} ({lm.arch.family}) has no parameter {name!r}: the delta was made for another model"
        ) from error
    if tuple(parameter.shape) != part.shape:
        raise IncompatibleIntervention(
            f"parameter {name!r} of model {lm.name!r} has shape {tuple(parameter.shape)}, the delta {part.shape}: "
            "it was made for another model, or stored transposed"
        )
    if parameter.is_meta:
        raise IncompatibleIntervention(
            f"parameter {name!r} is offloaded; load the model with a device_map that keeps it"
        )
    return parameter
