"""known_1000 (meng2022rome), the relation files of LRE (hernandez2024lre), and this package's own JSON.

The first two hold facts and no edits: `read_facts` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator

from paramem.facts import EditRequest, Fact
from paramem.readers.formats import Context, Format
from paramem.readers.records import Row


def _known(row: Row, context: Context) -> Iterator[Fact]:
    """The prompt decides the template: in 478 of the 1,209 published records `template` stops a word short of it."""
    row.ignore("prediction", "template")
    template, subject = row.split(row.text("prompt"), row.text("subject"), "prompt")
    yield Fact(
        id=f"known:{row.text('known_id')}",
        subject=subject,
        relation=row.text_or("relation_id") or "",
        object=row.text("attribute"),
        template=template,
    )


def _relation(row: Row, context: Context) -> Iterator[Fact]:
    """The first template asks the fact, the zero-shot ones are its paraphrases."""
    around = Row(context.around, file=row.file, index=row.index, unread=row.unread)
    first, *further = around.texts("prompt_templates") or (around.text("prompt_templates"),)
    templates = (*further, *around.texts("prompt_templates_zs"))
    name = around.text("name")
    yield Fact(
        id=f"{name}:{row.index}",
        subject=row.text("subject"),
        relation=name,
        object=row.text("object"),
        template=first,
        paraphrases=tuple(dict.fromkeys(template for template in templates if template != first)),
    )


def _own_fact(row: Row, context: Context) -> Iterator[Fact]:
    row.ignore(*row.value)
    yield Fact.model_validate(row.value)


def _own_request(row: Row, context: Context) -> Iterator[EditRequest]:
    row.ignore(*row.value)
    yield EditRequest.model_validate(row.value)


FORMATS = (
    Format(name="known_1000", title="known_1000", keys=("known_id", "prompt", "subject", "attribute"), facts=_known),
    Format(
        name="relations",
        title="one relation per file, as in LRE",
        keys=("subject", "object"),
        without=("template",),
        holds=("samples",),
        facts=_relation,
    ),
    Format(
        name="facts",
        title="facts as paramem writes them",
        keys=("id", "subject", "relation", "object", "template"),
        holds=("facts",),
        facts=_own_fact,
    ),
    Format(
        name="requests",
        title="edit requests as paramem writes them",
        keys=("id", "subject", "template", "target_new"),
        holds=("requests",),
        requests=_own_request,
    ),
)
