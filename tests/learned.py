"""MEND and KnowledgeEditor, learned for the taught tiny models in a second or two."""

from __future__ import annotations

from functools import cache

from known import ANSWERS, FACTS, TEMPLATES
from paramem.editing import knowledge_editor, mend
from paramem.editing.meta_training import Schedule
from paramem.editing.trained import Trained
from paramem.facts import EditRequest, fill
from paramem.models import LM

LAYER = 1


@cache
def training_edits() -> tuple[EditRequest, ...]:
    """Every fact of the tiny models, to be changed into another subject's answer."""
    edits = []
    for fact in FACTS:
        objects = sorted({row[str(fact.relation)] for row in ANSWERS.values() if str(fact.relation) in row})
        new = next(each for each in objects if each != fact.object)
        wordings = [fill(form, fact.subject) for form in TEMPLATES[str(fact.relation)][1:]]
        probes = [{"prompt": wording, "target": new, "subject": fact.subject} for wording in wordings]
        named = {"id": fact.id, "subject": fact.subject, "relation": fact.relation, "template": fact.template}
        edits.append(
            EditRequest.model_validate(named | {"target_new": new, "target_true": fact.object, "paraphrases": probes})
        )
    return tuple(edits)


@cache
def tiny_mend(lm: LM) -> Trained:
    schedule = Schedule(steps=40, edits=8, unrelated=2, lr=5e-3, warmup=5)
    return mend.train(
        lm, training_edits(), mend.MendTraining(layers=(LAYER,), rank=3, step_size=0.01, schedule=schedule)
    )


@cache
def tiny_ke(lm: LM) -> Trained:
    schedule = Schedule(steps=40, edits=8, unrelated=2, lr=1e-2, warmup=5)
    sizes = {"hidden": 6, "condition": 6, "inner": 4, "bound": 0.2}
    return knowledge_editor.train(
        lm, training_edits(), knowledge_editor.KnowledgeEditorTraining(layers=(LAYER,), schedule=schedule, **sizes)
    )
