"""Readers: every published schema (samples are invented), every way a file can be bad, and nothing lost in silence."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from paramem.errors import BadInput, BadParameter, BadRecord, HubUnavailable
from paramem.facts import EditRequest, Probe
from paramem.readers import FORMATS, UnreadFields, read, read_facts, read_requests, write
from paramem.readers.ripple import FORMS, splits

RECORDS = Path(__file__).parent / "data" / "records"
PUBLISHED = sorted(path.stem for path in RECORDS.glob("*.json"))
EDITS = [name for name in PUBLISHED if FORMATS[name].requests]


def raw(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def saved(folder: Path, content: Any, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def every_probe(request: EditRequest) -> list[Probe]:
    return [probe for _, _, probe in request.groups()]


def texts(value: Any) -> set[str]:
    """Every text of a JSON value that is a prompt or a sentence (more than three words)."""
    if isinstance(value, dict):
        return set().union(*(texts(item) for item in value.values()), set())
    if isinstance(value, list):
        return set().union(*(texts(item) for item in value), set())
    return {value} if isinstance(value, str) and value.count(" ") > 2 else set()


def test_there_is_a_sample_of_every_published_format() -> None:
    assert set(FORMATS) - set(PUBLISHED) == {"zsre-rome", "facts", "requests"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_sample_is_recognised_and_fully_read(name: str) -> None:
    reading = read(RECORDS / f"{name}.json")
    assert reading.format == name
    assert reading.requests or reading.facts
    assert not reading.unread
    assert not reading.skipped


@pytest.mark.parametrize("name", EDITS)
def test_a_field_that_the_reader_does_not_know_is_reported(name: str, tmp_path: Path) -> None:
    content = raw(name)
    records = content if isinstance(content, list) else content["success"]
    records[0]["surprise"] = [{"prompt": "p", "ground_truth": "t"}]
    path = saved(tmp_path, content)
    assert read(path).unread == {"surprise": 1}
    with pytest.warns(UnreadFields, match="surprise"):
        read_requests(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_requests(RECORDS / f"{name}.json")


@pytest.mark.parametrize("name", ["wikidata_recent", "wikidata_counterfact", "knowedit_zsre"])
def test_a_probe_group_that_the_reader_does_not_know_is_reported(name: str, tmp_path: Path) -> None:
    content = raw(name)
    content[0]["locality"]["Weather_Specificity"] = [{"prompt": "It rains in", "ground_truth": ["Hask"]}]
    assert read(saved(tmp_path, content)).unread == {"locality.Weather_Specificity": 1}


@pytest.mark.parametrize("name", EDITS)
def test_every_prompt_of_the_file_is_in_the_requests(name: str) -> None:
    left_out = {"cond", "orig", "text", "question"}  # restated elsewhere, or a second wording of a hop
    kept = set()
    for request in read_requests(RECORDS / f"{name}.json"):
        probes = [inner for probe in every_probe(request) for inner in (probe, *probe.requires)]
        kept |= {probe.prompt for probe in probes} | {answer for probe in probes for answer in probe.answers}
        kept |= {request.prompt, request.template, request.target_true, *request.generation_prompts}
    content = raw(name)
    records = content if isinstance(content, list) else [*content["success"], *content["locality"]]
    wanted = {text for record in records for key, item in record.items() if key not in left_out for text in texts(item)}
    if name in ("mquake", "rippleedits", "zsre"):  # question forms of hops, full statements, missing question marks
        wanted = {text for text in wanted if not text.endswith(("?", ".")) and not text.startswith("nq question")}
    assert wanted <= kept


def test_templates_give_the_published_prompt_back() -> None:
    for name, field in (("zsre", "src"), ("wikidata_recent", "prompt"), ("wikibio", "text")):
        prompts = [request.prompt for request in read_requests(RECORDS / f"{name}.json")]
        assert prompts == [record[field] for record in raw(name)]


def test_counterfact_keeps_the_two_kinds_of_neighbour_apart() -> None:
    request = read_requests(RECORDS / "counterfact.json")[0]
    truths = {probe.kind: probe.target for probe in request.locality["relation"]}
    assert truths == {"neighborhood_prompts": "flute", "attribute_prompts": "viola"}
    assert {probe.target for probe in request.paraphrases} == {"viola"}


def test_the_same_zsre_file_read_in_its_two_published_ways() -> None:
    mend, rome = (read_requests(RECORDS / "zsre.json", format=name)[0] for name in ("zsre", "zsre-rome"))
    assert (mend.target_new, mend.target_true) == ("River Tove", "River Ardle")
    assert (rome.target_new, rome.target_true) == ("River Ardle", None)


def test_relation_specificity_is_about_the_same_subject() -> None:
    request = read_requests(RECORDS / "wikidata_counterfact.json")[0]
    assert set(request.locality) == {"subject", "forgetfulness"}
    assert set(request.portability) == {"alias"}


def test_nested_answers_become_one_target_and_its_aliases() -> None:
    (probe,) = read_requests(RECORDS / "wikidata_recent.json")[0].portability["logical"]
    assert probe.answers == ("no", "false", "is dead")


def test_requests_of_one_mquake_case_belong_together() -> None:
    first, last = read_requests(RECORDS / "mquake.json", limit=1)
    assert first.case == last.case != ""
    assert not first.portability
    question = last.portability["reasoning"][0]
    assert question.answers == ("Hask", "Hask City")
    assert [hop.target for hop in question.requires] == ["Ilse Varga", "Sudmark", "Mirhaven"]
    # The edited hops are the edits themselves, the one that is not edited must stay.
    assert [probe.prompt for probe in last.locality["out_of_distribution"]] == ["The head of Kestrel Works is"]


def test_ripple_sentences_are_split_by_what_the_entry_knows() -> None:
    assert len(splits("The mother tongue of Ada is Welsh is Welsh.", FORMS["NATIVE_LANGUAGE"])) == 2
    request = read_requests(RECORDS / "rippleedits.json")[0]
    assert (request.subject, request.target_new, request.target_true) == ("Ada is Welsh", "Welsh", "Breton")
    assert request.target_aliases == ("Cymraeg",)
    assert [probe.test for probe in request.portability["logical"]] == ["Logical_Generalization:0/AND"] * 2
    assert request.locality["subject"][0].requires[0].target == "Nia Rhos"


def test_every_ripple_form_splits_what_it_builds() -> None:
    for form in FORMS.values():
        assert ("Lena Arkwright", "Hask") in splits(form.replace("{}", "Lena Arkwright") + " Hask.", form)
        assert splits("Nobody said this.", form) == ()


def test_sentiments_alternate_and_other_topics_have_no_right_answer() -> None:
    requests = read_requests(RECORDS / "convsent.json")
    assert [request.relation for request in requests] == ["pos", "neg", "pos"]
    assert all(probe.target == "" for request in requests for probe in request.locality["relation"])
    assert all(request.subject not in probe.prompt for request in requests for probe in request.locality["relation"])


def test_every_retained_question_is_probed_exactly_once() -> None:
    requests = read_requests(RECORDS / "sanitation.json")
    asked = [probe.prompt for request in requests for probe in request.locality["out_of_distribution"]]
    assert sorted(asked) == sorted(record["question"] for record in raw("sanitation")["locality"])


def test_known_facts_take_the_template_from_the_prompt() -> None:
    first, second = read_facts(RECORDS / "known_1000.json")
    assert first.template == "{} is a mountain in"
    assert (second.prompt, second.object) == ("Kestrel Works is based in", "Hask")
    with pytest.raises(BadInput, match="read_facts"):
        read_requests(RECORDS / "known_1000.json")


def test_a_file_of_edits_also_gives_the_facts_before_them() -> None:
    facts = read_facts(RECORDS / "counterfact.json")
    assert [fact.object for fact in facts] == ["flute", "double bass"]
    assert facts[0].paraphrases[1] == "{}, a player of the"
    assert read_facts(RECORDS / "wikidata_recent.json") == ()  # insertions have no old answer


def test_written_records_are_read_back(tmp_path: Path) -> None:
    requests = tuple(request for name in EDITS for request in read_requests(RECORDS / f"{name}.json"))
    facts = read_facts(RECORDS / "known_1000.json") + read_facts(RECORDS / "relations.json")
    write(tmp_path / "both.json", facts=facts, requests=requests)
    assert read_requests(tmp_path / "both.json", format="requests") == requests
    assert read_facts(tmp_path / "both.json", format="facts") == facts
    lines = "\n".join(request.model_dump_json() for request in requests)
    assert read_requests(saved(tmp_path, lines, "lines.jsonl")) == requests


def change(name: str, **fields: Any) -> list[Any]:
    records = raw(name)
    records[-1] |= fields
    return list(records)


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ('[{"a": ', "not JSON .* line 1, column"),
    "LFS pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "not a list": ("7", "expected a list of records, found int"),
    "no record": ("[]", "no record"),
    "unknown format": ([{"colour": "red"}], "no format has records like these .fields colour"),
    "a record that is no object": ([*raw("zsre"), "text"], "record 0, .*no format has records like these"),
    "missing field": (change("zsre", rephrase=None, loc_ans=None), "record 1, field 'loc_ans': there is no answer"),
    "wrong type": (change("zsre", src=["a"]), "record 1, field 'src': expected a text, found list"),
    "wrong type of a group": (change("wikidata_counterfact", locality=3), "field 'locality': expected an object"),
    "template without subject": (change("zsre", subject="Nobody"), "record 1, field 'src': the subject 'Nobody'"),
    "two placeholders": (change("wikidata_recent", prompt="{} or {}"), "2 placeholders"),
    "empty target": (change("zsre", alt=" "), "record 1, field 'alt': the text is empty"),
    "empty answers": (change("zsre", answers=[[""]]), "field 'answers': there is no answer"),
    "number for a truth value": (change("zsre", answers=True), "expected an answer or a list"),
    "duplicate ids": (raw("counterfact") * 2, "record 2, field 'id': 'counterfact:0' is also the id of record 0"),
    "unknown relation": (
        [{"example_type": "recent", "edit": {"prompt": "x", "relation": "SHOE"}}],
        "field 'edit.relation': 'SHOE'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_file_record_field_and_reason(case: str, tmp_path: Path) -> None:
    content, reason = BAD[case]
    with pytest.raises(BadRecord, match=reason) as caught:
        read(saved(tmp_path, content))
    assert "data.json" in str(caught.value)


def test_a_bad_line_of_a_long_file_is_named_and_the_lines_before_it_can_be_had(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in raw("zsre")]
    path = saved(tmp_path, "\n".join([*lines, "{oops"]), "data.jsonl")
    with pytest.raises(BadRecord, match="record 2, field '\\(line\\)': not JSON"):
        read_requests(path)
    assert len(read_requests(path, limit=2)) == 2


def test_bytes_that_are_not_text_and_files_that_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "packed.json").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(BadRecord, match=r"not UTF-8.*unpack"):
        read(tmp_path / "packed.json")
    with pytest.raises(BadRecord, match=r"more than the 0\.0 MiB.*jsonl"):
        read(RECORDS / "zsre.json", max_bytes=10)
    saved(tmp_path, "[" * 200_000, "deep.json")
    with pytest.raises(BadRecord, match=r"nested too deeply|not JSON"):
        read(tmp_path / "deep.json")


def test_skipping_keeps_the_good_records_and_names_the_bad_ones(tmp_path: Path) -> None:
    path = saved(tmp_path, change("zsre", alt=""))
    reading = read(path, on_bad="skip")
    assert len(reading.requests) == 1
    assert [error.record for error in reading.skipped] == [1]
    assert "alt" in reading.describe()


def test_a_missing_field_is_named_with_the_format_that_wants_it(tmp_path: Path) -> None:
    whole = {"subject": "Ann", "prompt": "Ann was born in", "target_new": "Lyon"}
    assert read(saved(tmp_path, [whole])).format == "wikidata_recent", "the control: nothing is missing"
    short = {key: value for key, value in whole.items() if key != "target_new"}
    with pytest.raises(BadRecord, match=r"it could be wikidata_recent without target_new, or .*Add what is missing"):
        read(saved(tmp_path, [short]))
    with pytest.raises(BadRecord) as other:
        read(saved(tmp_path, [{"colour": "red"}]))
    assert "could be" not in str(other.value), "a record that shares no field is near to nothing"


def test_records_that_fit_two_formats_must_be_named(tmp_path: Path) -> None:
    both = raw("zsre")[0] | raw("wikibio")[0]
    with pytest.raises(BadRecord, match=r"more than one format.*zsre, wikibio"):
        read(saved(tmp_path, [both]))
    assert read(saved(tmp_path, [both]), format="zsre").format == "zsre"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"format": "csv"}, "no format 'csv'"), ({"limit": 0}, "limit is 0"), ({"on_bad": "ignore"}, "'raise' or 'skip'")],
)
def test_bad_arguments(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadParameter, match=reason):
        read(RECORDS / "zsre.json", **arguments)


def test_limit_counts_records() -> None:
    assert len(read_requests(RECORDS / "convsent.json", limit=2)) == 2


def test_a_folder_stands_for_its_only_data_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    saved(tmp_path / "inner", raw("zsre"))
    saved(tmp_path, "not data", "readme.txt")
    assert len(read_requests(tmp_path)) == 2
    saved(tmp_path, raw("zsre"), "other.json")
    with pytest.raises(BadInput, match=r"2 data files .*name one"):
        read_requests(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match=r"holds no \.json"):
        read_requests(tmp_path / "none")


@pytest.mark.parametrize("name", ["missing.json", "folder/missing.jsonl", "nothing", "no such thing"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        read_requests(name)


@pytest.mark.parametrize("name", ["nobody/no-such-set", "nobody/no-such-set:folder/test.json"])
def test_a_hub_id_without_a_network_fails_fast(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("paramem.hub.hub_reachable", lambda: False)
    started = time.perf_counter()
    with pytest.raises(HubUnavailable, match=r"nobody/no-such-set.*hf download"):
        read_requests(name)
    assert time.perf_counter() - started < 2


def test_a_hub_id_in_the_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramem.readers.files.snapshot", lambda repo, **_: RECORDS)
    assert len(read_requests("somebody/edits:zsre.json")) == 2
    with pytest.raises(BadInput, match="data files"):
        read_requests("somebody/edits")


def test_tables_are_read_like_json(tmp_path: Path) -> None:
    import pandas as pd

    common = {"attribute": "Lyon", "template": "{} was born in", "prediction": " Lyon", "relation_id": "P19"}
    names = ["Ann Berg", "Bo Lind"]
    records = [common | {"known_id": i, "subject": n, "prompt": f"{n} was born in"} for i, n in enumerate(names)]
    (tmp_path / "facts.json").write_text(json.dumps(records), encoding="utf-8")
    pd.DataFrame(records).to_parquet(tmp_path / "facts.parquet")
    pd.DataFrame(records).to_csv(tmp_path / "facts.csv", index=False)
    plain = read_facts(tmp_path / "facts.json", format="known_1000")
    assert [fact.subject for fact in plain] == ["Ann Berg", "Bo Lind"]
    for name in ("facts.parquet", "facts.csv"):
        assert read_facts(tmp_path / name, format="known_1000") == plain
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadRecord, match="not a parquet file"):
        read_facts(tmp_path / "broken.parquet", format="known_1000")
