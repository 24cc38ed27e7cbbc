"""KnowEdit's six sets (zhang2024knowedit).

WikiData_recent, WikiData_counterfact and ZsRE share one schema: {subject, prompt, target_new, ground_truth?,
rephrase_prompt?, portability {Logical_Generalization, Reasoning, Subject_Aliasing}, locality {Relation_Specificity,
Forgetfulness}}, every group a list of {prompt, ground_truth}. WikiBio calls its fields {concept, text, labels,
locality}; ConvSent is {ent, pos, neg}; Sanitation is one object with two lists.

Their "Relation_Specificity" asks for other relations of the *same* subject: locality "subject" here. What CounterFact
calls neighbourhood, the same relation of *other* subjects, is locality "relation".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paramem.facts import EditRequest, Probe
from paramem.readers.formats import Context, Format, group_of, probe
from paramem.readers.records import Row

_SENTIMENT = ("pos", "neg")
# The question forms of the set's own script (EasyEdit, examples/run_convsent_llama2.py) follow two patterns.
_ASK = ("What do you think of {}?", "What do you feel about {}?", "How do you view {}?", "What is your opinion of {}?")


def _probes(group: Row, key: str, subject: str) -> Iterator[Probe]:
    """The probes of one published group, which is a list of records or one record with parallel lists."""
    if isinstance(group.value[key], Mapping):
        inner = group.row(key)
        prompts, truths = inner.texts("prompt"), inner.get("ground_truth", [])
        if not isinstance(truths, list) or len(truths) != len(prompts):
            inner.fail("ground_truth", f"{len(prompts)} prompts need a list of as many answers")
        for place, prompt in enumerate(prompts):
            answers = Row({"ground_truth": truths[place]}, file=group.file, index=group.index, unread=group.unread)
            yield _about(prompt, answers.answers("ground_truth"), key, subject)
        return
    for inner in group.rows(key):
        for prompt in inner.texts("prompt") or (inner.text("prompt"),):
            yield _about(prompt, inner.answers("ground_truth"), key, subject)


def _about(prompt: str, answers: tuple[str, ...], kind: str, subject: str) -> Probe:
    """A probe that names the subject only where its prompt does: an alias or a consequence need not."""
    return probe(prompt, answers, kind, subject if subject in prompt else None)


def _groups(row: Row, field: str, subject: str) -> dict[str, dict[str, tuple[Probe, ...]]]:
    """{"portability"|"locality": {subgroup: probes}}; a group whose name is not known stays unread and is reported."""
    found: dict[str, dict[str, tuple[Probe, ...]]] = {"portability": {}, "locality": {}}
    if field not in row:
        row.ignore(field)
        return found
    groups = row.row(field)
    for key in sorted(groups.value):
        place = group_of(key)
        if place is None:
            continue
        probes = tuple(_probes(groups, key, subject)) if key in groups else ()
        groups.ignore(key)
        if probes:
            section, subgroup = place
            found[section][subgroup] = found[section].get(subgroup, ()) + probes
    return found


def _facts_set(source: str) -> Any:
    def read(row: Row, context: Context) -> Iterator[EditRequest]:
        row.ignore("cond", "case_id", "id", "subject_id", "relation_id", "target_id", "type")
        target, *aliases = row.answers("target_new")
        template, subject = row.split(row.text("prompt"), row.text("subject"), "prompt")
        portability, locality = _groups(row, "portability", subject), _groups(row, "locality", subject)
        rephrased = row.texts("rephrase_prompt") + row.texts("rephrase")
        yield EditRequest(
            id=f"{source}:{row.index}",
            subject=subject,
            relation=row.text_or("relation"),
            template=template,
            target_new=target,
            target_aliases=tuple(aliases),
            target_true=row.answers("ground_truth")[0] if "ground_truth" in row else None,
            paraphrases=tuple(probe(text, [target, *aliases], "rephrase_prompt", subject) for text in rephrased),
            portability=portability["portability"],
            locality=locality["locality"],
            source=source,
        )

    return read


def _wikibio(row: Row, context: Context) -> Iterator[EditRequest]:
    template, subject = row.split(row.text("text"), row.text("concept"), "text")
    yield EditRequest(
        id=f"wikibio:{row.index}",
        subject=subject,
        template=template,
        target_new=row.text("labels"),
        locality=_groups(row, "locality", subject)["locality"],
        source="wikibio",
    )


def _convsent(row: Row, context: Context) -> Iterator[EditRequest]:
    """Even records are turned to "pos", odd ones to "neg"; the other subjects are the topics of the next records."""
    index = int(row.index)
    wanted, other = _SENTIMENT if index % 2 == 0 else _SENTIMENT[::-1]
    topic, answers, against = row.text("ent"), row.answers(wanted), row.answers(other)
    others = [context.row((index + step) % len(context.records), row).text("ent") for step in (1, 2)]
    around = tuple(
        probe(ask.replace("{}", text), (), "outer_topic", text)
        for text in dict.fromkeys(others)
        if text != topic
        for ask in _ASK[:2]
    )
    yield EditRequest(
        id=f"convsent:{row.index}",
        subject=topic,
        relation=wanted,
        template=_ASK[0],
        target_new=answers[0],
        target_aliases=answers[1:],
        target_true=against[0],
        paraphrases=tuple(probe(ask.replace("{}", topic), answers, "question_form", topic) for ask in _ASK[1:]),
        locality={"relation": around} if around else {},
        generation_prompts=(_ASK[0].replace("{}", topic),),
        source="convsent",
    )


def _sanitation(row: Row, context: Context) -> Iterator[EditRequest]:
    """One request per question to forget; the retained questions are dealt out, so that each is probed exactly once."""
    index, total = int(row.index), len(context.records)
    question = row.text("question")
    # Only the training half names subjects; without one the whole question is what is edited.
    template, subject = row.split(question, row.text_or("subject") or question, "question")
    held: list[Any] = next((context.around[key] for key in ("K_R", "locality") if context.around.get(key)), [])
    retained = Row({"retained": held}, file=row.file, index=row.index, unread=row.unread).rows("retained")
    kept = []
    for other in retained[index::total]:
        kept.append(probe(other.text("question"), other.answers("ground_truth"), "retained", other.text_or("subject")))
        other.ignore("target_new")
        other.close()
    yield EditRequest(
        id=f"sanitation:{row.index}",
        subject=subject,
        template=template,
        target_new=row.text("target_new"),
        target_true=row.answers("ground_truth")[0],
        locality={"out_of_distribution": tuple(kept)} if kept else {},
        source="sanitation",
    )


_SHARED = ("subject", "prompt", "target_new")
_OTHERS = ("rephrase_prompt", "cond", "rephrase")

FORMATS = (
    Format(
        name="wikidata_recent",
        title="KnowEdit WikiData_recent (insertion: no old answer)",
        keys=_SHARED,
        without=("ground_truth", *_OTHERS, "template"),
        requests=_facts_set("wikidata_recent"),
    ),
    Format(
        name="wikidata_counterfact",
        title="KnowEdit WikiData_counterfact",
        keys=(*_SHARED, "ground_truth"),
        without=_OTHERS,
        requests=_facts_set("wikidata_counterfact"),
    ),
    Format(
        name="knowedit_zsre",
        title="KnowEdit ZsRE",
        keys=(*_SHARED, "ground_truth", "rephrase_prompt"),
        requests=_facts_set("knowedit_zsre"),
    ),
    Format(name="wikibio", title="KnowEdit WikiBio", keys=("text", "labels", "concept"), requests=_wikibio),
    Format(name="convsent", title="KnowEdit ConvSent", keys=("ent", "pos", "neg"), requests=_convsent),
    Format(
        name="sanitation",
        title="KnowEdit Sanitation",
        keys=("question", "ground_truth", "target_new"),
        holds=("success", "K_F"),
        requests=_sanitation,
    ),
)
