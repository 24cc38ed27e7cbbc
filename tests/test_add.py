"""`paramem add`: from a number, a DOI or BibTeX to files that pass the checks, all of them or none."""

from __future__ import annotations

import http.server
import io
import re
import runpy
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import BIB, Result, edit_json, put_notebook
from paramem import adding, fetching
from paramem.bibliography import load_papers
from paramem.bibtex import parse_bib
from paramem.checks import check_literature, check_project
from paramem.errors import BadInput
from paramem.fetching import Unreachable, arxiv_number, doi_number, family_first, from_arxiv, from_bibtex, protect
from paramem.notebooks import execute_in_place, sync
from paramem.pages import write_generated
from paramem.project import Project
from paramem.taxonomy import load_taxonomy

FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><entry>
  <id>http://arxiv.org/abs/2301.00002v3</id>
  <published>2023-01-05T10:00:00Z</published>
  <title>Moving Boxes:
    What GPT &amp; LLMs Keep</title>
  <author><name>Ada van der Berg</name></author><author><name>José Núñez</name></author>
  <arxiv:comment xmlns:arxiv="http://arxiv.org/schemas/atom">Somewhere 2024</arxiv:comment>
</entry></feed>"""
EMPTY = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"></feed>"""
CROSSREF = """ @inproceedings{Berg_2024, title={Moving Boxes Again}, ISSN={1234-5678},
 url={http://dx.doi.org/10.1234/boxes.7}, DOI={10.1234/boxes.7},
 booktitle={Proceedings of Somewhere}, author={Berg, Ada van der and Núñez, José}, year={2024}, month=aug }
"""


class Service(http.server.BaseHTTPRequestHandler):
    """Speaks as arXiv and as doi.org do."""

    def do_GET(self) -> None:
        known = {"id_list=2301.00002": FEED, "id_list=2301.00003": EMPTY, "/10.1234": CROSSREF, "big": "x" * 1_100_000}
        known |= {"id_list=2301.00004": FEED.replace("<feed", '<!DOCTYPE a [<!ENTITY b "c">]><feed')}
        known |= {"id_list=2301.00005": "<html>down for maintenance"}
        text = next((answer for part, answer in known.items() if part in self.path), None)
        self.send_response(503 if "9999" in self.path else 404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PARAMEM_ARXIV_URL", f"{base}/api/query")
    monkeypatch.setenv("PARAMEM_DOI_URL", base)
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEM_ARXIV_URL", "http://127.0.0.1:9/api/query")
    monkeypatch.setenv("PARAMEM_DOI_URL", "http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


PLACE = ("--category", "editing/locate-then-edit")


def snapshot(project: Project) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(project.root.rglob("*")) if path.is_file()}


def test_an_arxiv_number_becomes_an_entry(demo: Project, services: None, paramem: Callable[..., Result]) -> None:
    before = demo.bib.read_text()
    result = paramem("add", "arXiv:2301.00002v3", *PLACE, "--summary", "Moves boxes: from here, to there.")
    assert result.returncode == 0, result.stderr
    assert (
        "added vanderberg2023moving: van der Berg and Núñez 2023. Moving Boxes: What GPT & LLMs Keep" in result.stdout
    )
    assert "arXiv adds: 'Somewhere 2024'" in result.stderr
    assert "field computes: still to be written" in result.stdout
    assert demo.bib.read_text().startswith(before), "what was there is as it was"
    paper = load_papers(demo)["vanderberg2023moving"]
    assert paper.entry.fields["title"] == "Moving Boxes: What {GPT} \\& {LLM}s Keep"
    assert (paper.authors, paper.year, paper.eprint) == (("van der Berg, Ada", "Núñez, José"), 2023, "2301.00002")
    entry = load_taxonomy(demo).entries["vanderberg2023moving"]
    assert (entry.status, entry.summary) == ("planned", "Moves boxes: from here, to there.")


def test_a_doi_becomes_an_entry(demo: Project, services: None, paramem: Callable[..., Result]) -> None:
    result = paramem(
        "add", "https://doi.org/10.1234/boxes.7", *PLACE, "--status", "survey", "--summary", "Sorts boxes."
    )
    assert result.returncode == 0, result.stderr
    assert "left out: issn" in result.stderr
    entry = load_papers(demo)["berg2024moving"].entry
    assert entry.type == "inproceedings"
    assert (entry.fields["doi"], entry.fields["booktitle"]) == ("10.1234/boxes.7", "Proceedings of Somewhere")
    assert "url" not in entry.fields
    assert [str(each) for each in check_literature(demo) if "berg2024moving" in str(each)] == []


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        ("2301.00003", "arXiv has no paper '2301.00003'"),
        ("2301.00004", "something else than a feed"),
        ("2301.00005", "something else than a feed"),
        ("10.5555/unknown", "knows nothing of"),
        ("10.5555/big", "too large"),
        ("nonsense", "no arXiv number"),
        ("2202.00001", "there already: doe2022facts"),
    ],
)
def test_what_cannot_be_added_is_one_message(
    demo: Project, services: None, paramem: Callable[..., Result], paper: str, message: str
) -> None:
    before = snapshot(demo)
    if paper == "2202.00001":
        (demo.root / "again.bib").write_text(BIB.replace("doe2022facts", "x").replace("Facts in", "More facts in"))
        before, paper = snapshot(demo), str(demo.root / "again.bib")
    result = paramem("add", paper, *PLACE)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert snapshot(demo) == before


def test_offline_it_says_so_and_asks_only_for_the_rest(
    demo: Project, no_network: None, paramem: Callable[..., Result]
) -> None:
    before = snapshot(demo)
    result = paramem("add", "2301.00002", *PLACE)
    assert result.returncode == 2
    assert "offline: 127.0.0.1:9 cannot be reached" in result.stderr
    assert "give --title, --author, or a .bib file" in result.stderr
    assert "--year" not in result.stderr, "the number says the year"
    assert "--year" in paramem("add", "10.1234/boxes.7", *PLACE).stderr
    assert snapshot(demo) == before
    typed = ("--title", "Moving {Boxes}", "--author", "Berg, Ada")
    assert paramem("add", "2301.00002", *PLACE, *typed).returncode == 0
    assert load_papers(demo)["berg2023moving"].link == "https://arxiv.org/abs/2301.00002"
    assert paramem("add", "2302.00003", "--offline", *PLACE, *typed).returncode == 2, "the same title again"


def test_questions_are_asked_at_a_terminal(
    demo: Project, no_network: None, paramem: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("Moving Boxes\nBerg, Ada\nediting/locate-then-edit\nIt moves boxes.\n"))
    result = paramem("add", "2301.00002")
    assert result.returncode == 0, result.stderr
    assert load_taxonomy(demo).entries["berg2023moving"].summary == "It moves boxes."


FOREIGN = """@string{jan = "January"}
@Article{whatever:2023,
  Author = {M{\\"u}ller, J{\\"o}rg and The {Box} Team},
  title = "Boxes, {B}oxes",
  journal = {arXiv preprint arXiv:2301.00002},
  year = 2023, month = jan, abstract = {Long.}, keywords = {a, b}
}
"""


def test_foreign_bibtex_from_file_and_standard_input(
    demo: Project, paramem: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = demo.root / "foreign.bib"
    file.write_text(FOREIGN)
    result = paramem("add", str(file), *PLACE, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "@misc{muller2023boxes" in result.stdout
    assert "left out: abstract, keywords" in result.stderr
    assert "muller2023boxes" not in demo.bib.read_text(), "--dry-run writes nothing"
    monkeypatch.setattr("sys.stdin", io.StringIO(FOREIGN))
    assert paramem("add", "-", *PLACE).returncode == 0
    paper = load_papers(demo)["muller2023boxes"]
    assert (paper.eprint, paper.venue, paper.authors[0]) == ("2301.00002", "", "Müller, Jörg")
    for broken in ("", "@misc{a, title = {x}", FOREIGN + FOREIGN.replace("whatever", "more"), "@misc{a,}"):
        file.write_text(broken)
        assert paramem("add", str(file), *PLACE).returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --category; there are: editing/locate-then-edit"),
        (("--category", "editing/locate-then-edt"), "did you mean editing/locate-then-edit"),
        ((*PLACE, "--tags", "boxes"), "no tag 'boxes'; add it to taxonomy/tags.yaml"),
        ((*PLACE, "--status", "soon"), "planned"),
        ((*PLACE, "--status", "out of reach"), "reason goes with status: out of reach"),
        ((*PLACE, "--word", "Not A Word"), "one telling word"),
        ((*PLACE, "--notebook", "editing/demo"), "nothing is overwritten"),
        ((*PLACE, "--notebook", "editing/lonely"), "nothing is overwritten"),
        ((*PLACE, "--notebook", "../../outside"), "lower-case names"),
        ((*PLACE, "--notebook", "demo"), "lower-case names"),
    ],
)
def test_wrong_options_change_nothing(
    demo: Project, paramem: Callable[..., Result], options: tuple[str, ...], message: str
) -> None:
    put_notebook(demo)
    (demo.notebooks / "editing/lonely.py").write_text("# mine\n")
    (demo.root / "foreign.bib").write_text(FOREIGN)
    before = snapshot(demo)
    result = paramem("add", str(demo.root / "foreign.bib"), *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert snapshot(demo) == before


def test_all_files_are_written_or_none(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {demo.bib: "new", demo.taxonomy / "new.yaml": "new", demo.root / "deep/er.txt": "new"}
    before = snapshot(demo)
    replace = Path.replace

    def fail_at_the_last(self: Path, target: Path) -> Path:
        if target.name == "er.txt":
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_last)
    with pytest.raises(BadInput, match=r"No space left.*nothing was changed"):
        adding.write_all(files)
    assert snapshot(demo) == before
    monkeypatch.setattr(Path, "replace", replace)
    adding.write_all(files)
    assert snapshot(demo) != before, "the control"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_whatever_breaks_off_the_writing_leaves_nothing_behind(
    demo: Project, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    files = {demo.bib: "new", demo.taxonomy / "new.yaml": "new", demo.notebooks / "editing/new.py": "new"}
    before, calls, replace = snapshot(demo), [0], Path.replace

    def broken_off(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == number and moment == "before":
            raise KeyboardInterrupt
        moved = replace(self, target)
        if calls[0] == number:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", broken_off)
    with pytest.raises(KeyboardInterrupt):
        adding.write_all(files)
    assert snapshot(demo) == before
    assert calls == [number], "the control: it broke off where it should"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interrupt_waits_until_all_is_written(demo: Project, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    files = {demo.bib: "new", demo.taxonomy / "new.yaml": "new", demo.notebooks / "editing/new.py": "new"}
    calls, replace, handler = [0], Path.replace, signal.getsignal(signal.SIGINT)

    def with_a_signal(self: Path, target: Path) -> Path:
        calls[0] += 1
        moved = replace(self, target)
        if calls[0] == number:
            signal.raise_signal(signal.SIGINT)
        return moved

    monkeypatch.setattr(Path, "replace", with_a_signal)
    with pytest.raises(KeyboardInterrupt):
        adding.write_all(files)
    assert [path.read_text() for path in files] == ["new"] * 3
    assert not list(demo.root.rglob("*.part"))
    assert signal.getsignal(signal.SIGINT) is handler, "afterwards it is as it was"


def test_a_file_keeps_every_byte_around_the_new_entry() -> None:
    text = "# head\nfirst:\n  a: 1  # kept\n\n# about second\nsecond:\n    b:   [ 1,2 ]\n"
    assert adding.spliced(text, "new:\n  c: 3\n", "first") == (
        "# head\nfirst:\n  a: 1  # kept\n\nnew:\n  c: 3\n\n# about second\nsecond:\n    b:   [ 1,2 ]\n"
    )
    assert adding.spliced(text, "new:\n  c: 3\n", "second") == text + "\nnew:\n  c: 3\n"
    assert adding.spliced("# only a head\n", "new:\n  c: 3\n", "") == "# only a head\n\nnew:\n  c: 3\n"


@pytest.mark.parametrize(
    "text",
    ["plain", "a: b", "- a", "#x", "true", "null", "12", "0x10", "it's", '"quoted"', "[a]", "a\\b", "ü", "<b>", "a #b"],
)
def test_a_scalar_is_read_back_as_it_was(tmp_path: Path, text: str) -> None:
    from paramem.yamls import load_yaml

    (tmp_path / "x.yaml").write_text(f"key: {adding.scalar(text)}\nlist: [{adding.scalar(text)}, end]\n")
    assert load_yaml(tmp_path / "x.yaml") == {"key": text, "list": [text, "end"]}


def test_numbers_are_found_in_what_people_paste() -> None:
    for text in ("2202.05262", "arXiv:2202.05262v4", "https://arxiv.org/abs/2202.05262", "http://arxiv.org/pdf/2202.05262v2.pdf",
                 "10.48550/arXiv.2202.05262", "https://doi.org/10.48550/arXiv.2202.05262"):  # fmt: skip
        assert arxiv_number(text) == "2202.05262", text
    for text in ("10.18653/v1/2024.findings-emnlp.236", "doi:10.1/x", "2202.0526", "rome", "", "2202.05262 x"):
        assert arxiv_number(text) == "", text
    assert doi_number("https://dx.doi.org/10.1234/a.b-c") == "10.1234/a.b-c"
    assert doi_number("arxiv.org/abs/2202.05262") == ""


def test_names_and_titles() -> None:
    assert [family_first(name) for name in ("Kevin Meng", "Ada van der Berg", "Plato", "Meng, Kevin")] == [
        "Meng, Kevin", "van der Berg, Ada", "Plato", "Meng, Kevin",
    ]  # fmt: skip
    assert protect("LLMs and GPT-2 in 100% of $K_p$ cases_") == "{LLM}s and {GPT}-2 in 100\\% of $K_p$ cases\\_"
    assert protect("Already {L}aTe{X}") == "Already {L}aTe{X}"


def test_the_service_may_be_slow_or_gone(services: None, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        from_arxiv("2301.00002")
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
    monkeypatch.setenv("PARAMEM_ARXIV_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    with pytest.raises(Unreachable, match=r"cannot be reached .*timed out"):
        from_arxiv("2301.00002")
    silent.close()


def test_hostile_answers_stay_text(demo: Project) -> None:
    found = from_bibtex(
        "@misc{a, title = {<script>alert(1)</script> [x](javascript:y)}, author = {A, B}, year = 2023}", "x"
    )
    addition = adding.prepare(demo, found, adding.Description(category="editing/locate-then-edit", word="script"))
    adding.write_all(addition.files)
    write_generated(demo)
    page = (demo.root / "docs/papers/editing.md").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert re.search(r"(?<!\\)\]\(javascript", page) is None
    url = from_bibtex("@misc{a, title = {T}, author = {A, B}, year = 2023, url = {javascript:alert(1)}}", "x")
    with pytest.raises(BadInput, match="http or https"):
        adding.prepare(demo, url, adding.Description(category="editing/locate-then-edit"))


def git(folder: Path, *arguments: str) -> str:
    command = [
        "git",
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "init.defaultBranch=main",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def messages(project: Project) -> str:
    """What `paramem check` says, without the methods of this repository, which the small checkout does not list."""
    return "\n".join(text for each in check_project(project) if not (text := str(each)).startswith("method "))


WRITTEN = {
    "TODO: what the paper claims, in one sentence.": "Boxes move.",
    'from paramem.material import facts_for, known_facts\n': "",
    'from paramem import claim, load\n': "from paramem import claim\n",
    'model: str = "gpt2-s0"': 'model: str = "bed-a"',
    "value = 0.0  # TODO: what is measured": "value = 0.75",
    'note="TODO: how it was decided"': 'note="counted"',
}  # fmt: skip


def write_notebook(path: Path) -> None:
    """Finish the notebook that `paramem add` began, as a contributor would."""
    text = path.read_text()
    for old, new in WRITTEN.items():
        assert old in text, old
        text = text.replace(old, new)
    text = re.sub(r"^lm = load.*?^print.*?$", 'print("two boxes")', text, flags=re.M | re.S)
    text = re.sub(r"^fact = facts.*?^print.*?$", 'print("one box")', text, flags=re.M | re.S)
    path.write_text(re.sub(r"TODO: ", "", text))


def test_a_stranger_s_pull_request(
    executed: Project, tmp_path: Path, paramem: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clone, branch, add, see red for each kind of mistake, mend it, merge into a bare repository."""
    bare, clone = tmp_path / "origin.git", tmp_path / "clone"
    git(executed.root, "init", "-q")
    git(executed.root, "add", "-A")
    git(executed.root, "commit", "-qm", "start")
    git(tmp_path, "clone", "-q", "--bare", str(executed.root), str(bare))
    git(tmp_path, "clone", "-q", str(bare), str(clone))
    project = Project(root=clone)
    for bed in ("bed-a", "bed-b"):
        (project.testbeds / bed).mkdir(parents=True, exist_ok=True)  # git keeps no empty folder
    monkeypatch.setenv("PARAMEM_ROOT", str(clone))
    monkeypatch.chdir(clone)
    assert messages(project) == "", "green before"
    git(clone, "switch", "-qc", "boxes")
    monkeypatch.setattr("sys.stdin", io.StringIO(FOREIGN))
    added = paramem("add", "-", *PLACE, "--notebook", "editing/boxes", "--summary", "Moves boxes.")
    assert added.returncode == 0, added.stderr
    for name in ("papers.bib", "taxonomy/editing.yaml", "taxonomy/notebooks.yaml", "notebooks/editing/boxes.ipynb"):
        assert f"  {name}" in added.stdout

    red = messages(project)
    for text in ("computes: still to be written", "claims.first-claim.says: still to be written", "(TODO) in cell",
                 "execution counts are", "does not state muller2023boxes.first-claim",
                 "has claims and no results/editing/boxes.json",
                 "docs/papers/editing.md: it is stale"):  # fmt: skip
        assert text in red, red
    assert "muller2023boxes is not in" not in red

    entries = project.taxonomy / "editing.yaml"
    text = entries.read_text()
    text = text.replace("TODO: what it computes, from which input to which output.", "From a box to a box.")
    text = text.replace(
        "TODO: one sentence that can turn out false, in your own words.", "More than half of the boxes move."
    )
    entries.write_text(text.replace('"TODO: section, table or figure"', "Section 2"))
    category, moves = "category: editing/locate-then-edit", "  summary: >-\n    Moves"
    mistakes = {
        entries: [
            (f"{category}\n{moves}", f"category: editing/nowhere\n{moves}", "'editing/nowhere' does not exist"),
            ("    Moves boxes.", "  Moves boxes.", "editing.yaml: line"),
            ("muller2023boxes:", "mueller2023boxes:", "mueller2023boxes is not in papers.bib"),
            ("notebook: editing/boxes", "notebook: editing/box", "claim first-claim is measured in editing/box"),
            ("notebooks: [editing/boxes]", "notebooks: [editing/demo]", "notebooks: add editing/boxes"),
            ("says: >-\n        More", "says: >-\n        \u202eMore", "hidden character U+202E"),
            ("where: Section 2", "wher: Section 2", "did you mean where?"),
        ],
        project.bib: [
            ("Boxes, {B}oxes}", "Boxes, {B}oxes", "unbalanced brace"),
            ("@misc{muller", "@mics{muller", "unknown type @mics"),
            ("muller2023boxes", "doe2022facts", "the key stands in line"),
            ("2301.00002", "2202.00001", "have the same eprint"),
            ("{2301.00002}", "{2301.00002v2}", "without version"),
            ("muller2023boxes", "mueller2023boxes", "the key should be muller2023"),
        ],
        project.taxonomy / "notebooks.yaml": [
            ("  editing/boxes:", "  editing/bxes:", "notebooks/editing/boxes.ipynb: not listed"),
            ("papers: [muller2023boxes]", "papers: []", "papers: add muller2023boxes"),
        ],
    }  # fmt: skip
    for file, each in mistakes.items():
        right = file.read_text()
        for old, new, message in each:
            assert old in right, old
            file.write_text(right.replace(old, new))
            assert message in messages(project), f"{new!r}: {messages(project)}"
        file.write_text(right)

    write_notebook(project.notebooks / "editing/boxes.py")
    sync(project, ["editing/boxes"])
    ran = paramem("run", "editing/boxes", "--profile", "full")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    execute_in_place(project.notebook_path("editing/boxes"), timeout=60)
    assert paramem("show", "--write").returncode == 0
    assert messages(project) == "", "green again"
    edit_json(project.results_path("editing/boxes"), lambda data: data["claims"].clear())
    assert "muller2023boxes.first-claim is missing" in messages(project)
    git(clone, "add", "-A")
    assert paramem("run", "editing/boxes", "--profile", "full").returncode == 0
    assert paramem("show", "muller2023boxes").stdout.count("reproduced") == 1

    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "Add the paper on boxes")
    git(clone, "switch", "-q", "main")
    git(clone, "merge", "-q", "--no-ff", "-m", "Merge boxes", "boxes")
    git(clone, "push", "-q", "origin", "main")
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "-q", str(bare), str(fresh))
    for bed in ("bed-a", "bed-b"):
        (Project(root=fresh).testbeds / bed).mkdir(parents=True, exist_ok=True)
    assert messages(Project(root=fresh)) == ""
    assert parse_bib((fresh / "papers.bib").read_text()).entries[-1].key == "muller2023boxes"


def test_the_template_of_a_notebook_runs_on_a_real_testbed(
    repository: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as an unfinished notebook can: every cell but the claim, which its taxonomy does not have here."""
    from paramem.notebook_template import notebook_source

    paper = load_papers(repository)["meng2022rome"]
    source = notebook_source(paper, "editing/boxes", "meng2022rome.early-site")
    file = tmp_path / "notebook.py"
    file.write_text(source)
    runpy.run_path(str(file))
    printed = capsys.readouterr().out
    assert "20 facts that it completes by itself" in printed
    assert "meng2022rome.early-site" in printed
