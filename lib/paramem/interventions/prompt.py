"""Text put around a prompt before the model reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paramem.errors import BadParameter
from paramem.interventions.base import Intervention, Size

if TYPE_CHECKING:
    from paramem.lm import LM

PLACE = "{prompt}"


@dataclass(frozen=True)
class PromptRewrite(Intervention):
    """A template with one `{prompt}`; other braces, in it or in prompts, are ordinary characters.

    Of several rewrites the last one put on is outermost.
    """

    kind = "prompt_rewrite"

    template: str

    def __post_init__(self) -> None:
        if self.template.count(PLACE) != 1:
            raise BadParameter(
                f"a template needs {PLACE} exactly once, not {self.template.count(PLACE)} times: {self.template!r}"
            )

    @property
    def before(self) -> str:
        return self.template.partition(PLACE)[0]

    @property
    def after(self) -> str:
        return self.template.partition(PLACE)[2]

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """A model whose prompts are rewritten in `encode`, and so in scoring and generation."""
        yield lm.with_(rewrites=(*lm.rewrites, self))

    def size(self) -> Size:
        return Size(0, len((self.before + self.after).encode()))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"template": self.template}, {}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PromptRewrite:
        return cls(data["template"])
