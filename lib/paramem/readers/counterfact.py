"""CounterFact (meng2022rome), the MEND evaluation file of zsRE (mitchell2022mend), MQuAKE (zhong2023mquake).

CounterFact        neighborhood_prompts  other subjects for which the old object is right  -> locality "relation"
                   attribute_prompts     other subjects for which the new object is right  -> locality "relation"
zsRE               rephrase              -> paraphrase      loc, loc_ans (Natural Questions) -> "out_of_distribution"
MQuAKE             questions             -> portability "reasoning" of the case's last request; `single_hops` is
                                            what the unedited model must answer for the question to count
                   new_single_hops       -> a paraphrase where it asks an edited fact, else "out_of_distribution"
                                            (hops in their cloze form, the one in which the edits are stated)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paramem.facts import EditRequest, Probe
from paramem.readers.formats import Context, Format, probe
from paramem.readers.records import Row


def _rewrite(row: Row) -> dict[str, Any]:
    """The fields that a `requested_rewrite` gives an EditRequest."""
    for side in ("target_new", "target_true"):
        if side in row:
            row.row(side).ignore("id")
    template, subject = row.split(row.text("prompt"), row.text("subject"), "prompt")
    return {
        "subject": subject,
        "relation": row.text_or("relation_id"),
        "template": template,
        "target_new": row.row("target_new").text("str"),
        "target_true": row.row("target_true").text("str") if "target_true" in row else None,
    }


def _counterfact(row: Row, context: Context) -> Iterator[EditRequest]:
    row.ignore("pararel_idx")
    fields = _rewrite(row.row("requested_rewrite"))
    new, true, subject = fields["target_new"], fields["target_true"], fields["subject"]
    around = [probe(text, [true] if true else [], "neighborhood_prompts") for text in row.texts("neighborhood_prompts")]
    around += [probe(text, [new], "attribute_prompts") for text in row.texts("attribute_prompts")]
    yield EditRequest(
        id=f"counterfact:{row.text('case_id')}",
        paraphrases=tuple(
            probe(text, [new], "paraphrase_prompts", subject) for text in row.texts("paraphrase_prompts")
        ),
        locality={"relation": tuple(around)} if around else {},
        generation_prompts=row.texts("generation_prompts"),
        source="counterfact",
        **fields,
    )


def _zsre(row: Row, target: str) -> Iterator[EditRequest]:
    row.ignore("pred", "cond", "case_id")
    answers = row.answers("answers")
    new = row.text("alt") if target == "alt" else answers[0]
    row.ignore("alt")
    template, subject = row.split(row.text("src"), row.text("subject"), "src")
    question = row.text_or("loc")
    loc = () if question is None else (probe(_asked(question), row.answers("loc_ans"), "loc"),)
    rephrase = row.text_or("rephrase")
    yield EditRequest(
        id=f"zsre:{row.index}",
        subject=subject,
        template=template,
        target_new=new,
        target_true=answers[0] if target == "alt" else None,
        target_aliases=() if target == "alt" else answers[1:],
        paraphrases=() if rephrase is None else (probe(rephrase, [new], "rephrase", subject),),
        locality={"out_of_distribution": loc} if loc else {},
        source="zsre",
    )


def _asked(question: str) -> str:
    """The file's Natural Questions lack their question mark."""
    return question if question.endswith("?") else question + "?"


def _hop(row: Row) -> Probe:
    row.ignore("question")
    answers = (row.text("answer"), *row.texts("answer_alias"))
    return probe(row.text("cloze"), tuple(dict.fromkeys(answers)), row.path.split("[")[0])


def _mquake(row: Row, context: Context) -> Iterator[EditRequest]:
    row.ignore("orig", "answer", "answer_alias", "answer_extended")
    case = f"mquake:{row.text('case_id')}"
    hops = tuple(_hop(inner) for inner in row.rows("single_hops"))
    answers = tuple(dict.fromkeys((row.text("new_answer"), *row.texts("new_answer_alias"))))
    multi_hop = tuple(probe(text, answers, "questions", requires=hops) for text in row.texts("questions"))
    rewrites = row.rows("requested_rewrite")
    if not rewrites:
        row.fail("requested_rewrite", "the list is empty; there is nothing to edit")
    new_hops = [_hop(inner) for inner in row.rows("new_single_hops")]
    for place, rewrite in enumerate(rewrites):
        fields = _rewrite(rewrite)
        question = rewrite.text_or("question")
        edited = fields["template"].replace("{}", fields["subject"])
        asked = [hop for hop in new_hops if hop.prompt == edited]
        new_hops = [hop for hop in new_hops if hop.prompt != edited]
        forms = [] if question is None else [probe(question, [fields["target_new"]], "question", fields["subject"])]
        last = place == len(rewrites) - 1
        yield EditRequest(
            id=f"{case}.{place}",
            case=case,
            target_aliases=asked[0].aliases if asked else (),
            paraphrases=tuple(forms),
            portability={"reasoning": multi_hop} if last and multi_hop else {},
            locality={"out_of_distribution": tuple(new_hops)} if last and new_hops else {},
            source="mquake",
            **fields,
        )


def _one_rewrite(record: Mapping[str, Any]) -> bool:
    return isinstance(record["requested_rewrite"], Mapping)


FORMATS = (
    Format(
        name="counterfact",
        title="CounterFact",
        keys=("requested_rewrite",),
        without=("single_hops", "new_single_hops"),
        agrees=_one_rewrite,
        requests=_counterfact,
    ),
    Format(
        name="zsre",
        title="zsRE, the evaluation file of MEND; edits to `alt`, as MEND does",
        keys=("subject", "src", "alt", "answers"),
        requests=lambda row, context: _zsre(row, "alt"),
    ),
    Format(
        name="zsre-rome",
        title="the same file; edits to the first of `answers`, as ROME does",
        keys=("subject", "src", "answers"),
        requests=lambda row, context: _zsre(row, "answers"),
        guessed=False,
    ),
    Format(
        name="mquake",
        title="MQuAKE-CF and MQuAKE-T",
        keys=("requested_rewrite", "questions", "new_answer"),
        agrees=lambda record: not _one_rewrite(record),
        requests=_mquake,
    ),
)
