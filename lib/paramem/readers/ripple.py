"""RippleEdits (cohen2023ripple): one edit with six groups of tests, each test with conditions on the unedited model.

The published entry states the edit as a sentence ("The mother tongue of Ada is Welsh.") and names subject and object by
Wikidata ids only. The sentence is one fixed form per relation, `FORMS`, so subject and object are found by matching it;
where more than one split fits (a subject that contains " is "), the previous fact, which has the same subject, and the
answers that the entry lists for the object's id decide.

A test with several queries is passed by any ("OR") or by all ("AND") of them: `Probe.test`. `condition_queries` become
`Probe.requires`.
"""

from __future__ import annotations

from collections.abc import Iterator

from paramem.facts import EditRequest, Probe
from paramem.readers.formats import Context, Format, group_of, probe
from paramem.readers.records import Row

# relation -> the sentence before the object, read from the set's own builder (edenbiran/RippleEdits, src/relation.py)
_OF = {
    "The name of the {} of": "mother father brother sister spouse uncle aunt child stepfather stepmother employer "
    "author editor director screenwriter architect composer founder anthem alma_mater field_of_work "
    "country_of_citizenship head_of_government head_of_state",
    "The {} of": "place_of_birth place_of_death place_of_burial date_of_birth date_of_death sexual_orientation "
    "occupation eye_color official_language",
}
FORMS: dict[str, str] = {
    name.upper(): f"{start.replace('{}', name.replace('_', ' '))} {{}} is"
    for start, names in _OF.items()
    for name in names.split()
} | {
    "SIBLING": "The names of the siblings of {} are",
    "CAST_MEMBER": "The names of the cast members of {} are",
    "NUMBER_OF_CHILDREN": "The number of children {} has is",
    "SEX_OR_GENDER": "The gender of {} is",
    "COUNTRY": "The name of the country which {} is associated with is",
    "POSITION_HELD": "The name of the position held by {} is",
    "MEMBER_OF_SPORTS_TEAM": "The name of the sports team which {} is a member of is",
    "LEAGUE": "The name of the league which {} plays in is",
    "NATIVE_LANGUAGE": "The mother tongue of {} is",
    "AWARD_RECEIVED": "The name of the award {} won is",
    "FOLLOWS": "{} follows",
    "FOLLOWED_BY": "{} is followed by",
    "ETHNIC_GROUP": "The name of the ethnic group which {} is associated with is",
    "RELIGION": "The name of the religion which {} is associated with is",
    "CONTINENT": "The name of the continent which {} is part of is",
    "CAPITAL": "The name of the capital city of {} is",
    "CURRENCY": "The name of the currency in {} is",
    "LIKELY_ANTHEM": "The name of the anthem that is most likely to be performed in {} is",
    "CAPITAL_OF": "The name of the country which {} is the capital of is",
}

Split = tuple[str, str]


def splits(statement: str, form: str) -> tuple[Split, ...]:
    """Every (subject, object) for which `form` with the subject, a blank, the object and a full stop is the statement.

    >>> splits("The mother tongue of Ada is Welsh.", "The mother tongue of {} is")
    (('Ada', 'Welsh'),)
    """
    before, after = form.split("{}")
    body = statement.strip().removesuffix(".")
    if not body.startswith(before):
        return ()
    body, joint, found = body[len(before) :], f"{after} ", []
    place = body.find(joint)
    while place >= 0:
        subject, target = body[:place].strip(), body[place + len(joint) :].strip()
        if subject and target:
            found.append((subject, target))
        place = body.find(joint, place + 1)
    return tuple(found)


def _answers(query: Row) -> tuple[str, ...]:
    """Every answer's value, then its aliases, in order."""
    texts: list[str] = []
    for answer in query.rows("answers"):
        texts += [text for text in (answer.text_or("value"), *answer.texts("aliases")) if text]
    return tuple(dict.fromkeys(texts))


def _query(query: Row, kind: str) -> Probe:
    query.ignore("query_type", "subject_id", "relation", "target_ids", "phrase", "second_relation")
    query.ignore("second_hop_target_ids")
    return probe(query.text("prompt"), _answers(query), kind)


def _test(test: Row, mark: str, kind: str, section: str) -> Iterator[Probe]:
    """The probes of one test. Its condition holds for each of them, and they are passed together or singly: `mark`."""
    condition = test.text_or("test_condition", "OR")
    if condition not in ("OR", "AND"):
        test.fail("test_condition", f"expected 'OR' or 'AND', found {condition!r}")
    requires = tuple(_query(query, "condition_queries") for query in test.rows("condition_queries"))
    for query in test.rows("test_queries"):
        found = _query(query, kind)
        if section == "portability" and not found.target:
            query.fail("answers", "there is no answer, so nothing can be right; leave it out with on_bad='skip'")
        yield found.model_copy(update={"requires": requires, "test": f"{mark}/{condition}"})


def _groups(row: Row) -> dict[str, dict[str, tuple[Probe, ...]]]:
    found: dict[str, dict[str, tuple[Probe, ...]]] = {"portability": {}, "locality": {}}
    for key in sorted(row.value):
        place = group_of(key)
        if place is None:
            continue
        section, subgroup = place
        tests = row.rows(key)
        probes = tuple(
            item for number, test in enumerate(tests) for item in _test(test, f"{key}:{number}", key, section)
        )
        if probes:
            found[section][subgroup] = found[section].get(subgroup, ()) + probes
    return found


def _of_object(row: Row, target_id: str) -> tuple[str, ...]:
    """What the entry's own queries call the entity `target_id`, where one of them asks for it alone."""
    for key in sorted(row.value):
        if group_of(key) is None:
            continue
        for test in row.value[key] or ():
            for query in test.get("test_queries", ()) if isinstance(test, dict) else ():
                asked = query.get("second_hop_target_ids") or query.get("target_ids")
                if asked in (target_id, [target_id]) and len(query.get("answers") or ()) == 1:
                    answer = query["answers"][0]
                    return tuple(dict.fromkeys([answer["value"], *answer.get("aliases", ())]))
    return ()


def _split(edit: Row, form: str, names: tuple[str, ...], previous: str | None) -> Split:
    candidates = splits(statement := edit.text("prompt"), form)
    if not candidates:
        edit.fail("prompt", f"{statement!r} does not have the form {form!r} of its relation")
    if previous is not None:
        subjects = {subject for subject, _ in splits(previous, form)}
        candidates = tuple(pair for pair in candidates if pair[0] in subjects) or candidates
    named = [pair for pair in candidates if pair[1] in names]
    return (named or list(candidates))[0]


def _ripple(row: Row, context: Context) -> Iterator[EditRequest]:
    row.ignore("example_type", "edit")
    edit = row.row("edit")
    relation = edit.text("relation")
    if (form := FORMS.get(relation)) is None:
        edit.fail("relation", f"{relation!r} is none of the {len(FORMS)} relations whose sentence form is known")
    names = _of_object(row, edit.text_or("target_id") or "")
    before = edit.row("previous_fact") if "previous_fact" in edit else None
    previous = None if before is None else before.text("prompt")
    subject, target = _split(edit, form, names, previous)
    old = None if previous is None else dict(splits(previous, form)).get(subject)
    edit.ignore("subject_id", "target_id", "previous_fact")
    if before is not None:
        before.ignore("subject_id", "relation", "target_id")
    groups = _groups(row)
    yield EditRequest(
        id=f"rippleedits:{row.index}",
        subject=subject,
        relation=relation,
        template=form,
        target_new=target,
        target_true=old,
        target_aliases=tuple(name for name in names if name != target),
        portability=groups["portability"],
        locality=groups["locality"],
        source=f"rippleedits {row.text_or('example_type') or ''}".strip(),
    )


FORMATS = (Format(name="rippleedits", title="RippleEdits", keys=("edit", "example_type"), requests=_ripple),)
