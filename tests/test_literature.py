"""The literature as data: BibTeX there and back, every problem at once, and reading that survives any file."""

from __future__ import annotations

import contextlib
import json
import random
import re
import string
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import BIB, ENTRIES, NOTEBOOKS, TREE, Result, make_checkout, put_notebook
from paramem.bibliography import entry_problems, expected_key, key_problem, load_papers, paper_of, plain, read_papers
from paramem.bibtex import KEY, ORDER, TYPES, BibEntry, BibFile, format_bib, format_entry, parse_bib
from paramem.catalogue import Query, find
from paramem.checks import check_literature, check_project
from paramem.errors import BadInput, BadParameter, ParamemError
from paramem.formatting import check_layout, formatted_bib
from paramem.markdown import escape, link
from paramem.pages import write_generated
from paramem.project import Project
from paramem.report import committed_results, scores
from paramem.taxonomy import load_sources, load_taxonomy, read_taxonomy

SECOND = (
    BIB.replace("doe2022facts", "roe2023more").replace("Facts in a", "More of a").replace("2202.00001", "2301.00001")
)
SECOND = SECOND.replace("Doe, Jane and Roe, Richard", "Roe, Richard").replace("2022}", "2023}")
SECOND_ENTRY = """
roe2023more:
  category: editing
  status: planned
  summary: Puts more into the box.
  computes: From more facts, a box.
  related: [doe2022facts]
  contradicts:
    doe2022facts: How much a box holds.
  claims:
    more:
      says: A box holds more.
"""


def two_papers(project: Project) -> Project:
    """A second paper beside the first, not in layout order."""
    project.bib.write_text(BIB + "\n" + SECOND)
    (project.taxonomy / "editing.yaml").write_text(ENTRIES + SECOND_ENTRY)
    project.bib.write_text(formatted_bib(project))
    return project


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# --- BibTeX


def balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


VALUES = (
    st.text(alphabet=string.ascii_letters + string.digits + " ,.:-äßŁ—{}\"'@%#=\\$&~", min_size=1, max_size=300)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: text != "" and balanced(text))
)
ENTRIES_OF_BIB = st.builds(
    BibEntry,
    type=st.sampled_from(sorted(TYPES)),
    key=st.from_regex(KEY, fullmatch=True),
    fields=st.dictionaries(st.sampled_from(ORDER), VALUES, min_size=1, max_size=8),
    comment=st.sampled_from(["", "% a remark", "% two\n% lines"]),
)


@given(
    st.lists(ENTRIES_OF_BIB, max_size=5, unique_by=lambda entry: entry.key.lower()), st.sampled_from(["", "% a header"])
)
def test_bibtex_there_and_back(entries: list[BibEntry], header: str) -> None:
    text = format_bib(BibFile(header=header, entries=tuple(entries), footer="% the end"))
    file = parse_bib(text)
    assert file.problems == ()
    assert list(file.entries) == entries
    assert "% the end" in file.footer
    assert format_bib(file) == text, "the layout is stable"


@given(ENTRIES_OF_BIB)
def test_another_parser_reads_the_same(entry: BibEntry) -> None:
    """pybtex is what the web site and many readers use; names are kept apart there, and compared by their text."""
    from pybtex.database import parse_bytes

    names = {"author", "editor"} & entry.fields.keys()
    fields = {name: value for name, value in entry.fields.items() if name not in names}
    text = format_entry(BibEntry(type=entry.type, key=entry.key, fields={**fields, "title": "T"}))
    [(key, other)] = parse_bytes(text.encode(), "bibtex").entries.items()
    assert key == entry.key
    assert other.type == entry.type
    assert {name.lower(): " ".join(value.split()) for name, value in other.fields.items()} == {**fields, "title": "T"}


@given(st.text(max_size=400) | st.text(alphabet='@{}",=#% \n\\abtitle', max_size=400))
def test_any_text_is_read_or_refused(text: str) -> None:
    file = parse_bib(text)
    for entry in file.entries:
        list(entry_problems(entry))
    for problem in file.problems:
        assert problem.text
        assert 1 <= problem.line <= text.count("\n") + 1


@given(st.data())
def test_a_broken_entry_does_not_hide_the_others(data: st.DataObject) -> None:
    """Whatever is cut out of one entry, the entries around it are read as before."""
    start = data.draw(st.integers(1, len(BIB) - 2))
    end = data.draw(st.integers(start, len(BIB) - 1))
    other = SECOND.replace("roe2023more", "roe2023other")
    file = parse_bib(f"{SECOND}\n{BIB[:start] + BIB[end:]}\n{other}")
    assert {"roe2023more", "roe2023other"} <= {entry.key for entry in file.entries}


BROKEN = {  # ¶ stands before what the problem's line has to be that of
    "¶title = {A} year = 2020": "field title: no comma or end of the entry after it, but 'year = 2020'",
    "title = {A},\n¶year = 2020\nauthor = {X}": "field year: no comma or end of the entry after it, but 'author = {X}'",
    '¶title = {A} # " box"': "field title: joining with # is not read; write the text out",
    "title = {A},\n¶month = jan": "field month, value 'jan': put it in braces",
    "title = {A},\n¶Title = {B}": "field title stands twice; keep one",
    "¶title {A}": "field title: expected = after its name",
    "¶title = {A},,\nyear = 2020": "expected a field, found ',",
    "title = {A},\n¶% a remark\nyear = 2020": "expected a field, found '% a remark'",
    "¶title = {A {B}": "field title: no end of the entry after it; look for an unbalanced brace",
    "¶title = {A {{{B},\nyear = 2020": "field title: no end of the entry after it; look for an unbalanced brace",
    '¶title = "A': "field title: no end of the entry after it; look for an unbalanced brace",
    '¶title = "A { b"': "field title: its text does not end; look for an unbalanced brace or quote",
    '¶title = "{ " }"': "or put braces in place of the quotes",
    "title = {A},\n¶foo": "field foo: expected = after its name",
}


@pytest.mark.parametrize("marked", BROKEN)
def test_what_bibtexparser_lets_pass_is_a_problem_with_its_line(marked: str) -> None:
    before, after = marked.split("¶")
    file = parse_bib(f"% A header\n\n@misc{{doe2020a,\n{before}{after}\n}}\n\n{SECOND}")
    problem = file.problems[0]
    assert BROKEN[marked] in problem.text
    assert (problem.key, problem.line) == ("doe2020a", 4 + before.count("\n"))
    assert [entry.key for entry in file.entries] == ["roe2023more"]
    whole = parse_bib('@misc{doe2020a,\ntitle = "A {B}",\nnote = {C},\nyear = 2020\n}')
    assert (len(whole.entries), whole.problems) == (1, ()), "the control"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@string{acl = {ACL}}", "@string is not read; write its text out in the entries"),
        ('@preamble{"x"}', "@preamble is not read"),
        ("@comment{x}", "@comment is not read; begin each line of a comment with %"),
        ("@misc(doe2020a, title = {A})", "expected @type{key"),
        ("@misc doe2020a, title = {A}", "expected @type{key"),
        ("@misc{, title = {A}}", "@misc has no key"),
        ("@misc{doe2020a title = {A}}", "expected a comma after the key"),
    ],
)
def test_other_blocks_are_refused_by_name(text: str, message: str) -> None:
    file = parse_bib(f"{SECOND}\n{text}\n")
    [problem] = file.problems
    assert problem.text.startswith(message)
    assert problem.line == SECOND.count("\n") + 2
    assert len(file.entries) == 1


def test_all_problems_of_one_entry_are_told() -> None:
    file = parse_bib("@misc{doe2020a,\n  title = {A} # {B},\n  month = jan,\n  note = 20 20,\n}\n")
    assert [(problem.line, problem.text.split(",")[0].split(":")[0]) for problem in file.problems] == [
        (2, "field title"), (3, "field month"), (4, "field note"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"{a \{ b} c}", r"a \{ b} c"),  # BibTeX counts a brace behind a backslash, bibtexparser does not
        (r"{a \} b}", None),
        ("{{\\={a}}, {\\,}, x\\#}", "{\\={a}}, {\\,}, x\\#"),
        ('"M{\\"u}ller, {A}"', 'M{\\"u}ller, {A}'),
        ("{a\\\nb}", "a\\ b"),
        ("{5 @ {CLEF}, 6 = 7}", "5 @ {CLEF}, 6 = 7"),
    ],
)
def test_values_are_read_as_bibtex_does(raw: str, text: str | None) -> None:
    file = parse_bib(f"@misc{{a,\n title = {raw},\n month = jan\n}}\n@misc{{b, title = {raw}}}\n{SECOND}")
    assert file.entries[-1].key == "roe2023more"
    if text is None:
        assert len(file.entries) == 1
    else:
        assert file.entries[0].fields == {"title": text}
        assert [problem.line for problem in file.problems] == [3 + raw.count("\n")], "lines are counted"


def test_an_entry_in_a_comment_stays_a_comment() -> None:
    file = parse_bib(f"% @misc{{old, title = {{A}}}}\n{BIB}\n% see @misc{{older,\n{SECOND}")
    assert [entry.comment for entry in file.entries] == ["% @misc{old, title = {A}}", "% see @misc{older,"]
    assert file.problems == ()


def test_no_line_is_begun_with_the_sign_of_an_entry() -> None:
    for name in ("title", "author"):
        entry = BibEntry(type="misc", key="a", fields={name: "someone @home and " * 40 + "x"})
        assert parse_bib(format_entry(entry)).entries == (entry,)


def test_comments_stay_with_what_they_stand_above() -> None:
    text = f"% The header\n% of two lines\n\n% about the first\n{BIB}\n% alone\n\n% about the second\n{SECOND}"
    file = parse_bib(text)
    assert file.header == "% The header\n% of two lines"
    assert [entry.comment for entry in file.entries] == ["% about the first", "% alone\n% about the second"]
    again = parse_bib(format_bib(file))
    assert (again.header, again.entries) == (file.header, file.entries)


def test_latex_is_read_as_text() -> None:
    for latex, text in {
        'Do{\\"e}, Fran{\\c c}ois': "Doë, François",
        "``{A} is {B}''": "“A is B”",
        "$\\alpha$-Fusion \\& more, 50\\% \\_x": "α-Fusion & more, 50% _x",
        "5 \\$ a piece": "5 $ a piece",
        "pages 1--2": "pages 1–2",
    }.items():
        assert plain(latex) == text


@pytest.mark.parametrize(
    ("author", "eprint", "prefix"),
    [
        ("Meng, Kevin and Bau, David", "2202.05262", "meng2022"),
        ("De Cao, Nicola", "2104.08164", "decao2021"),
        ("Zeyuan Allen-Zhu", "2309.14316", "allenzhu2023"),
        ('M{\\"u}ller, A.', "2301.00001", "muller2023"),
        ("Łukasiewicz, Ø.", "2301.00001", "lukasiewicz2023"),
        ("", "2301.00001", "anon2023"),
        ("Geva, Mor", "", "geva2025"),
    ],
)
def test_a_key_begins_with_the_first_author_and_the_first_year(author: str, eprint: str, prefix: str) -> None:
    fields = {"title": "T", "year": "2025", "author": author, "eprint": eprint}
    paper = paper_of(BibEntry(type="misc", key="x", fields={name: value for name, value in fields.items() if value}))
    assert expected_key(paper) == prefix


@pytest.mark.parametrize(
    ("key", "fields", "said"),
    [
        ("meng2023rome", {"eprint": "2202.05262"}, "field eprint, value '2202.05262'"),
        ("petroni2020lama", {"author": "Petroni, Fabio", "year": "2019"}, "field year, value '2019'"),
        ("bau2022rome", {"eprint": "2202.05262"}, "field author, value 'Meng, Kevin'"),
        ("rome", {}, "key 'rome'"),
    ],
)
def test_a_key_that_does_not_fit_names_the_field_its_value_and_the_remedy(
    key: str, fields: dict[str, str], said: str
) -> None:
    entry = {"title": "T", "author": "Meng, Kevin", "year": "2022", **fields}
    problem = key_problem(paper_of(BibEntry(type="misc", key=key, fields=entry)))
    assert problem is not None
    assert problem.startswith(said)
    assert "the key should be" in problem
    right = expected_key(paper_of(BibEntry(type="misc", key=key, fields=entry))) + "word"
    assert key_problem(paper_of(BibEntry(type="misc", key=right, fields=entry))) is None, "the control"


# --- the checks


def test_two_papers_agree_and_show_on_both_sides(demo: Project) -> None:
    two_papers(demo)
    taxonomy = load_taxonomy(demo)
    assert taxonomy.related("doe2022facts") == ("roe2023more",)
    [said] = taxonomy.disagreements("doe2022facts")
    assert (said.by, said.against, said.about) == ("roe2023more", "doe2022facts", "How much a box holds.")
    assert taxonomy.disagreements("roe2023more") == (said,)
    assert taxonomy.claims["roe2023more.more"].status == "not attempted"
    put_notebook(demo)
    assert [each for each in map(str, check_literature(demo)) if not each.startswith("method")] == []


@pytest.mark.parametrize(
    ("status", "verdict", "reason"),
    [
        ("planned", "not attempted", "Its notebook is planned."),
        ("survey", "not attempted", "A survey; no notebook is planned for it."),
        ("out of reach\n  reason: It needs a big model.", "not at this scale", "It needs a big model."),
    ],
)
def test_claims_of_a_paper_without_a_notebook_say_why(demo: Project, status: str, verdict: str, reason: str) -> None:
    two_papers(demo)
    file = demo.taxonomy / "editing.yaml"
    file.write_text(file.read_text().replace("status: planned", f"status: {status}"))
    line = scores(load_taxonomy(demo), {})[-1]
    assert (line.verdict, line.reason) == (verdict, reason)


def test_all_problems_of_all_files_are_told_at_once(demo: Project) -> None:
    """Five files, each broken in its own way, one of them in two entries: every problem has its line."""
    two_papers(demo)
    put_notebook(demo)
    put_notebook(demo, name="editing/stray")
    demo.bib.write_text(
        BIB.replace("year      = {2022}", "year = {soon}")
        + SECOND.replace("@inproceedings", "@inproceeding")
        + "@misc{broken2020brace,\n  title = {Never {closed},\n}\n"
        + "@misc{fine2021paper,\n  title = {Fine},\n  author = {Fine, A},\n  year = {2021}\n}\n"
    )
    entries = ENTRIES.replace("summary:", "sumary:") + SECOND_ENTRY.replace("status: planned", "status: plan")
    (demo.taxonomy / "editing.yaml").write_text(entries)
    (demo.taxonomy / "indent.yaml").write_text("someone2020paper:\n  category: editing\n summary: x\n")
    (demo.taxonomy / "taxonomy.yaml").write_text(TREE.replace("part: Application", "prt: Application"))
    (demo.taxonomy / "tags.yaml").write_text("boxes: ''\n")
    (demo.taxonomy / "sources").mkdir()
    (demo.taxonomy / "sources/list.yaml").write_text("document: {title: A list}\nrows: [{title: x}]\n")
    said = "\n".join(map(str, check_project(demo)))
    for part in (
        "papers.bib, line 1: entry doe2022facts: field year, value 'soon': give four digits",
        "papers.bib, line 9: entry roe2023more: unknown type @inproceeding; did you mean inproceedings?",
        "entry broken2020brace: field title: no end of the entry after it; look for an unbalanced brace",
        "papers.bib: fine2021paper has no entry in taxonomy/",
        "entry doe2022facts: field sumary, value 'Puts facts into a box.': no such field; did you mean summary?",
        "taxonomy/editing.yaml: entry doe2022facts: field summary: the field is required",
        "taxonomy/editing.yaml: entry roe2023more: field status, value 'plan'",
        "taxonomy/indent.yaml: line 3",
        "taxonomy/taxonomy.yaml: category 1: field prt, value 'Application': no such field; did you mean part?",
        "taxonomy/tags.yaml: field tags.boxes, value '': the text is empty",
        "taxonomy/sources/list.yaml: field document.read: the field is required",
        "taxonomy/sources/list.yaml: field rows.0: give the key of its bibliography entry, or left_out",
        "notebooks/editing/stray.ipynb: not listed in taxonomy/notebooks.yaml",
        "notebooks/editing/demo.ipynb: execution counts",
    ):  # fmt: skip
        assert part in said, said
    assert "doe2022facts is not in papers.bib" not in said, "what cannot be read is not missed a second time"
    assert "'editing' does not exist" not in said
    with pytest.raises(BadInput) as error:
        load_taxonomy(demo)
    assert len(str(error.value).splitlines()) >= 6, "reading tells all of them too"


def test_who_names_whom_is_written_on_one_side(demo: Project) -> None:
    two_papers(demo)
    file = demo.taxonomy / "editing.yaml"
    text = file.read_text()
    both = "  related: [roe2023more]\n  contradicts: {roe2023more: The same.}\n"
    file.write_text(text.replace("  notebooks: [editing/demo]\n", "  notebooks: [editing/demo]\n" + both))
    said = "\n".join(map(str, check_literature(demo)))
    assert (
        "entry roe2023more: related: doe2022facts names roe2023more already, and both sides show it; keep one" in said
    )
    assert "entry roe2023more: contradicts: doe2022facts names roe2023more" in said


def test_the_same_paper_twice_is_found_by_number_doi_and_title(demo: Project) -> None:
    two_papers(demo)
    same = {
        "eprint": SECOND.replace("2301.00001", "2202.00001"),
        "title": SECOND.replace("More of a {Box}", "FACTS in {a}  Box"),
        "doi": SECOND.replace("  year", "  doi       = {10.1234/X},\n  year"),
    }
    for field, second in same.items():
        first = BIB.replace("  year", "  doi       = {10.1234/x},\n  year") if field == "doi" else BIB
        demo.bib.write_text(first + "\n" + second)
        said = "\n".join(map(str, check_literature(demo)))
        assert f"roe2023more and doe2022facts have the same {field}; keep one" in said, field
        assert said.count("keep one") == 1, "one finding for a pair"


def test_a_doi_and_an_address_of_the_acl_anthology_name_one_paper(demo: Project) -> None:
    two_papers(demo)
    first = BIB.replace("  year", "  doi       = {10.18653/v1/2023.acl-long.1},\n  year")
    for number, same in {"2023.acl-long.1": True, "2023.acl-long.11": False}.items():
        second = SECOND.replace("  year", f"  url       = {{https://aclanthology.org/{number}/}},\n  year")
        demo.bib.write_text(first + "\n" + second)
        said = "\n".join(map(str, check_literature(demo)))
        assert ("have the same number in the ACL Anthology; keep one" in said) is same


@pytest.mark.parametrize(
    "name",
    ["2202.05262", "arXiv:2202.05262", "https://arxiv.org/abs/2202.05262v5", "https://arxiv.org/pdf/2202.05262.pdf"],
)
def test_a_paper_is_found_by_its_arxiv_number(paramem: Callable[..., Result], name: str) -> None:
    assert "meng2022rome" in paramem("show", name).stdout
    assert paramem("bib", name).stdout.startswith("@inproceedings{meng2022rome")
    assert paramem("show", "2202.05263").returncode == 2, "the control: a number that no paper has"


def test_the_layout_of_the_bibliography_is_kept(demo: Project, paramem: Callable[..., Result]) -> None:
    two_papers(demo)
    assert check_layout(demo) == []
    right = demo.bib.read_text()
    wrong = f"% A header\n\n{SECOND}\n% about facts\n{BIB.replace('  title     =', 'title=')}"
    demo.bib.write_text(wrong)
    [finding] = check_layout(demo)
    assert "paramem format" in str(finding)
    assert paramem("format", "--check").returncode == 1
    assert demo.bib.read_text() == wrong
    assert paramem("format").returncode == 0
    first, second = (f"{part}\n" for part in right.rstrip().split("\n\n"))
    assert second.startswith("@inproceedings{doe2022facts"), "roe2023more stands in a category that comes first"
    assert demo.bib.read_text() == f"% A header\n\n{first}\n% about facts\n{second}"
    demo.bib.write_text("@misc{broken,")
    assert paramem("format").returncode == 2, "what cannot be read is not rewritten"
    assert demo.bib.read_text() == "@misc{broken,"


SEEDS = {
    "papers.bib": BIB,
    "taxonomy/editing.yaml": ENTRIES,
    "taxonomy/taxonomy.yaml": TREE,
    "taxonomy/notebooks.yaml": NOTEBOOKS,
    "taxonomy/tags.yaml": "boxes: About boxes.\n",
    "taxonomy/sources/list.yaml": "document: {title: A, read: now}\nrows:\n  - {title: x, key: doe2022facts}\n",
}
SIGNS = "{ } - : [ ] ~ \u202e \x00 \t \\ é # % @ ' \" ? | > \ud7ff &a *a !!python/none 1e999 <script> null doe2022facts"
SNIPPETS = [*SIGNS.split(" "), "\n", "- ", ": ", "---\n", "9" * 23]


def mutated(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 3, 20]))
        text = text[:start] + rng.choice(["", *SNIPPETS]) + text[end:]
    return text


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(sorted(SEEDS)), seed=st.integers(0, 10**9), raw=st.none() | st.binary(max_size=60))
def test_the_checker_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, file: str, seed: int, raw: bytes | None
) -> None:
    """Any file, mutated or replaced by any bytes: findings, each with a place and a text on one line."""
    root = tmp_path_factory.mktemp("mutated") / "checkout"
    project = make_checkout(root)
    (root / "taxonomy/sources").mkdir()
    for name, text in SEEDS.items():
        (root / name).write_text(text)
    if raw is not None:
        (root / file).write_bytes(raw)
    else:
        (root / file).write_text(mutated(SEEDS[file], random.Random(seed)), encoding="utf-8", errors="replace")
    for finding in check_project(project):
        text = str(finding)
        assert finding.where
        assert finding.what
        assert str(tmp_path_factory.getbasetemp()) not in text, "places are told from the root"
        assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", text)
    for read in (load_taxonomy, load_papers, load_sources):
        with contextlib.suppress(ParamemError):
            read(project)


def test_a_file_of_nothing_but_braces_is_refused_quickly(demo: Project) -> None:
    started = time.perf_counter()
    for text in ("{" * 200_000, "[" * 200_000, "- " * 100_000, "@misc{a, title = {" * 20_000, "?" * 100_000):
        for path in (demo.bib, demo.taxonomy / "editing.yaml"):
            path.write_text(text)
            assert check_literature(demo)
    assert time.perf_counter() - started < 30


# --- what is read, and by whom


def test_papers_are_found_by_text_category_tag_and_status(demo: Project) -> None:
    two_papers(demo)
    (demo.taxonomy / "tags.yaml").write_text("boxes: About boxes.\n")
    file = demo.taxonomy / "editing.yaml"
    file.write_text(file.read_text().replace("  related:", "  tags: [boxes]\n  related:"))
    taxonomy, papers = load_taxonomy(demo), load_papers(demo)

    def found(**query: object) -> list[str]:
        return find(Query(**query).checked(taxonomy), taxonomy, papers)  # type: ignore[arg-type]

    assert found() == ["roe2023more", "doe2022facts"], "in reading order"
    assert found(text="JANE facts") == ["doe2022facts"]
    assert found(text="holds more") == ["roe2023more"], "claims are searched too"
    assert found(category="editing/locate-then-edit") == ["doe2022facts"]
    assert found(category="editing") == ["roe2023more", "doe2022facts"]
    assert found(tags=["boxes"]) == ["roe2023more"]
    assert found(status="planned") == ["roe2023more"]
    assert found(status="notebook", tags=["boxes"]) == []
    for wrong in ({"category": "editin"}, {"tags": ["box"]}, {"status": "plan"}):
        with pytest.raises(BadParameter, match=r"did you mean|there are"):
            found(**wrong)


def test_a_paper_is_shown_whole(demo: Project, paramem: Callable[..., Result]) -> None:
    two_papers(demo)
    shown = paramem("show", "roe2023more").stdout
    for part in (
        *(
            "More of a Box",
            "Roe, Richard",
            "https://arxiv.org/abs/2301.00001",
            "planned",
            "@inproceedings{roe2023more,",
        ),
        *(
            "contradicts doe2022facts: How much a box holds.",
            "A box holds more.",
            "Its notebook is planned.",
            "related",
        ),
    ):
        assert part in shown, shown
    other = paramem("show", "doe2022facts").stdout
    assert "contradicted by roe2023more: How much a box holds." in other
    data = json.loads(paramem("show", "doe2022facts", "--format", "json").stdout)
    assert data["paper"]["related"] == ["roe2023more"]
    assert data["paper"]["bib"]["eprint"] == "2202.00001"


def test_bibtex_for_a_latex_document(demo: Project, paramem: Callable[..., Result]) -> None:
    two_papers(demo)
    printed = paramem("bib", "doe2022facts", "roe2023more").stdout
    assert parse_bib(printed).entries == parse_bib(BIB + SECOND).entries
    assert paramem("bib", "all").stdout.count("@") == 2
    wrong = paramem("bib", "doe2022fact")
    assert (wrong.returncode, "did you mean doe2022facts" in wrong.stderr) == (2, True)


def test_piped_output_has_one_line_for_each_paper(demo: Project, paramem: Callable[..., Result]) -> None:
    two_papers(demo)
    demo.bib.write_text(demo.bib.read_text().replace("Facts in a", "Facts in a very " + "long " * 60))
    [line] = [line for line in paramem("papers", "doe2022facts").stdout.splitlines() if "doe2022facts" in line]
    assert line.count("long") == 60
    assert line.endswith("notebooks/editing/demo.ipynb")


HOSTILE = "<script>alert('x')</script> [a](javascript:b) | *c* `d` $e$ \\# &amp; <img src=x onerror=y>"


def test_hostile_titles_are_shown_as_text_everywhere(demo: Project, paramem: Callable[..., Result]) -> None:
    from paramem.tables import paper_table

    file = demo.taxonomy / "editing.yaml"
    file.write_text(ENTRIES.replace("Puts facts into a box.", json.dumps(HOSTILE)))
    demo.bib.write_text(BIB.replace("Facts in a {Box}", "<script>alert(1)</script> \\& $x$"))
    write_generated(demo)
    page = (demo.root / "docs/papers/editing.md").read_text()
    assert "<script" not in page
    assert "<img" not in page
    [row] = [line for line in page.splitlines() if "doe2022facts" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5, "the cell cannot end early"
    table = paper_table(
        load_taxonomy(demo), load_papers(demo), scores(load_taxonomy(demo), committed_results(demo))
    ).data
    rows = table[table.index("<table") :]
    assert "<script>alert" not in rows
    assert "<img" not in rows
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in rows
    assert "<script>alert(1)</script> & x" in paramem("show", "doe2022facts").stdout
    assert paramem("papers").returncode == 0


@given(st.text(max_size=60))
def test_escaped_text_holds_no_markup(text: str) -> None:
    shown = escape(text)
    assert "<" not in shown
    assert ">" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]$]", shown)
    assert "\n" not in shown
    assert link(text, "javascript:alert(1)") == shown


def test_the_table_of_papers_works_offline_and_is_the_same_each_time(repository: Project) -> None:
    from paramem.tables import paper_table

    taxonomy, papers = load_taxonomy(repository), load_papers(repository)
    lines = scores(taxonomy, committed_results(repository))
    one, two = (paper_table(taxonomy, papers, lines).data for _ in range(2))
    assert one == two
    assert len(one) < 700_000
    loaded = re.findall(r"""(?:src|href)=\\?["'](https?://[^"'\\]+\.(?:js|css))|import .* from ['"](http[^'"]+)""", one)
    assert loaded == [], "nothing is loaded from elsewhere"
    for key in taxonomy.entries:
        assert f"<code>{key}</code>" in one
    assert re.search(r"<a href=\W+editing/rome\.ipynb\W+data-commandlinker-command=\W+docmanager:open\W", one)


def test_every_paper_of_this_repository_is_on_its_page(repository: Project) -> None:
    """README to page to paper: three clicks."""
    taxonomy, papers = load_taxonomy(repository), load_papers(repository)
    from paramem.pages import generated

    files = {path.name: text for path, text in generated(repository).items()}
    for category in taxonomy.categories:
        assert f"(docs/papers/{category.id}.md)" in files["README.md"]
    for key, entry in taxonomy.entries.items():
        page = files[f"{entry.category.split('/')[0]}.md"]
        assert f"`{key}`" in page
        if papers[key].link:
            assert papers[key].link.replace("(", "%28").replace(")", "%29") in page


def test_the_bibliography_of_this_repository_follows_its_rules(repository: Project) -> None:
    bibliography = read_papers(repository)
    assert bibliography.findings == ()
    assert read_taxonomy(repository).findings == ()
    assert [str(each) for each in check_layout(repository)] == []
    without = [key for key, paper in bibliography.papers.items() if paper.entry.type == "article" and not paper.venue]
    assert without == []


def test_five_hundred_papers_are_checked_in_seconds(tmp_path: Path) -> None:
    """CPU seconds: other processes of the machine hardly change them. `make bench` prints the whole command's."""
    import runpy

    from conftest import ROOT

    benchmark = runpy.run_path(str(ROOT / "benchmarks/literature.py"))
    project = benchmark["make_checkout"](tmp_path / "checkout", 500)
    project.bib.write_text(formatted_bib(project))
    write_generated(project)
    started = time.process_time()
    said = [each for each in map(str, check_project(project)) if not each.startswith("method")]
    assert said == []
    assert time.process_time() - started < 2.0
