"""The site's generator: every text reads as itself, every link leads somewhere, nothing is built twice.

The pages in a real browser are in `test_site_browser.py`.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from mdit_py_plugins.substitution import substitution_plugin

from conftest import ROOT
from paramem.bibliography import load_papers
from paramem.claims import MIME, VERDICTS
from paramem.errors import BadInput
from paramem.project import Project
from paramem.report import committed_results, scores
from paramem.site import build as builder
from paramem.site.build import SiteFailed, build, fingerprint, sources, write_sources
from paramem.site.markup import Html, address, embedded_json, escape, join, markdown, raw, tag
from paramem.site.model import Site, gather
from paramem.site.notebooks import linked, prepared
from paramem.site.pages import all_pages
from paramem.site.parts import claim_anchor, slug
from paramem.taxonomy import load_taxonomy
from site_checkout import ALL, BEDS, HOSTILE, SETTINGS, TITLES, write_checkout

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=60) | st.text(
    st.sampled_from("<>&\"'`$*_[](){}#|~\\!-+=:%^@./1a \n\u2028"), max_size=40
)


class Markup(HTMLParser):
    """What a browser would see: elements, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment swallows text: {data!r}")

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def links(self) -> Iterator[str]:
        for _, attributes in self.elements:
            yield from (value for name in ("href", "src", "action") if (value := attributes.get(name)))


def rendered(text: str) -> MarkdownIt:
    """Markdown with all that MyST adds to it."""
    parser = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    for plugin in (
        dollarmath_plugin,
        amsmath_plugin,
        colon_fence_plugin,
        footnote_plugin,
        myst_block_plugin,
        myst_role_plugin,
        substitution_plugin,
    ):
        parser.use(plugin)
    return parser.render(text)


# Markup: the one place


@settings(max_examples=300)
@given(TEXTS)
@example(ALL)
def test_markdown_reads_as_the_text(text: str) -> None:
    folded = " ".join(text.split())
    for before, name in (("", "p"), ("# ", "h1")):
        page = Markup(rendered(f"{before}{markdown(text)}\n"))
        assert [element for element, _ in page.elements] == ([name] if folded or before else [])
        assert page.text.strip() == folded.replace("\0", "\ufffd")


@pytest.mark.parametrize("text", ["<b>x</b>", "*x*", "$x$", "{ref}`x`", "[x](y)", "- x", "<!-- x -->", "`x`", "&lt;"])
def test_markdown_unescaped_would_not(text: str) -> None:
    """The control: each of these means something to the parser above."""
    assert not rendered(text).startswith(f"<p>{escape(text)}</p>")


@settings(max_examples=300)
@given(TEXTS)
@example(ALL)
def test_a_raw_block_reads_as_the_text_and_ends_where_it_ends(text: str) -> None:
    block = raw(tag("p", text, title=text, class_="x"))
    opening, body, closing = block[:-1].split("\n", 1)[0], block[:-1].split("\n", 1)[1].rsplit("\n", 1)[0], block[-10:]
    assert opening == "````````{raw} html"
    assert closing.strip() == "````````"
    assert "`" not in body
    page = Markup(body)
    assert page.elements == [("p", {"title": page.elements[0][1]["title"], "class": "x"})]
    assert squeezed(page.text) == squeezed(text)


def squeezed(text: str | None) -> str:
    """With one space for any white space, which is how a browser shows it."""
    return re.sub(r"[ \t\r\n]+", " ", text or "").strip()


@given(
    st.recursive(TEXTS | st.integers() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))
)
@example({"x": ALL})
def test_embedded_json_is_the_data_and_cannot_end_its_element(data: Any) -> None:
    text = embedded_json(data)
    assert json.loads(text) == data
    assert not set("<>&`\n\u2028\u2029") & set(text)


@pytest.mark.parametrize(
    "attributes",
    [
        {"href": "javascript:alert(1)"},
        {"href": " JavaScript:alert(1)"},
        {"src": "data:text/html,x"},
        {"href": "//example.org/x"},
        {"href": 'https://example.org/"onload="x'},
        {"onclick": "x"},
        {"style": "x"},
        {"srcdoc": "x"},
        {'x"y': "x"},
    ],
)
def test_an_element_refuses_what_runs_or_leads_elsewhere(attributes: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        tag("a", **attributes)
    assert tag("a", "x", href="https://example.org/x", rel="external", hidden=True, title=None)


def test_markup_stays_and_text_is_escaped() -> None:
    inner = tag("b", "<")
    assert tag("p", inner, ["<", None, (Html("<br>"),)]) == "<p><b>&lt;</b>&lt;<br></p>\n"
    assert join("a", None, "&") == "a&amp;"
    assert tag("br") == "<br>"
    with pytest.raises(BadInput, match="element"):
        tag("p><script", "x")


def test_addresses_are_relative() -> None:
    assert address("index", "papers/x") == "papers/x.html"
    assert address("papers/x", "categories/a/b#c") == "../categories/a/b.html#c"
    assert address("categories/a/b", "index") == "../../index.html"


# Whole pages, from a hostile checkout


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write_checkout(tmp_path_factory.mktemp("hostile") / "checkout", papers=9)


@pytest.fixture(scope="module")
def site(hostile: Project) -> Site:
    return gather(hostile)


@pytest.fixture(scope="module")
def pages(hostile: Project) -> dict[str, str]:
    return sources(hostile)


@pytest.fixture(scope="module")
def our_pages() -> dict[str, str]:
    return sources(Project(root=ROOT))


RAW = re.compile(r"^`{8}\{raw\} html\n(.*?)\n`{8}$", re.M | re.S)
ELEMENTS = {
    "p",
    "a",
    "b",
    "ul",
    "ol",
    "li",
    "span",
    "code",
    "pre",
    "nav",
    "div",
    "section",
    "article",
    "h3",
    "h4",
    "br",
}
ELEMENTS |= {"details", "summary", "table", "thead", "tbody", "tr", "th", "td", "strong", "small", "svg", "rect"}
ELEMENTS |= {"form", "label", "input", "button", "select", "option", "fieldset", "legend", "noscript", "script"}


def markup_of(page: str) -> Markup:
    """The generated markup of a page, and nothing else."""
    return Markup("\n".join(RAW.findall(page)))


def test_generated_markup_holds_only_our_own_elements(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        page = markup_of(text) if name.endswith(".md") else Markup("")
        assert {element for element, _ in page.elements} <= ELEMENTS, name
        for element, attributes in page.elements:
            assert not [key for key in attributes if key.startswith("on") or key in ("style", "srcdoc")], name
            assert element != "script" or name == "explorer.md"
    assert [element for element, _ in markup_of(pages["explorer.md"]).elements].count("script") == 2


def test_outside_of_it_stand_headings_and_directives_of_ours(pages: dict[str, str]) -> None:
    """Every other line of a page is a heading whose text is escaped, a label, or one of the few directives."""
    line = re.compile(
        r"|---|orphan: true|\#{1,3}\ (?:[^!-/:-@\[-`{-~]|\\[!-/:-@\[-`{-~])+|\#\#\#\ `[a-z0-9:_-]+`"
        r"|\(claim-[a-z0-9-]+\)=|```\{(?:toctree|bibliography)\}|:(?:caption|hidden|all):.*|/(?:categories|notebooks)/[a-z0-9:_/-]+"
        r"|explorer|/explorer|/scoreboard|/notebooks|/bibliography|```|All\ papers\ of\ `papers\.bib`\."
    )
    for name, text in pages.items():
        if name.endswith(".md"):
            left = [each for each in RAW.sub("", text).split("\n") if not line.fullmatch(each)]
            assert left == [], name
    assert not line.fullmatch("# <script>"), "the control"
    assert not line.fullmatch("<p>x</p>"), "the control"


def test_every_hostile_text_is_shown_as_itself(pages: dict[str, str], site: Site) -> None:
    page = markup_of(pages["papers/eve2020attack0.md"])
    shown = " ".join(page.text.split())
    for text in HOSTILE:
        assert " ".join(text.split()) in shown
    for key, paper in site.papers.items():
        assert rendered(pages[f"papers/{key}.md"]).split("</h1>")[0].endswith(f"<h1>{escape_as_markdown(paper.title)}")
    assert {paper.title for paper in site.papers.values()} >= {title.replace("---", "\u2014") for title in TITLES}


def test_the_search_index_sees_words_and_not_their_joins(pages: dict[str, str], site: Site) -> None:
    """Sphinx takes elements away and splits what is left at white space."""
    paper = site.papers["doe2020box"]
    found = re.sub(r"<[^<]+?>", "", "".join(RAW.findall(pages["papers/doe2020box.md"]))).split()
    for text in (paper.summary, paper.claims[0].says, paper.claims[0].verdict, *BEDS, *paper.authors, *paper.tags):
        assert {word.rstrip(",") for word in text.split()} <= {word.rstrip(",") for word in found}


def escape_as_markdown(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def broken_links(pages: dict[str, str]) -> list[tuple[str, str]]:
    """Links within the generated markup that lead to no page, or to no place on it."""
    anchors = {name: set(re.findall(r"^\((claim-[a-z0-9-]+)\)=$", text, re.M)) for name, text in pages.items()}
    names = {re.sub(r"\.(md|ipynb)$", ".html", name): name for name in pages}
    broken = []
    for name, text in pages.items():
        for link in markup_of(text).links() if name.endswith(".md") else ():
            if link.startswith(("https://", "_static/")):
                continue
            path, _, anchor = link.partition("#")
            there = (Path("/") / name).parent.joinpath(path).resolve().relative_to("/").as_posix()
            if there not in names or (anchor.startswith("claim-") and anchor not in anchors[names[there]]):
                broken.append((name, link))
    return broken


def test_every_link_of_the_generated_pages_leads_somewhere(pages: dict[str, str]) -> None:
    assert broken_links(pages) == []
    links = [link for text in pages.values() for link in markup_of(text).links()]
    assert any("#claim-" in link for link in links)
    for gone in ("papers/doe2020box.md", "notebooks/editing/box.ipynb", "categories/editing/empty.md"):
        assert broken_links({name: text for name, text in pages.items() if name != gone}), "the control"
    without = pages["papers/doe2020box.md"].replace("(claim-doe2020box-works)=", "")
    assert broken_links(pages | {"papers/doe2020box.md": without}), "the control"


def clicks(pages: dict[str, str]) -> dict[str, int]:
    """How many clicks away from the start each page is, by what stands in the text alone."""
    away, edge = {"index.md": 0}, ["index.md"]
    while edge:
        here = edge.pop(0)
        for link in markup_of(pages[here]).links():
            path = (Path("/") / here).parent.joinpath(link.partition("#")[0]).resolve().relative_to("/")
            name = path.with_suffix(".md").as_posix()
            if name in pages and name not in away:
                away[name] = away[here] + 1
                edge.append(name)
    return away


def test_every_paper_is_three_clicks_away(
    pages: dict[str, str], our_pages: dict[str, str], site: Site, repository: Project
) -> None:
    for found, keys in ((clicks(pages), site.papers), (clicks(our_pages), load_papers(repository))):
        assert max(found[f"papers/{key}.md"] for key in keys) <= 3
    emptied = dict.fromkeys(
        [name for name in pages if name.startswith(("categories/", "scoreboard", "notebooks."))], ""
    )
    assert "papers/doe2020box.md" not in clicks(pages | emptied), "the control"


# What the pages say


def test_the_site_says_what_the_scoreboard_says(repository: Project) -> None:
    lines = scores(load_taxonomy(repository), committed_results(repository))
    found = {claim.id: claim for claim in gather(repository).claims}
    assert found.keys() == {line.claim for line in lines}
    for line in lines:
        claim = found[line.claim]
        assert (claim.says, claim.where, "; ".join(claim.ours)) == (line.says, line.where, line.ours)
        assert claim.verdict == (line.verdict or "not measured yet")
        assert claim.held == line.holds


def test_the_repository_s_papers_notebooks_and_claims_have_pages(
    repository: Project, our_pages: dict[str, str]
) -> None:
    pages, site = our_pages, gather(repository)
    assert {f"papers/{key}.md" for key in load_papers(repository)} <= pages.keys()
    assert {f"notebooks/{name}.ipynb" for name in repository.notebook_names() if name != "index"} <= pages.keys()
    assert {f"categories/{name}.md" for name in site.categories} <= pages.keys()
    for claim in site.claims:
        assert f"({claim_anchor(claim.id)})=" in pages[f"papers/{claim.paper}.md"]
    assert broken_links(pages) == []


def test_relations_are_shown_on_both_sides(pages: dict[str, str]) -> None:
    named, naming = markup_of(pages["papers/doe2020box.md"]), markup_of(pages["papers/eve2020attack0.md"])
    assert "eve2020attack0.html" in list(named.links())
    assert "doe2020box.html" in list(naming.links())
    assert "Disagreed with by Eve 2020" in named.text
    assert "This paper disagrees with Doe and Roe 2020" in naming.text
    assert "## Related papers" in pages["papers/doe2020box.md"]
    assert "## Related papers" in pages["papers/eve2020attack0.md"]


def test_a_claim_s_card_shows_verdict_numbers_and_testbeds(pages: dict[str, str]) -> None:
    text = " ".join(markup_of(pages["papers/doe2020box.md"]).text.split())
    assert "reproduced ●●● holds on 3 of 3 testbeds" in text
    assert "not reproduced ●○○ holds on 1 of 3 testbeds" in text
    assert "kept 0.91" in text
    for bed in BEDS:
        assert bed in text


def test_a_paper_without_a_notebook_says_why(pages: dict[str, str]) -> None:
    assert "out of reach at this scale" in markup_of(pages["papers/eve2020attack0.md"]).text.lower()
    assert "it is planned" in markup_of(pages["papers/poe1990nr0.md"]).text
    assert "A survey" in markup_of(pages["papers/poe1991nr1.md"]).text


def test_the_explorer_s_data_are_the_site_s(pages: dict[str, str], site: Site) -> None:
    [body] = re.findall(r'<script type="application/json" id="pm-data">(.*?)</script>', pages["explorer.md"])
    data = json.loads(body)
    assert [paper["key"] for paper in data["papers"]] == list(site.papers)
    assert [paper["title"] for paper in data["papers"]] == [paper.title for paper in site.papers.values()]
    assert sum(len(paper["claims"]) for paper in data["papers"]) == len(site.claims)
    for facet in ("category", "method", "tag", "status"):
        offered = {value for value, _ in data["choices"][facet]}
        assert {value for paper in data["papers"] for value in paper[facet]} <= offered


# Notebooks


def test_a_notebook_keeps_code_and_outputs_and_loses_only_what_needs_a_kernel(site: Site) -> None:
    live = {MIME: {"claim": "x"}, "application/javascript": "x", "application/vnd.jupyter.widget-view+json": {}}
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "x", "text/html": "<b>x</b>"} | live},
        {"output_type": "display_data", "metadata": {}, "data": {"application/javascript": "x"}},
        {"output_type": "stream", "name": "stdout", "text": "doe2020box"},
    ]
    code = {
        "cell_type": "code",
        "id": "c",
        "metadata": {},
        "execution_count": 1,
        "source": "`doe2020box`",
        "outputs": outputs,
    }
    text = {"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Title\n", "`doe2020box`"]}
    given_ = {"cells": [text, code], "metadata": {"widgets": {"x": 1}}, "nbformat": 4, "nbformat_minor": 5}
    before = copy.deepcopy(given_)
    page = prepared(given_, "editing/box", site)
    assert given_ == before
    assert page["metadata"] == {}
    assert [cell["id"] for cell in page["cells"]] == ["m", "paramem-site-hint", "c"]
    assert page["cells"][2]["source"] == "`doe2020box`"
    assert page["cells"][2]["outputs"][0]["data"] == {"text/plain": "x", "text/html": "<b>x</b>"}
    assert page["cells"][2]["outputs"][1:] == outputs[1:]
    assert "JupyterLab" in page["cells"][1]["source"]


def test_a_notebook_without_a_title_gets_its_name(site: Site) -> None:
    page = prepared({"cells": [], "metadata": {}}, "editing/box", site)
    assert page["cells"][0]["source"] == f"# {markdown(HOSTILE[0])}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("by `doe2020box`.", "by [`doe2020box`](../../papers/doe2020box.md)."),
        ("`doe2020box.works`", "[`doe2020box.works`](../../papers/doe2020box.md#claim-doe2020box-works)"),
        ("`doe2020box.unheard`", "`doe2020box.unheard`"),
        ("`nobody2020x` and ``doe2020box``", "`nobody2020x` and ``doe2020box``"),
        ("[`doe2020box`](https://example.org)", "[`doe2020box`](https://example.org)"),
        ("```\n`doe2020box` [x](y)\n```", "```\n`doe2020box` [x](y)\n```"),
        ("[start](../index.ipynb)", "[start](../../index.md)"),
        ("[box](box.ipynb#part)", "[box](box.ipynb)"),
        ("[a file](../../lib/x.py) ![i](i.png)", "a file ![i](i.png)"),
        ("[over two\nlines](gone.ipynb)", "over two\nlines"),
        ("[out](https://example.org/x) [here](#part)", "[out](https://example.org/x) [here](#part)"),
    ],
)
def test_links_of_notebooks(text: str, expected: str, site: Site) -> None:
    assert linked(text, "editing/box", site) == expected


def test_what_is_no_notebook_is_named(hostile: Project, site: Site, tmp_path: Path) -> None:
    from paramem.site.notebooks import notebook_pages

    path = tmp_path / "notebooks/editing/box.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(BadInput, match=r"box\.ipynb is no notebook"):
        list(notebook_pages(Project(root=tmp_path), site))


# Building


def test_only_what_changed_is_written_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    assert write_sources({"a.md": "1", "b/c.md": "2"}, tmp_path) == (["a.md", "b/c.md"], [])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")}
    time.sleep(0.01)
    assert write_sources({"a.md": "1", "b/d.md": "3"}, tmp_path) == (["b/d.md"], ["b/c.md"])
    assert (tmp_path / "a.md").stat().st_mtime_ns == times[tmp_path / "a.md"]
    assert not (tmp_path / "b/c.md").exists()


def test_the_same_checkout_gives_the_same_pages(hostile: Project, pages: dict[str, str]) -> None:
    assert sources(hostile) == pages
    assert len({page.path for page in all_pages(gather(hostile))}) == len(list(all_pages(gather(hostile))))


def test_the_fingerprint_follows_pages_settings_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "version", lambda name: "1")
    (tmp_path / "conf.py").write_text("x = 1")
    first = fingerprint({"a": "1"}, tmp_path)
    assert fingerprint({"a": "1"}, tmp_path) == first
    assert fingerprint({"a": "2"}, tmp_path) != first
    assert fingerprint({"b": "1"}, tmp_path) != first
    (tmp_path / "conf.py").write_text("x = 2")
    assert fingerprint({"a": "1"}, tmp_path) != first
    (tmp_path / "conf.py").write_text("x = 1")
    monkeypatch.setattr(builder, "version", lambda name: "2")
    assert fingerprint({"a": "1"}, tmp_path) != first


@pytest.fixture
def sphinx(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Sphinx's place taken by a recorder that writes a start page."""
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        called.append(command)
        Path(command[-1]).mkdir(parents=True, exist_ok=True)
        (Path(command[-1]) / "index.html").write_text("x")
        return type("Done", (), {"returncode": int("fail" in called[0])})

    monkeypatch.setattr(builder.subprocess, "run", run)
    monkeypatch.setattr(builder, "find_spec", lambda name: object())
    monkeypatch.setattr(builder, "version", lambda name: "1")
    return called


def test_sphinx_is_not_called_when_nothing_changed(hostile: Project, sphinx: list[list[str]], tmp_path: Path) -> None:
    for calls, whole in ((1, True), (1, True)):
        build(hostile, tmp_path, settings=SETTINGS)
        assert len(sphinx) == calls
        assert ("-E" in sphinx[-1]) is whole
    (tmp_path / "html/index.html").unlink()
    build(hostile, tmp_path, settings=SETTINGS)
    assert len(sphinx) == 2
    assert "-E" not in sphinx[-1], "the pages as Sphinx has read them are kept"


def test_after_a_failure_everything_is_read_again(
    hostile: Project, sphinx: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sphinx.append(["fail"])
    with pytest.raises(SiteFailed, match="warning"):
        build(hostile, tmp_path, settings=SETTINGS)
    sphinx.clear()
    build(hostile, tmp_path, settings=SETTINGS)
    assert "-E" in sphinx[-1]


def test_a_checkout_without_settings_is_refused(hostile: Project, sphinx: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(SiteFailed, match=r"no .*conf\.py"):
        build(hostile, tmp_path)
    assert sphinx == []


def test_the_command_builds_and_says_where(
    sphinx: list[list[str]], repository: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from paramem.cli import app

    done = CliRunner().invoke(app, ["site", "--out", str(tmp_path), "-j", "3"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'html/index.html'}" in done.output.replace("\n", "")
    assert sphinx[0][sphinx[0].index("-j") + 1] == "3"


def test_without_sphinx_the_remedy_is_named(hostile: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    with pytest.raises(SiteFailed, match="make site"):
        build(hostile, tmp_path)


# What the pages look like


def test_nothing_in_the_settings_asks_another_machine() -> None:
    for path in SETTINGS.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.stat().st_size < 100_000, path
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|//[a-z]+\.[a-z]+/", text), path


def test_every_verdict_has_its_colours() -> None:
    rules = (SETTINGS / "_static/site.css").read_text()
    for verdict in VERDICTS:
        for kind in ("verdict", "fill"):
            assert f".pm-{kind}.pm-{slug(verdict)}" in rules


def test_a_statement_of_ours_is_not_given_to_the_paper(repository: Project, our_pages: dict[str, str]) -> None:
    lines = [line for line in scores(load_taxonomy(repository), committed_results(repository)) if line.origin == "ours"]
    for line in lines:
        page = our_pages[f"papers/{line.claim.partition('.')[0]}.md"]
        card = page.split(f"({claim_anchor(line.claim)})=")[1].split("</article>")[0]
        assert "A statement of ours, not of the paper" in card
    cards = sum(text.count("A statement of ours, not of the paper") for text in our_pages.values())
    assert cards == len(lines)


def test_the_script_sets_text_and_never_markup() -> None:
    script = (SETTINGS / "_static/explorer.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script)
    assert "textContent" in script


def test_the_make_target_installs_and_builds() -> None:
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^site: \$\(SITE_STAMP\) .*\n\t\$\(BIN\)/paramem site ", text, re.M)
    assert re.search(r'^\$\(SITE_STAMP\): \$\(STAMP\)\n\t.*"\.\[site\]" -c constraints\.txt', text, re.M)
    for version in builder.VERSIONS:
        assert re.search(rf"^{version}==", (ROOT / "constraints.txt").read_text(), re.M)
