"""The records that everything exchanges: a prompt with its answer, a fact, a request to change one.

A template holds exactly one ``{}``, where the subject goes; every other brace is plain text, because templates come
from data sets and not from programmers. Records are frozen and hashable, and `model_dump_json` writes them back.

    >>> fact = Fact(id="1", subject="Ada Lovelace", relation="birthplace", object="London", template="{} was born in")
    >>> fact.prompt
    'Ada Lovelace was born in'
    >>> fact.probe().target
    'London'

This module imports no torch: the world and the readers build records before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict

PORTABILITY = ("alias", "reasoning", "logical")
LOCALITY = ("relation", "subject", "distracting", "forgetfulness", "out_of_distribution")


def fill(template: str, subject: str) -> str:
    """Put the subject where the template's one ``{}`` stands; other braces stay as they are."""
    return template.replace("{}", subject, 1)


def _one_placeholder(template: str) -> str:
    found = template.count("{}")
    if found != 1:
        raise ValueError(f"template {template!r} holds {found} placeholders '{{}}' instead of one for the subject")
    return template


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("empty text")
    return text


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed and can be hashed, so that a frozen record is frozen through and through."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("the groups of a record cannot be changed; make a copy with model_copy(update={...})")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __deepcopy__(self, memo: Any) -> FrozenDict:
        return self


Template = Annotated[str, AfterValidator(_one_placeholder)]
Text = Annotated[str, AfterValidator(_not_blank)]


class Record(BaseModel):
    """Frozen, and strict about names: a misspelt field is an error and not a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Probe(Record):
    """One prompt and the answer that is right for it.

    target   the answer, without a leading space; empty where no answer is known, so that only a comparison with the
             model's own answer is possible
    aliases  other forms of the same answer, each as right as `target`
    kind     where the probe comes from, in the words of its data set ("neighborhood_prompts", "two_step", ...)
    subject  the entity that the prompt speaks of, where it is known
    requires what the model must answer before the edit for this probe to count (RippleEdits' conditions, the single
             hops of a multi-hop question)
    test     probes with the same mark are one test: "3/OR" is passed by any of them, "3/AND" by all of them
    """

    prompt: Text
    target: str
    aliases: tuple[str, ...] = ()
    kind: str = ""
    subject: str | None = None
    requires: tuple[Probe, ...] = ()
    test: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted form of the answer, `target` first, without repetitions."""
        return tuple(dict.fromkeys(text for text in (self.target, *self.aliases) if text))


Groups = Annotated[
    Mapping[str, tuple[Probe, ...]],
    AfterValidator(lambda groups: FrozenDict(sorted(groups.items()))),
]


class Fact(Record):
    """(subject, relation, object) with every form in which it can be asked.

    paraphrases   other templates of the relation that a training text used for this fact
    withheld      templates that it did not use for this fact: generalisation is measured on these
    question      the question form, as a template, where the relation has one
    inverse       the statement read backwards (object first), where there is one
    consequences  what follows in two steps ("born in Lyon", hence "in France")
    """

    id: Text
    subject: Text
    relation: str
    object: Text
    template: Template
    object_aliases: tuple[str, ...] = ()
    subject_aliases: tuple[str, ...] = ()
    paraphrases: tuple[Template, ...] = ()
    withheld: tuple[Template, ...] = ()
    question: Template | None = None
    language: str = "en"
    inverse: Probe | None = None
    consequences: tuple[Probe, ...] = ()

    @property
    def prompt(self) -> str:
        """The template with the subject in place."""
        return fill(self.template, self.subject)

    def probe(self, template: str | None = None, *, kind: str = "") -> Probe:
        """The fact asked through `template` (its own by default)."""
        prompt = fill(self.template if template is None else template, self.subject)
        return Probe(prompt=prompt, target=self.object, aliases=self.object_aliases, kind=kind, subject=self.subject)

    def probes(self) -> tuple[Probe, ...]:
        """The fact in its own template, then in each paraphrase, then in each withheld template."""
        forms = [(self.template, "template")]
        forms += [(template, "paraphrase") for template in self.paraphrases]
        forms += [(template, "withheld") for template in self.withheld]
        return tuple(self.probe(template, kind=kind) for template, kind in forms)


class EditRequest(Record):
    """What shall be true after an edit, and every probe that shows what the edit did.

    paraphrases   generalisation: other forms of the edited prompt, right answer `target_new`
    portability   what else must change with it; keys "alias" (another name of the subject), "reasoning" (a fact
                  that follows through another one), "logical" (inverse, symmetric and the like)
    locality      what must not change; keys "relation" (same relation, other subjects), "subject" (same subject,
                  other relations), "distracting" (the edited statement put in front of an unrelated prompt),
                  "forgetfulness" (other true objects of the same subject and relation), "out_of_distribution"
    target_aliases  other forms of `target_new`, each as right
    case          requests of one case are meant to be applied together (MQuAKE asks one question about several edits)
    source        the data set that it came from

    Both mappings are read-only and sorted by key.
    """

    id: Text
    subject: Text
    relation: str | None = None
    template: Template
    target_new: Text
    target_true: str | None = None
    target_aliases: tuple[str, ...] = ()
    paraphrases: tuple[Probe, ...] = ()
    portability: Groups = FrozenDict()
    locality: Groups = FrozenDict()
    generation_prompts: tuple[str, ...] = ()
    case: str = ""
    source: str = ""

    def model_post_init(self, context: Any, /) -> None:
        for name, allowed in (("portability", PORTABILITY), ("locality", LOCALITY)):
            unknown = sorted(set(getattr(self, name)) - set(allowed))
            if unknown:
                raise ValueError(f"unknown {name} group {unknown[0]!r}; the groups are {', '.join(allowed)}")

    @property
    def prompt(self) -> str:
        """The template with the subject in place."""
        return fill(self.template, self.subject)

    def probe(self) -> Probe:
        """The edit itself as a probe: its prompt, answered by `target_new`."""
        return Probe(
            prompt=self.prompt, target=self.target_new, aliases=self.target_aliases, kind="edit", subject=self.subject
        )

    def with_distracting(self) -> EditRequest:
        """The same request with the edited statement put in front of each probe of locality "relation".

        A model that merely repeats what stands in its context fails these and passes the plain ones.
        """
        statement = f"{self.prompt} {self.target_new}. "
        probes = tuple(
            probe.model_copy(update={"prompt": statement + probe.prompt, "kind": f"distracting:{probe.kind}"})
            for probe in self.locality.get("relation", ())
        )
        locality = FrozenDict(sorted({**self.locality, "distracting": probes}.items()))
        return self.model_copy(update={"locality": locality}) if probes else self

    def groups(self) -> Iterator[tuple[str, str, Probe]]:
        """(metric group, subgroup, probe) for every probe of the request, in a fixed order."""
        yield "reliability", "edit", self.probe()
        for probe in self.paraphrases:
            yield "generalisation", "paraphrase", probe
        for group in ("portability", "locality"):
            for subgroup, probes in getattr(self, group).items():
                for probe in probes:
                    yield group, subgroup, probe
