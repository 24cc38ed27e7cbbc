"""One edit, tried out: what the model says before and after, near by and in the whole world.

    bench = EditBench.of(lm, facts, materials)
    tried = bench.attempt("rome", bench.typed("Odette Ibsen plays the", "Odette Ibsen", "cello"), layer=0)
    tried.answers                    # the edit, its wordings, its consequences, the subject's and the relation's others
    ripple_strips(*tried.strips())   # every fact of the world

What cannot be done raises an error of one readable sentence, and leaves the model as it is.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from paramem.benchmarking.configurations import configuration_of
from paramem.errors import BadParameter, EmptyTarget
from paramem.evaluation.ripple import Asked, ask_all, ripple, shares
from paramem.evaluation.ripple_map import CLASSES, by_class, cells
from paramem.facts import EditRequest, Fact, Probe, fill
from paramem.models import LM
from paramem.registry import method

if TYPE_CHECKING:
    from paramem.benchmarking import Materials

NEAR = 3  # other facts of the subject, and of the relation, that are shown
WORDS = 6  # tokens of an answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """An edit that was made, asked and taken off again.

    answers  one row a question: kind, prompt, before, after
    moved    every fact of the world, as `ripple` returns it
    """

    request: EditRequest
    editor: str
    answers: pd.DataFrame
    moved: pd.DataFrame

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        edit = self.answers.iloc[0]
        others = self.moved[(self.moved["shares"] != "fact") & self.moved["correct_before"]]
        changed = int((~others["same"].astype(bool)).sum())
        return (
            f"{self.editor}: {self.request.prompt} {edit['before']!r} -> {edit['after']!r} "
            f"(wanted {self.request.target_new!r}); {changed} of {len(others)} other facts changed their answer"
        )

    def strips(self) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, dict[str, str], str]:
        """The first four arguments of `plots.ripple_strips`."""
        found = by_class(self.moved.assign(edit=self.request.id))
        bars = found.assign(editor=self.editor, mean=found["moved"], low=found["moved"], high=found["moved"])
        return {self.editor: cells(self.moved, self.request)}, bars, dict(CLASSES), self.sentence


@dataclass(frozen=True, kw_only=True, eq=False)
class EditBench:
    """A model with its world, asked once."""

    lm: LM
    facts: tuple[Fact, ...]
    materials: Materials
    asked: Asked

    @classmethod
    def of(cls, lm: LM, facts: Sequence[Fact], materials: Materials) -> EditBench:
        """Ask every fact in its own template."""
        return cls(lm=lm, facts=tuple(facts), materials=materials, asked=ask_all(lm, facts))

    def typed(self, prompt: str, subject: str, new: str) -> EditRequest:
        """The request that somebody means by a prompt, its subject and a new object.

        Where the prompt is a known fact in one of its wordings, the fact's relation, old object and other wordings come
        with it. Raises SubjectNotInPrompt, EmptyTarget.
        """
        prompt, subject, new = prompt.strip(), subject.strip(), new.strip()
        self.lm.subject_span(prompt, subject)
        if not new:
            raise EmptyTarget(f"{prompt!r} has an empty target: say what shall be true.")
        known = self._fact(prompt, subject)
        if known is None:
            template = prompt.replace(subject, "{}", 1)
            return EditRequest(id="typed", subject=subject, template=template, target_new=new)
        forms = [
            form for form in (known.template, *known.paraphrases, *known.withheld) if fill(form, subject) != prompt
        ]
        return EditRequest(
            id=known.id,
            subject=subject,
            relation=known.relation,
            template=prompt.replace(subject, "{}", 1),
            target_new=new,
            target_true=known.object,
            paraphrases=tuple(Probe(prompt=fill(form, subject), target=new) for form in forms),
        )

    def attempt(
        self, editor: str, request: EditRequest, *, layer: int, settings: str | dict[str, Any] | None = None
    ) -> Tried:
        """Make one edit with the editor's fixed configuration and these settings, ask, and take it off.

        settings: values other than the default ones, as a mapping or as typed ("steps=40, clamp=2.0").
        """
        how = method(editor)
        given = configuration_of(editor).arguments(how, self.lm, layer)
        given |= read_settings(settings) if isinstance(settings, str) else settings or {}
        edit = how.edit(self.lm, request, texts=self.materials.texts, facts=self._unedited(request), **given)
        questions = self._questions(request)
        prompts = [prompt for _, prompt in questions]
        before = self.lm.generate(prompts, max_new_tokens=WORDS, stop=".")
        with edit.applied(self.lm) as edited:
            after = edited.generate(prompts, max_new_tokens=WORDS, stop=".")
        answers = pd.DataFrame(questions, columns=["kind", "prompt"]).assign(
            before=[text.strip() for text in before], after=[text.strip() for text in after]
        )
        moved = ripple(self.lm, self.facts, edit, request=request, before=self.asked)
        return Tried(request=request, editor=how.title, answers=answers, moved=moved)

    def _fact(self, prompt: str, subject: str) -> Fact | None:
        for fact in self.facts:
            if fact.subject == subject and any(probe.prompt == prompt for probe in fact.probes()):
                return fact
        return None

    def _unedited(self, request: EditRequest) -> list[Fact]:
        return [fact for fact in self.materials.facts if fact.subject != request.subject]

    def _questions(self, request: EditRequest) -> list[tuple[str, str]]:
        """(kind, prompt): the edit, its other wordings, what follows from it, and a few facts beside it."""
        questions = [("edit", request.prompt)] + [("other wording", probe.prompt) for probe in request.paraphrases]
        beside: dict[str, list[str]] = {"subject": [], "relation": []}
        for fact in self.facts:
            kind = shares(fact, request)
            if kind == "fact":
                questions += [("two steps on", probe.prompt) for probe in fact.consequences]
            elif kind in beside:
                beside[kind].append(fact.prompt)
        for kind, prompts in beside.items():
            questions += [(f"same {kind}", prompt) for prompt in prompts[:NEAR]]
        return questions


def read_settings(text: str) -> dict[str, Any]:
    """Settings as typed, such as "steps=40, keys='original'". Raises BadParameter for anything but name=value pairs."""
    if not text.strip():
        return {}
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("more than one call")
        if call.args or any(pair.arg is None for pair in call.keywords):
            raise ValueError("a value without a name")
        return {str(pair.arg): ast.literal_eval(pair.value) for pair in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise BadParameter(
            f"settings {text!r} cannot be read: write name=value with commas between, as in steps=40, clamp=2.0"
        ) from error
