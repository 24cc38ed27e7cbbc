"""Several edited models in one forward: every row of a batch meets the weights of its own edit.

    if all(fits(lm, edit) for edit in edits):
        with abreast(lm, edits) as lm:                        # row i of everything that runs here is under edits[i]
            lm.generate(prompts)

Texts generated token by token cost a forward per token, however few rows it has; so twenty edits generate their texts
together in the time of two. It works for changes of matrices that a linear layer multiplies with, which is what
editors of weights make: x (W + D_i) = x W + x D_i. The model's own weights are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from paramem.errors import IncompatibleIntervention
from paramem.interventions import Intervention, LowRank, WeightDelta

if TYPE_CHECKING:
    from paramem.interventions.delta import Part
    from paramem.models import LM


def fits(lm: LM, edit: Intervention) -> bool:
    """Whether `abreast` can run this edit."""
    return isinstance(edit, WeightDelta) and all(_linear(lm, name) is not None for name in edit.parts)


def _linear(lm: LM, name: str) -> nn.Module | None:
    """The linear layer whose matrix or bias this is; None for embeddings, norms and tied matrices."""
    path, _, _ = name.rpartition(".")
    try:
        module = lm.model.get_submodule(path)
    except AttributeError:
        return None
    tied = lm.arch.head
    return module if isinstance(module, nn.Linear | Conv1D) and module is not tied else None


@contextmanager
def abreast(lm: LM, edits: Sequence[Intervention]) -> Iterator[LM]:
    """The model with row i of every forward under ``edits[i]``; forwards must have as many rows as there are edits.

    Raises IncompatibleIntervention for an edit that does not `fits`.
    """
    by_module: dict[str, list[tuple[int, str, Part]]] = {}
    for row, edit in enumerate(edits):
        if not isinstance(edit, WeightDelta) or not fits(lm, edit):
            raise IncompatibleIntervention(
                f"edit {row}, a {type(edit).__name__}, changes more than linear layers: apply it alone."
            )
        for name, part in edit.parts.items():
            path, _, kind = name.rpartition(".")
            by_module.setdefault(path, []).append((row, kind, part))
    with ExitStack() as stack:
        for path, changes in sorted(by_module.items()):
            module = lm.model.get_submodule(path)
            stack.callback(module.register_forward_hook(_adder(module, changes, len(edits))).remove)
        yield lm


def _adder(module: nn.Module, changes: Sequence[tuple[int, str, Part]], rows: int) -> Callable[..., Tensor]:
    transposed = isinstance(module, Conv1D)  # stores [in, out]

    def add(_: nn.Module, given: tuple[Any, ...], answer: Tensor) -> Tensor:
        if len(answer) != rows:
            raise IncompatibleIntervention(f"{rows} edits run abreast, and a forward has {len(answer)} rows.")
        changed = answer.clone()
        for row, kind, part in changes:
            changed[row] += part.dense() if kind == "bias" else _times(given[0][row], part, transposed)
        return changed

    return add


def _times(x: Tensor, part: Part, transposed: bool) -> Tensor:
    """x D for one row's states x [T, in], D in the parameter's stored layout."""
    if not isinstance(part, LowRank):
        return x @ (part.tensor if transposed else part.tensor.T).to(x)
    first, second = (part.left, part.right) if transposed else (part.right.T, part.left.T)
    return (x @ first.to(x)) @ second.to(x)
