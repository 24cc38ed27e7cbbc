"""Text put around a prompt before the model reads it: always the same, or chosen for each prompt from a memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from paramem.errors import BadParameter
from paramem.interventions.base import Intervention, Size

if TYPE_CHECKING:
    from paramem.editing.retrieval import Index
    from paramem.lm import LM

PLACE = "{prompt}"


class Rewriting(Intervention):
    """Something put around prompts; it is described by plain data alone, without tensors.

    Of several rewrites the last one put on is outermost.
    """

    @abstractmethod
    def around(self, prompt: str) -> tuple[str, str]:
        """What comes before this prompt and what comes after it."""

    def reading(self, prompt: str) -> str:
        """The prompt as the model reads it."""
        before, after = self.around(prompt)
        return before + prompt + after

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """A model whose prompts are rewritten in `encode`, and so in scoring and generation."""
        yield lm.with_(rewrites=(*lm.rewrites, self))


def halves(template: str) -> tuple[str, str]:
    """What a template has before and after its one `{prompt}`; raises `BadParameter` when there is not one."""
    if template.count(PLACE) != 1:
        raise BadParameter(f"a template needs {PLACE} exactly once, not {template.count(PLACE)} times: {template!r}")
    before, _, after = template.partition(PLACE)
    return before, after


@dataclass(frozen=True)
class PromptRewrite(Rewriting):
    """A template with one `{prompt}`; other braces, in it or in prompts, are ordinary characters."""

    kind = "prompt_rewrite"

    template: str

    def __post_init__(self) -> None:
        halves(self.template)

    @property
    def before(self) -> str:
        return halves(self.template)[0]

    @property
    def after(self) -> str:
        return halves(self.template)[1]

    def around(self, prompt: str) -> tuple[str, str]:
        return halves(self.template)

    def size(self) -> Size:
        return Size(0, len((self.before + self.after).encode()))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"template": self.template}, {}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PromptRewrite:
        return cls(data["template"])


@dataclass(frozen=True, kw_only=True)
class MemoryPrompt(Rewriting):
    """A memory of texts, of which each prompt gets the one whose key is most similar to it.

    keys       what prompts are compared with
    templates  what is put around a prompt for each key, with one `{prompt}`
    retriever  the name of a retriever, see `paramem.editing.retrieval`
    threshold  similarity below which a prompt stays as it is; 0 asks for no comparison where there is one key only
    """

    kind = "memory_prompt"

    keys: tuple[str, ...]
    templates: tuple[str, ...]
    retriever: str = "tfidf"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.templates):
            raise BadParameter(f"{len(self.keys)} keys for {len(self.templates)} templates: one for each, at least one")
        for template in self.templates:
            halves(template)

    @cached_property
    def _index(self) -> Index:
        from paramem.editing.retrieval import index

        return index(self.retriever, self.keys)

    @cached_property
    def _chosen(self) -> dict[str, int | None]:
        return {}

    def choose(self, prompt: str) -> int | None:
        """The number of the text that this prompt gets, None where nothing is similar enough."""
        if prompt not in self._chosen:
            self._chosen[prompt] = self._look_up(prompt)
        return self._chosen[prompt]

    def _look_up(self, prompt: str) -> int | None:
        if len(self.keys) == 1 and self.threshold <= 0:
            return 0
        similarity = self._index.similarities([prompt])[0]
        best = int(similarity.argmax())
        return best if float(similarity[best]) >= self.threshold else None

    def around(self, prompt: str) -> tuple[str, str]:
        chosen = self.choose(prompt)
        return ("", "") if chosen is None else halves(self.templates[chosen])

    def size(self) -> Size:
        return Size(0, sum(len(text.encode()) for text in (*self.keys, *self.templates)))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        rest = {"retriever": self.retriever, "threshold": self.threshold}
        return {"keys": list(self.keys), "templates": list(self.templates), **rest}, {}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MemoryPrompt:
        return cls(
            keys=tuple(data["keys"]),
            templates=tuple(data["templates"]),
            retriever=data["retriever"],
            threshold=data["threshold"],
        )
