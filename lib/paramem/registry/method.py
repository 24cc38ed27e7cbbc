"""A method as data, and the two calls that all methods of a kind share.

The contract of a method's module: a function, a frozen keyword-only settings class, and ``DEPARTURES``, a mapping of
topic to (what the paper says, what we do, why). What a function needs beside the model and what it works on, it names
as a parameter (`EDIT_MATERIALS`); `Method.edit` and `Method.detect` bring it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from paramem.errors import BadInput, BadParameter

if TYPE_CHECKING:
    import pandas as pd

    from paramem.facts import EditRequest, Fact
    from paramem.interventions import Intervention
    from paramem.models import LM

Kind: TypeAlias = Literal["detector", "editor"]
Phase: TypeAlias = Literal["recognition", "association", "mastery", "output"]

Known: TypeAlias = Literal["raise", "keep", "skip"]

EDIT_MATERIALS = ("C", "moments", "texts", "facts", "trained")


class Departure(NamedTuple):
    """Where we do something else than the paper says."""

    paper_says: str
    we_do: str
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A method, or a variant of one.

    Attributes:
        name: its key, used in the taxonomy and on tables.
        title: as the field writes it.
        paper: the bib key of the paper that introduced it.
        phase: where new knowledge enters the model; None for detectors.
        function, settings: names in ``module``.
        variant: the settings that make the variant.
        variant_of: the method that this is a variant of, by name; None for a method of its own.
        sequel: the variant differs only where several edits are made, together or one after the other.
    """

    name: str
    title: str
    kind: Kind
    paper: str
    phase: Phase | None = None
    module: str
    function: str
    settings: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    variant_of: str | None = None
    sequel: bool = False

    def resolve(self) -> Callable[..., Any]:
        """The function itself."""
        return getattr(importlib.import_module(self.module), self.function)  # type: ignore[no-any-return]

    def settings_class(self) -> type[Any]:
        """The class of its hyperparameters."""
        return getattr(importlib.import_module(self.module), self.settings)  # type: ignore[no-any-return]

    def departures(self) -> dict[str, Departure]:
        """Topic to departure, as the module declares them."""
        declared = importlib.import_module(self.module).DEPARTURES
        return {topic: Departure(*texts) for topic, texts in declared.items()}

    def edit(
        self,
        lm: LM,
        requests: EditRequest | Sequence[EditRequest],
        *,
        layer: int | None = None,
        texts: Sequence[str] = (),
        facts: Sequence[Fact] = (),
        trained: Any = None,
        known: Known = "raise",
        **settings: Any,
    ) -> Intervention:
        """Edits in one call, the same for every editor. Nothing has changed when it raises.

        An editor that knows single edits only makes them one after the other, each on the model that the earlier ones
        left; the others see all of them at once.

        Args:
            layer: the edited layer, for editors that have one or, with no ``layers`` in ``settings``, several.
            texts: ordinary text, for editors that use some (second moments of keys, memories).
            facts: facts that the model knows and nobody edits (demonstrations, examples of what must stay).
            trained: what was learned for this method on this model; by default what is shipped or cached.
            known: what happens to edits whose target the model answers already: an error, they are made all the same,
                or they are left out.
            settings: hyperparameters other than the default ones.

        Raises:
            BadParameter: the method is no editor, its settings have no such field, the layer does not exist.
            BadInput: requests contradict each other, or a material is missing.
        """
        from paramem.editing.sequence import in_sequence

        given = {"texts": texts, "facts": facts, "trained": trained}
        many, chosen, extra = self._ready(lm, requests, layer, given, known, settings, together=True)
        function = self.resolve()
        if self._takes_many:
            return function(lm, many, settings=chosen, **extra)  # type: ignore[no-any-return]
        return in_sequence(lm, many, lambda now, one: function(now, one, settings=chosen, **extra))

    def edit_each(
        self,
        lm: LM,
        requests: Sequence[EditRequest],
        *,
        layer: int | None = None,
        texts: Sequence[str] = (),
        facts: Sequence[Fact] = (),
        trained: Any = None,
        known: Literal["raise", "keep"] = "raise",
        **settings: Any,
    ) -> list[Intervention]:
        """Every request as an edit of its own on the model as it is; the arguments are those of `edit`.

        Side by side where the module has a function for it (``<function>_each``), else one by one.
        """
        given = {"texts": texts, "facts": facts, "trained": trained}
        many, chosen, extra = self._ready(lm, requests, layer, given, known, settings, together=False)
        together = getattr(importlib.import_module(self.module), f"{self.function}_each", None)
        if together is not None:
            return list(together(lm, many, settings=chosen, **extra))
        function = self.resolve()
        return [function(lm, [one] if self._takes_many else one, settings=chosen, **extra) for one in many]

    def edit_sequence(
        self,
        lm: LM,
        requests: Sequence[EditRequest],
        *,
        layer: int | None = None,
        texts: Sequence[str] = (),
        facts: Sequence[Fact] = (),
        trained: Any = None,
        known: Known = "raise",
        **settings: Any,
    ) -> Intervention:
        """Edits one after the other, each on the model that the earlier ones left; the arguments are those of `edit`.

        What an editor needs beside the edits (second moments, learned networks) stays that of the unedited model.
        """
        from paramem.editing.sequence import in_sequence

        given = {"texts": texts, "facts": facts, "trained": trained}
        many, chosen, extra = self._ready(lm, requests, layer, given, known, settings, together=True)
        function, alone = self.resolve(), not self._takes_many
        return in_sequence(lm, many, lambda now, one: function(now, one if alone else [one], settings=chosen, **extra))

    @property
    def _takes_many(self) -> bool:
        return "requests" in inspect.signature(self.resolve()).parameters

    def _ready(
        self,
        lm: LM,
        requests: EditRequest | Sequence[EditRequest],
        layer: int | None,
        given: Mapping[str, Any],
        known: Known,
        settings: Mapping[str, Any],
        *,
        together: bool,
    ) -> tuple[tuple[EditRequest, ...], Any, dict[str, Any]]:
        """(the checked requests, the settings, the materials that the function takes)."""
        from paramem.editing.requests import check_requests, without_known

        if self.kind != "editor":
            raise BadParameter(f"{self.name} is a {self.kind}, not an editor")
        chosen = self._settings(settings, layer)
        layers = getattr(chosen, "layers", None) or [getattr(chosen, "layer", None)]
        many = check_requests(lm, requests, [each for each in layers if each is not None], together=together)
        many = without_known(lm, many, known)
        takes = inspect.signature(self.resolve()).parameters
        extra = {name: self._material(name, lm, chosen, given) for name in EDIT_MATERIALS if name in takes}
        return many, chosen, extra

    def _settings(self, given: Mapping[str, Any], layer: int | None) -> Any:
        """The settings with the variant's values, those of the caller, and the layer where they have a place for it."""
        known = {each.name: each for each in fields(self.settings_class())}
        if unknown := sorted(given.keys() - known.keys()):
            raise BadParameter(f"{self.name} has no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        values = {**self.variant, **given}
        if layer is not None and "layer" in known:
            values.setdefault("layer", layer)
        elif layer is not None and "layers" in known:
            values.setdefault("layers", (layer,))
        for name in ("layer", "layers"):
            if name in known and name not in values and known[name].default is MISSING:
                raise BadParameter(f"{self.name} edits a layer: say which, {name}=...")
        return self.settings_class()(**values)

    def _material(self, name: str, lm: LM, settings: Any, given: Mapping[str, Any]) -> Any:
        from paramem.editing.statistics import cached_second_moment

        if name in ("C", "moments"):
            if not getattr(settings, "covariance", True):
                return None
            if name == "C":
                return cached_second_moment(lm, settings.layer, given["texts"])
            return {layer: cached_second_moment(lm, layer, given["texts"]) for layer in settings.layers}
        if name == "trained" and given["trained"] is None:
            from paramem.editing.trained import load

            return load(self.variant_of or self.name, lm)  # a variant uses what its method learned
        if not given[name]:
            raise BadInput(f"{self.name} needs {name}, and none are given: edit(lm, requests, {name}=...)")
        return given[name]

    def detect(
        self,
        lm: LM,
        facts: Sequence[Fact] = (),
        texts: Sequence[str] | Mapping[str, Sequence[str]] = (),
        **settings: Any,
    ) -> pd.DataFrame:
        """One look at a model, the same call for every detector: a tidy table, one row per place (or fact and place).

        Args:
            facts: for the detectors that take ``facts``.
            texts: for those that take ``texts``, or ``texts_by_language``, which needs a mapping of language to texts.
            settings: hyperparameters other than the default ones.

        Raises:
            BadParameter: the method is no detector, or its settings have no such field.
            BadInput: what it takes is missing.
        """
        if self.kind != "detector":
            raise BadParameter(f"{self.name} is of kind {self.kind!r}, not a detector")
        known = {each.name for each in fields(self.settings_class())}
        if unknown := sorted(settings.keys() - known):
            raise BadParameter(f"{self.name} has no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        by_language = texts if isinstance(texts, Mapping) else {}
        plain = [text for name in sorted(by_language) for text in by_language[name]] if by_language else texts
        offered: dict[str, Any] = {"facts": facts, "texts": plain, "texts_by_language": by_language}
        function = self.resolve()
        wanted = {name: offered[name] for name in inspect.signature(function).parameters if name in offered}
        if missing := [name for name, value in wanted.items() if not value]:
            raise BadInput(f"{self.name} looks at {missing[0]}, and none are given: detect(lm, facts=..., texts=...)")
        return function(lm, **wanted, settings=self.settings_class()(**{**self.variant, **settings}))  # type: ignore[no-any-return]
