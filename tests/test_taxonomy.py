"""The taxonomy and the bibliography: what is wrong is refused with its place, and what is there agrees both ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import BIB, ENTRIES, edit_json, put_notebook
from paramem.bibliography import load_papers
from paramem.checks import check_files, check_literature, check_project
from paramem.errors import BadInput
from paramem.literature import check_links, check_papers
from paramem.project import Project
from paramem.taxonomy import load_taxonomy
from paramem.yamls import load_yaml


def test_the_small_checkout_reads(demo: Project) -> None:
    taxonomy, papers = load_taxonomy(demo), load_papers(demo)
    assert list(taxonomy.claims) == ["doe2022facts.works"]
    assert taxonomy.claims_of("editing/demo") == ("doe2022facts.works",)
    assert taxonomy.testbeds_of("editing/demo") == ("bed-a", "bed-b")
    assert taxonomy.testbeds_asked("doe2022facts.works") == ("bed-a", "bed-b")
    assert [name for name, _ in taxonomy.category_names()] == ["editing", "editing/locate-then-edit"]
    assert papers["doe2022facts"].cite() == "Doe and Roe 2022"
    assert papers["doe2022facts"].title == "Facts in a Box"
    assert (papers["doe2022facts"].posted, papers["doe2022facts"].link) == (2022, "https://arxiv.org/abs/2202.00001")
    assert not [finding for finding in check_papers(taxonomy, papers) if "method" not in finding.where]


def test_a_claim_is_counted_over_the_testbeds_that_can_decide_it(demo: Project) -> None:
    path = demo.taxonomy / "editing.yaml"
    path.write_text(ENTRIES.replace("notebook: editing/demo\n", "notebook: editing/demo\n      testbeds: [bed-b]\n"))
    taxonomy = load_taxonomy(demo)
    assert taxonomy.testbeds_asked("doe2022facts.works") == ("bed-b",)
    assert taxonomy.claims_of("editing/demo", "bed-b") == taxonomy.claims_of("editing/demo") != ()
    assert taxonomy.claims_of("editing/demo", "bed-a") == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "summary: Puts",
            "sumary: Puts",
            "entry doe2022facts: field sumary.*did you mean summary.*known: category",
        ),
        ("summary: Puts facts into a box.", "summary: ''", "field summary.*empty"),
        ("  summary: Puts facts into a box.\n", "", "field summary.*required"),
        ("summary: Puts facts into a box.", "summary: 3", "field summary, value 3: expected text; quote it"),
        ("value: 0.9", "value: high", r"field claims\.works\.reported\.0\.value, value 'high': expected a number"),
        ("notebook: editing/demo", "notebook: Editing/Demo", "lower-case names"),
        ("      notebook: editing/demo\n", "", "name the notebook that measures it"),
        ("where: Section 3\n", "where: Section 3\n      status: not attempted\n", "needs a reason"),
        ("where: Section 3\n", "where: Section 3\n      status: maybe\n", "not attempted"),
        ("      notebook: editing/demo\n", "      testbeds: [bed-a]\n", "testbeds go with a notebook"),
        ("notebooks: [editing/demo]", "links: {code: 'javascript:alert(1)'}", "http or https"),
        (
            "notebooks: [editing/demo]",
            "notebooks: [editing/demo]\n  links: {paper: https://x.org/a}",
            "links.paper follows",
        ),
        ("notebooks: [editing/demo]", "status: planed", "planned"),
        ("notebooks: [editing/demo]", "status: out of reach", "a reason goes with status: out of reach"),
        ("  computes: From facts, a box.\n", "", "field computes: the field is required; only a survey"),
        ("  notebooks: [editing/demo]\n", "", "name its notebooks, or set status"),
        ("notebooks: [editing/demo]", "notebooks: [editing/demo]\n  status: planned", "remove status: planned"),
        ("notebooks: [editing/demo]", "notebooks: editing/demo", "expected a list"),
        ("notebooks: [editing/demo]", "notebooks: [editing/demo]\n  contradicts: [x]", "expected a mapping"),
        ("says: The box", "sais: The box", "did you mean says.*known: says, origin, where"),
        ("doe2022facts:", "Doe 2022:", "is not a bib key"),
        ("where: Section 3", "where: Section 3\n      where: Section 4", "line 10.*'where' stands twice"),
    ],
)
def test_a_wrong_entry_is_refused_with_file_entry_field_and_remedy(
    demo: Project, old: str, new: str, message: str
) -> None:
    assert old in ENTRIES
    (demo.taxonomy / "editing.yaml").write_text(ENTRIES.replace(old, new, 1))
    with pytest.raises(BadInput, match=rf"(?s)editing\.yaml.*{message}"):
        load_taxonomy(demo)


def test_an_entry_stands_in_one_file(demo: Project) -> None:
    (demo.taxonomy / "more.yaml").write_text(ENTRIES)
    with pytest.raises(BadInput, match=r"more.yaml: entry doe2022facts: stands in editing.yaml too"):
        load_taxonomy(demo)


def test_an_edited_taxonomy_is_read_again(demo: Project) -> None:
    load_taxonomy(demo)
    (demo.taxonomy / "editing.yaml").write_text(ENTRIES.replace("works:", "still-works:"))
    assert list(load_taxonomy(demo).claims) == ["doe2022facts.still-works"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("012", "012"), ("3:25", "3:25"), ("2020-01-01", "2020-01-01"), ("yes", "yes"), ("0x10", "0x10"),
     ("true", True), ("12", 12), ("-3", -3), ("0.5", 0.5), ("1.5e-3", 1.5e-3), ("~", None), ("", None), ("'12'", "12")],
)  # fmt: skip
def test_yaml_scalars_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"key: {text}\n")
    assert load_yaml(path) == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' stands twice"),
        ("a: &x [1]\nb: *x\n", "line 1: aliases"),
        ("a: *x\n", "line 1: aliases"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: tag .*os.system.* is not used"),
        ("1: a\n", "key '1' is not text"),
        ("a: [1\n", "line 2"),
        ("a: b\u202ec\n", "line 1: hidden character U\\+202E"),
        ("a: b\x07\n", "hidden character U\\+0007"),
        ("[" * 3000, "nested too deeply"),
        ("a: " + "x" * 1_100_000, "more than the 1,000,000"),
    ],
)
def test_yaml_that_could_surprise_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_yaml(path)


def test_yaml_must_be_utf8_and_there(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        load_yaml(tmp_path / "x.yaml")
    with pytest.raises(BadInput, match="cannot read"):
        load_yaml(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{Facts in a {Box}},", "{Facts in a {Box}}", "doe2022facts|expected"),  # a missing comma
        ("year      = {2022}", "year = {2021}", "before the preprint's"),
        ("year      = {2022}", "year = {22}", "four digits"),
        ("year      = {2022}", "year = soon", "soon"),
        ("eprint    = {2202.00001}", "eprint = {2202.00001v2}", "without version"),
        ("eprint    = {2202.00001}", "url = {javascript:alert(1)}", "http or https"),
        ("eprint    = {2202.00001}", "eprnt = {2202.00001}", "unknown field"),
        ("title     = {Facts in a {Box}},\n", "", "field title: @inproceedings needs it"),
        ("@inproceedings", "@inproceeding", "unknown type @inproceeding; did you mean inproceedings"),
        ("booktitle = {Proceedings of Somewhere},\n", "", "field booktitle: @inproceedings needs it"),
        (",\n  archiveprefix = {arXiv}", "", "goes with archiveprefix"),
        ("Facts in a {Box}", "Facts \\foo{x}", r"LaTeX that cannot be read: .foo"),
        ("Facts in a {Box}", "Costs $5", "unbalanced"),
        ("Facts in a {Box}", "Facts & Boxes", r"a bare & breaks LaTeX"),
        ("Doe, Jane and Roe, Richard", "Doe, Jane, Roe, Richard", "join them with ' and '"),
        ("doe2022facts", "../../etc/passwd", "key '../../etc/passwd'"),
        ("}\n}", "}\n", "premature end|line"),
    ],
)
def test_a_wrong_bibliography_is_refused(demo: Project, old: str, new: str, message: str) -> None:
    assert old in BIB
    demo.bib.write_text(BIB.replace(old, new, 1))
    with pytest.raises(BadInput, match=rf"(?s)papers\.bib.*{message}"):
        load_papers(demo)


def test_the_same_key_twice_is_refused_whatever_its_case(demo: Project) -> None:
    for key in ("doe2022facts", "Doe2022facts"):
        demo.bib.write_text(BIB + BIB.replace("doe2022facts", key))
        with pytest.raises(BadInput, match=r"(?i)doe2022facts"):
            load_papers(demo)


def test_latex_accents_are_read(demo: Project) -> None:
    demo.bib.write_text(BIB.replace("Doe, Jane", 'Do{\\"e}, Fran{\\c c}ois'))
    assert load_papers(demo)["doe2022facts"].authors[0] == "Doë, François"


def findings(project: Project) -> str:
    found = [*check_literature(project), *check_files(project, load_taxonomy(project))]
    return "\n".join(str(each) for each in found if not each.where.startswith("method"))


def test_cross_references_are_checked_both_ways(demo: Project) -> None:
    put_notebook(demo)
    assert findings(demo) == ""
    demo.bib.write_text(BIB + BIB.replace("doe2022facts", "roe2023more"))
    text = findings(demo)
    assert "roe2023more has no entry in taxonomy/" in text
    assert "roe2023more and doe2022facts have the same title" in text

    demo.bib.write_text("")
    assert findings(demo) == "papers.bib: it holds no entry; get it back: git restore papers.bib"
    demo.bib.write_text(BIB.replace("doe2022facts", "roe2023more"))
    assert "doe2022facts is not in papers.bib" in findings(demo)
    demo.bib.write_text(BIB)

    changes = {
        "category: editing/locate-then-edit": ("category: editing/elsewhere", "category: 'editing/elsewhere'"),
        "notebooks: [editing/demo]": ("status: planned", "list it in 'notebooks'"),
        "summary:": ("methods: [unknown-method]\n  summary:", "methods: 'unknown-method' does not exist"),
        "summary: P": (
            "tags: [boxes]\n  summary: P",
            "'boxes' does not exist; add it to tags.yaml with its meaning",
        ),
        "summary: Pu": ("related: [doe2022facts]\n  summary: Pu", "related: names itself"),
        "summary: Put": (
            "related: [doe2022fact]\n  summary: Put",
            "not exist; did you mean doe2022facts?",
        ),
        "where: Section 3": ("contradicted_by: [nobody2020]\n      where: Section 3", "'nobody2020' does not exist"),
    }
    for old, (new, message) in changes.items():
        (demo.taxonomy / "editing.yaml").write_text(ENTRIES.replace(old, new, 1))
        assert message in findings(demo)


def test_files_are_checked_against_the_lists(demo: Project) -> None:
    put_notebook(demo)
    put_notebook(demo, name="editing/stray")
    (demo.notebooks / "lonely.py").write_text("# %%\n1\n")
    (demo.results / "gone.json").write_text("{}")
    (demo.testbeds / "bed-b").rmdir()
    text = findings(demo)
    assert "notebooks/editing/stray.ipynb: not listed" in text
    assert "notebooks/lonely.py: has no .ipynb half" in text
    assert "results/gone.json: belongs to no listed notebook" in text
    assert "there is no bundled testbed 'bed-b'" in text
    demo.notebook_path("editing/demo").unlink()
    assert "there is no notebooks/editing/demo.ipynb" in findings(demo)


def test_what_is_drawn_afresh_needs_no_folder(demo: Project) -> None:
    put_notebook(demo)
    path = demo.taxonomy / "notebooks.yaml"
    path.write_text(path.read_text().replace("bed-b", "fresh-gpt2-s1"))
    assert "no bundled testbed" not in findings(demo)
    path.write_text(path.read_text().replace("fresh-gpt2-s1", "fresh-gpt2"))
    assert "there is no bundled testbed 'fresh-gpt2'" in findings(demo)


def test_results_that_do_not_belong_are_findings(executed: Project) -> None:
    path = executed.results_path("editing/demo")
    assert [str(each) for each in check_files(executed, load_taxonomy(executed))] == []
    entries = executed.taxonomy / "editing.yaml"
    entries.write_text(entries.read_text().replace("    works:", "    works-well:"))
    said = [str(each) for each in check_files(executed, load_taxonomy(executed))]
    assert any("doe2022facts.works-well is missing" in each for each in said)
    assert any("doe2022facts.works is no claim that the taxonomy gives this notebook" in each for each in said)
    edit_json(path, lambda data: data["claims"]["doe2022facts.works"].update(k=1))
    said = [str(each) for each in check_project(executed)]
    assert any(each.startswith("results/editing/demo.json: ") and "do not follow" in each for each in said)


def test_a_method_stands_under_the_paper_that_the_registry_names(demo: Project) -> None:
    entries = demo.taxonomy / "editing.yaml"
    entries.write_text(entries.read_text().replace("  claims:", "  methods: [ft-l]\n  claims:"))
    said = [str(each) for each in check_links(load_taxonomy(demo))]
    assert any("doe2022facts: methods: ft-l is by zhang2024knowedit" in each for each in said)
    entries.write_text(entries.read_text().replace("doe2022facts:", "zhang2024knowedit:"))
    said = [str(each) for each in check_links(load_taxonomy(demo))]
    assert not any("ft-l is by" in each for each in said), "the control"


def test_this_repository_agrees_with_itself(repository: Project) -> None:
    assert [str(finding) for finding in check_project(repository)] == []


def test_claims_of_this_repository_say_what_papers_say(repository: Project) -> None:
    taxonomy = load_taxonomy(repository)
    assert taxonomy.claims
    for claim_id, entry in taxonomy.claims.items():
        said = re.search(r"not reproduced|reproduced? here|we (?:find|found|measure)", entry.says.lower())
        assert said is None, f"{claim_id}: a claim says what the paper says, not what we found"


THIRD = """
poe2024third:
  category: editing
  status: planned
  summary: "A third box."
  computes: From a third fact, a box.
  related: [doe2022facts]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  status", "   status", r"taxonomy/editing\.yaml: line \d+: .*indentation"),
        ("  status", "\tstatus", r"taxonomy/editing\.yaml: line \d+: .*(tab|cannot start any token)"),
        ("  status", "  summary: x\n  status", r"taxonomy/editing\.yaml: line \d+: key 'summary' stands twice"),
        ("planned", "pl\u202eanned", r"taxonomy/editing\.yaml: line \d+: hidden character U\+202E; remove it"),
        ('"A third', '"A " third', r"taxonomy/editing\.yaml: line \d+: "),
        ("poe2024third:", " poe2024third:", r"taxonomy/editing\.yaml: line \d+: "),
        ("status: planned", "status: plannd", r"entry poe2024third: field status, value 'plannd'"),
    ],
)
@pytest.mark.parametrize("place", ["after", "before"])
def test_what_cannot_be_read_is_one_finding(executed: Project, old: str, new: str, message: str, place: str) -> None:
    """The entries beside it keep their results, notebooks and pages; nothing misses the one that cannot be read."""
    bib = BIB.replace("doe2022facts", "poe2024third").replace("Facts in a", "Third").replace("2202.0", "2401.0")
    bib = bib.replace("Doe, Jane and Roe, Richard", "Poe, P").replace("2022}", "2024}")
    executed.bib.write_text(BIB + "\n" + bib)
    entries = (executed.taxonomy / "editing.yaml").read_text()

    def written(third: str) -> list[str]:
        text = entries + third if place == "after" else third.lstrip("\n") + "\n" + entries
        (executed.taxonomy / "editing.yaml").write_text(text)
        found = check_project(executed)
        return [str(each) for each in found if not each.where.startswith("method")]

    sound = written(THIRD)
    assert all("stale" in each or "layout" in each for each in sound), "the control: without the fault it is read"
    assert old in THIRD
    told = written(THIRD.replace(old, new, 1))
    assert told
    assert re.search(message, told[0]), told
    assert len(told) == 1, told


def test_faults_in_two_entries_and_two_files_are_told_at_once(executed: Project) -> None:
    file = executed.taxonomy / "editing.yaml"
    file.write_text(
        file.read_text().replace("  computes", "   computes", 1) + THIRD.replace("status: p", "stat: \u202ep")
    )
    executed.bib.write_text(BIB.replace("Facts in a", "A lone $ and \\foo &"))
    said = "\n".join(map(str, check_project(executed)))
    for part in (
        "taxonomy/editing.yaml: line 4: ",
        "hidden character U+202E",
        "entry poe2024third: field stat",
        "unbalanced $",
        "cannot be read: \\foo",
        "a bare &",
    ):
        assert part in said, said
    assert "paramem run" not in said, "results are not to be measured again because a text cannot be read"


def test_an_emptied_file_of_entries_is_one_finding(executed: Project) -> None:
    (executed.taxonomy / "editing.yaml").write_text("")
    told = [str(each) for each in check_project(executed) if not each.where.startswith("method")]
    assert told == ["taxonomy/editing.yaml: it is empty; get its entries back, or remove the file"]
