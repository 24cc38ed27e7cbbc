"""The built site in a real headless browser: this repository's, and one whose every text is an attack.

Slow, and it needs Chromium and the `site` extra: run it with ``make test-browser``.
"""

from __future__ import annotations

import functools
import http.server
import re
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import pytest

from conftest import ROOT
from paramem.project import Project
from paramem.site.build import build
from paramem.site.model import Site, gather
from paramem.site.parts import paper_path
from site_checkout import HOSTILE, SETTINGS, TITLES, write_checkout
from test_browser import chromium

pytestmark = pytest.mark.browser

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1300, "height": 900}
LIMIT_FULL, LIMIT_UNCHANGED = 90.0, 10.0  # seconds
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass
class Built:
    """A site on a plain static server, and the processor's seconds that its builds took."""

    html: Path
    content: Site
    address: str
    seconds: list[float]


def serve(html: Path) -> http.server.ThreadingHTTPServer:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=html))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def processor() -> float:
    """Seconds of this process and those it waited for: the clock of a busy machine says nothing about speed."""
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)


def built(project: Project, out: Path, times: int) -> Iterator[Built]:
    seconds = []
    for _ in range(times):
        started = processor()
        html = build(project, out, settings=SETTINGS).html
        seconds.append(processor() - started)
    server = serve(html)
    address = f"http://127.0.0.1:{server.server_port}/"
    yield Built(html=html, content=gather(project), address=address, seconds=seconds)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def ours() -> Iterator[Built]:
    """This repository's, where `make site` builds it."""
    yield from built(Project(root=ROOT), ROOT / "build/site", 1)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("hostile")
    yield from built(write_checkout(folder / "checkout", papers=30), folder / "site", 2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        yield started
        started.close()


@dataclass
class Tab:
    """A page, and everything that went wrong on it."""

    page: Any
    site: Built
    troubles: list[str] = field(default_factory=list)

    def open(self, name: str) -> Any:
        self.page.goto(self.site.address + name)
        return self.page


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """Opens tabs, and at the end nothing may have gone wrong on any of them."""
    tabs: list[Tab] = []

    def new(site: Built, **options: Any) -> Tab:
        context = browser.new_context(**{"viewport": DESK} | options)
        context.set_default_timeout(30_000)
        each = Tab(page=context.new_page(), site=site)
        page, troubles = each.page, each.troubles
        page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "response", lambda reply: troubles.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None
        )
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: troubles.extend(outside(asked.url, site)))
        tabs.append(each)
        return each

    yield new
    for each in tabs:
        each.page.context.close()
    assert [trouble for each in tabs for trouble in each.troubles] == []


def outside(url: str, site: Built) -> list[str]:
    return [] if url.startswith((site.address, "data:", "blob:")) else [f"asked another machine: {url}"]


def kinds(site: Built) -> list[str]:
    """A page of every kind, and every notebook."""
    content = site.content
    longest = sorted(content.papers.values(), key=lambda paper: len(paper.claims))
    names = [
        "index",
        "explorer",
        "scoreboard",
        "notebooks",
        "bibliography",
        "search",
        *map(paper, longest[-2:] + longest[:1]),
    ]
    names += [f"categories/{name}" for name in list(content.categories)[:2]]
    names += [f"notebooks/{name}" for name in content.notebooks]
    return [f"{name}.html" for name in names]


def longest_words(site: Built) -> list[str]:
    """The pages of the papers that have the longest name of a claim, and the claim counted on the most testbeds."""
    claims = [(view, claim) for view in site.content.papers.values() for claim in view.claims]
    named = max(claims, key=lambda each: len(each[1].name))
    counted = max(claims, key=lambda each: (each[1].undecided > 0, each[1].n))
    return [f"{paper(view)}.html" for view, _ in (named, counted)]


def paper(view: Any) -> str:
    return paper_path(view.key)


# The files


def test_full_and_unchanged_builds_are_fast(hostile: Built, ours: Built) -> None:
    assert max(hostile.seconds[0], ours.seconds[0]) < LIMIT_FULL
    assert hostile.seconds[1] < LIMIT_UNCHANGED


class Links(HTMLParser):
    """Addresses of a page: what it loads, where it leads, which places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        self.loads += [given[name] or "" for name in ("src", "poster") if name in given]
        if tag == "a" and given.get("href"):
            self.leads.append(given["href"] or "")
        if tag == "link" and {"stylesheet", "icon", "preload", "prefetch"} & set((given.get("rel") or "").split()):
            self.loads.append(given["href"] or "")


def unresolved(html: Path) -> list[str]:
    """Links within the site that lead nowhere, and what is loaded from elsewhere."""
    pages = {path: Links(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    problems = []
    for path, links in pages.items():
        name = path.relative_to(html)
        problems += [f"{name} loads {url}" for url in links.loads if re.match(r"https?:|//", url)]
        for url in links.loads + links.leads:
            if re.match(r"[a-z]+:|//", url):
                continue
            target, _, anchor = url.partition("#")
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not there.is_file():
                problems.append(f"{name}: {url}")
            elif (
                anchor
                and there in pages
                and there.name != "explorer.html"
                and unquote(anchor) not in pages[there].places
            ):
                problems.append(f"{name}: no such place: {url}")
    return problems


def test_every_link_resolves_and_nothing_is_loaded_from_elsewhere(ours: Built, hostile: Built, tmp_path: Path) -> None:
    for site in (ours, hostile):
        assert len(list(site.html.rglob("*.html"))) > len(site.content.papers)
        assert unresolved(site.html) == []
    bad = (
        '<a href="gone.html">x</a><a href="#gone">x</a><img src="https://example.org/x"><script src="gone.js"></script>'
    )
    (tmp_path / "index.html").write_text(bad)
    assert len(unresolved(tmp_path)) == 4, "the control"


def test_every_paper_is_three_clicks_away(ours: Built, hostile: Built) -> None:
    for site in (ours, hostile):
        away, edge = {site.html / "index.html": 0}, [site.html / "index.html"]
        while edge:
            here = edge.pop(0)
            for url in Links(here).leads:
                there = (here.parent / url.partition("#")[0]).resolve() if not re.match(r"[a-z]+:|#", url) else here
                if there.suffix == ".html" and there not in away:
                    away[there] = away[here] + 1
                    edge.append(there)
        assert max(away[site.html / f"{paper_path(key)}.html"] for key in site.content.papers) <= 3


# In the browser


def settle(page: Any) -> None:
    """Until MathJax, where a page has it, has drawn the last equation."""
    page.evaluate("window.MathJax?.startup?.promise?.then(() => null)")


def wide(page: Any) -> int:
    """How many pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


# Contrast of text with what is painted behind it, by the formula of WCAG 2; the lowest of what a selector finds.
CONTRAST = """(selector) => {
  const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(each).backgroundColor);
      if (a > 0.9) return [r, g, b];
    }
    return channels(getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "0 0 0" : "255 255 255");
  };
  const shown = [...document.querySelectorAll(selector)].filter((each) => each.offsetParent && each.textContent.trim());
  const ratios = shown.map((each) => {
    const [a, b] = [light(channels(getComputedStyle(each).color)), light(behind(each))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  return ratios.length ? Math.min(...ratios) : 99;
}"""
READ = ".bd-article p, .bd-article li, .bd-article a, .bd-article td, .bd-article th, .bd-article h1, .bd-article h2, "
READ += ".bd-article summary, .bd-article label, .pm-verdict, .pm-cite, .pm-note, .bd-article .output pre, "
READ += ".text_html div, .text_html b"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_of_page_opens_and_is_legible(ours: Built, tab: Any, scheme: str) -> None:
    opened = tab(ours, color_scheme=scheme)
    for name in kinds(ours):
        page = opened.open(name)
        settle(page)
        assert page.locator("h1").count() == 1, name
        assert page.locator("html").get_attribute("data-theme") == scheme
        assert page.evaluate(CONTRAST, READ) >= 4.5, name
        assert wide(page) <= 0, name
    faint = "document.querySelector('h1').style.cssText = 'color: #888; background: #777'"
    assert page.evaluate(f"() => {{ {faint}; return ({CONTRAST})('h1') }}") < 1.5, "the control"


def test_a_phone_s_width_is_kept(ours: Built, hostile: Built, tab: Any) -> None:
    for site in (ours, hostile):
        opened = tab(site, viewport=PHONE)
        for name in dict.fromkeys([*kinds(site), *longest_words(site)]):
            page = opened.open(name)
            settle(page)
            for folded in page.locator("details").all():
                folded.evaluate("(each) => { each.open = true }")
            assert wide(page) <= 0, name
            size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.bd-main')).fontSize)")
            assert size >= 14, name
    page.evaluate("document.querySelector('h1').style.width = '900px'")
    assert wide(page) > 0, "the control"


def test_equations_are_drawn(ours: Built, hostile: Built, tab: Any) -> None:
    for site, name in ((ours, "notebooks/editing/rome.html"), (hostile, "notebooks/editing/box.html")):
        page = tab(site).open(name)
        page.wait_for_selector("mjx-container svg path, mjx-container svg use", state="attached")
        assert page.locator("mjx-container").count() == page.locator(".math").count() > 0
        assert page.locator("mjx-container [data-mml-node=merror]").count() == 0
        assert page.locator("mjx-container").first.bounding_box()["width"] > 5
        assert "$$" not in page.locator(".bd-article").inner_text()


def test_figures_tables_and_claims_of_a_notebook_are_shown(ours: Built, tab: Any) -> None:
    page = tab(ours).open("notebooks/editing/rome.html")
    figures = page.locator(".cell_output img")
    assert figures.count() > 0
    assert all(each.evaluate("(image) => image.naturalWidth") > 100 for each in figures.all())
    assert page.locator(".cell_output table.dataframe").count() > 0
    assert page.locator(".cell_output >> text=meng2022rome.edit-success").count() > 0
    assert page.locator("text=make lab").count() == 1


@pytest.mark.parametrize("word", ["reversal", "berglund", "covariance"])
def test_the_search_page_finds(ours: Built, tab: Any, word: str) -> None:
    page = tab(ours).open(f"search.html?q={word}")
    page.wait_for_selector("#search-results ul.search li a")
    wanted = "papers/berglund2023reversal.html" if word != "covariance" else "papers/meng2022rome.html"
    page.wait_for_selector(f"#search-results a[href*='{wanted}']")
    page.goto(f"{ours.address}search.html?q=zzzunheardof")
    page.wait_for_selector("#search-results >> text=/did not match/")
    assert page.locator("#search-results ul.search li").count() == 0


def test_what_others_write_is_shown_and_never_run(hostile: Built, tab: Any) -> None:
    opened = tab(hostile)
    for name in [*kinds(hostile), *(f"{paper_path(key)}.html" for key in hostile.content.papers if "attack" in key)]:
        page = opened.open(name)
        assert page.evaluate("window.pwned") is None, name
        assert page.locator("iframe, img[src='x'], .bd-article a[href^='javascript']").count() == 0
    titles = {f"{paper_path(key)}.html": each.title for key, each in hostile.content.papers.items()}
    for name, title in titles.items():
        if "attack" in name:
            page = opened.open(name)
            heading = page.locator("h1").evaluate("(each) => each.firstChild.textContent")
            assert heading == title
            assert title in page.title()
    assert {title.replace("---", "\u2014") for title in TITLES} <= set(titles.values())
    text = " ".join(opened.open("papers/eve2020attack0.html").locator(".bd-article").text_content().split())
    assert all(" ".join(each.split()) in text for each in HOSTILE)
    page.set_content("<h1>x</h1><script>window.pwned = 1</script>")
    assert page.evaluate("window.pwned") == 1, "the control"


@pytest.mark.parametrize(
    "place", ["search.html?q=pwned", "search.html?q=script", "explorer.html#words=pwned", "explorer.html#view=claims"]
)
def test_searching_shows_hostile_titles_as_text(hostile: Built, tab: Any, place: str) -> None:
    page = tab(hostile).open(place)
    page.wait_for_selector("#search-results li a, #pm-results a")
    page.wait_for_timeout(1000)  # the search page loads a summary of each page it found
    shown = page.locator("#search-results, #pm-results").inner_text()
    assert "<script>window.pwned=1</script>" in shown or "window.pwned=" in shown
    assert page.evaluate("window.pwned") is None


def test_text_of_a_page_is_not_taken_for_mathematics(hostile: Built, tab: Any) -> None:
    page = tab(hostile).open("papers/eve2020attack0.html")
    settle(page)
    assert page.locator("mjx-container").count() == 0
    assert "$x^2$ $$y$$ \\(z\\)" in page.locator(".bd-article").text_content()


def test_a_page_may_not_ask_another_machine(ours: Built, browser: Any) -> None:
    """The pages' own policy, which holds whatever a later page or theme brings."""
    context = browser.new_context()
    page, replies = context.new_page(), []
    page.on("response", lambda reply: replies.extend(outside(reply.url, ours)))
    stop = "new Promise((done) => document.addEventListener('securitypolicyviolation', (e) => done(e.blockedURI)))"
    for element, name in (("img", "src"), ("script", "src"), ("iframe", "src"), ("link rel=stylesheet", "href")):
        page.goto(f"{ours.address}index.html")
        page.evaluate(f"() => {{ window.stopped = {stop} }}")
        markup = f"<{element} {name}='https://example.org/x'>"
        added = f"document.body.append(document.createRange().createContextualFragment({markup!r}))"
        assert "example.org" in page.evaluate(f"() => {{ {added}; return window.stopped }}"), element
    assert replies == []
    context.close()


# The explorer


def listed(page: Any) -> list[str]:
    """The keys of the papers shown, from the addresses of their titles."""
    links = page.locator("#pm-results .pm-title a").all()
    return [re.sub(r".*papers/(.*)\.html", r"\1", link.get_attribute("href")) for link in links]


def test_the_explorer_searches(ours: Built, tab: Any) -> None:
    page = tab(ours).open("explorer.html")
    content = ours.content
    assert listed(page) == list(content.papers)
    page.get_by_label("Search for").fill("reversal curse berglund")
    assert listed(page) == ["berglund2023reversal"]
    assert "berglund" in page.url
    page.get_by_label("Search for").fill("zzzunheardof")
    assert listed(page) == []
    assert "Nothing matches" in page.locator("#pm-count").inner_text()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function(f"document.querySelectorAll('#pm-results .pm-title').length === {len(content.papers)}")
    assert "#" not in page.url


def test_the_explorer_filters_by_each_facet(ours: Built, tab: Any) -> None:
    page, papers = tab(ours).open("explorer.html"), ours.content.papers
    some = papers["meng2022rome"]
    wanted = {
        "category": (
            "editing",
            [k for k, p in papers.items() if any(c.split("/")[0] == "editing" for c in p.categories)],
        ),
        "method": (some.methods[0].name, [k for k, p in papers.items() if some.methods[0] in p.methods]),
        "tag": (some.tags[0], [k for k, p in papers.items() if some.tags[0] in p.tags]),
        "status": ("notebook", [k for k, p in papers.items() if p.status == "notebook"]),
    }
    for facet, (value, keys) in wanted.items():
        assert 0 < len(keys) < len(papers)
        page.select_option(f"#pm-{facet}", value)
        assert listed(page) == keys, facet
        assert f"({len(keys)})" in page.locator(f"#pm-{facet} option:checked").inner_text()
        page.select_option(f"#pm-{facet}", "")
        assert listed(page) == list(papers)
    page.select_option("#pm-category", "editing")
    page.select_option("#pm-status", "notebook")
    assert listed(page) == [key for key in wanted["category"][1] if key in wanted["status"][1]]


def test_the_explorer_filters_claims_by_verdict(ours: Built, tab: Any) -> None:
    page, claims = tab(ours).open("explorer.html#view=claims"), ours.content.claims
    rows = page.locator("#pm-results tbody tr")
    assert rows.count() == len(claims)
    page.get_by_label("not reproduced").check()
    wanted = [claim for claim in claims if claim.verdict == "not reproduced"]
    assert 0 < len(wanted) < len(claims)
    assert rows.locator("td:nth-child(2) a").all_inner_texts() == [claim.says for claim in wanted]
    page.get_by_label("weaker").check()
    assert rows.count() == sum(claim.verdict in ("not reproduced", "weaker") for claim in claims)
    page.get_by_label("papers", exact=True).check()
    assert listed(page) == list(dict.fromkeys(c.paper for c in claims if c.verdict in ("not reproduced", "weaker")))


def test_an_address_of_the_explorer_is_a_view(ours: Built, tab: Any) -> None:
    opened = tab(ours)
    page = opened.open(f"explorer.html#{urlencode({'words': 'layer', 'category': 'editing', 'verdict': 'reproduced'})}")
    assert page.locator("#pm-words").input_value() == "layer"
    assert page.locator("#pm-category").input_value() == "editing"
    assert page.get_by_label("reproduced", exact=False).first.is_checked()
    first, url = listed(page), page.url
    assert first
    page.get_by_label("Search for").fill("")
    assert listed(page) != first
    page.goto(url)
    assert listed(page) == first
    page.evaluate("location.hash = '#words=berglund'")
    page.wait_for_function("document.getElementById('pm-words').value === 'berglund'")
    assert listed(page) == ["berglund2023reversal"]
    page = opened.open("explorer.html#category=no-such&verdict=none&view=odd&tag=%3Cscript%3E")
    assert page.locator("#pm-category").input_value() == ""


def test_from_the_start_page_to_a_paper_by_searching(ours: Built, tab: Any) -> None:
    page = tab(ours).open("index.html")
    page.get_by_label("Find a paper").fill("Berglund")
    page.locator(".pm-find button").click()
    page.wait_for_selector("#pm-results .pm-title a")
    assert listed(page) == ["berglund2023reversal"]
    page.locator("#pm-results .pm-title a").click()
    page.wait_for_selector("h1 >> text=Reversal Curse")


def test_the_explorer_is_usable_by_keyboard_and_by_ear(ours: Built, tab: Any) -> None:
    page = tab(ours).open("explorer.html")
    unnamed = (
        "(each) => each.type !== 'hidden' && !(each.labels && each.labels.length) && !each.getAttribute('aria-label')"
    )
    fields = f"Array.from(document.querySelectorAll('#pm-form input, #pm-form select')).filter({unnamed}).length"
    assert page.evaluate(fields) == 0
    page.locator("#pm-words").focus()
    page.keyboard.type("berglund")
    reached = []
    at = "document.activeElement.closest('#pm-results') ? 'a result' : document.activeElement.name"
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(f"{at} || document.activeElement.textContent"))
    assert {"category", "method", "tag", "status", "verdict", "view", "Clear", "a result"} <= set(reached)
    assert page.locator("#pm-count").get_attribute("aria-live") == "polite"


def test_without_scripts_the_categories_are_listed(ours: Built, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{ours.address}explorer.html")
    links = page.locator("noscript a, .bd-article a[href^='categories/']")
    assert links.count() >= len(ours.content.children(""))
    context.close()


def test_files_open_without_a_server(ours: Built, browser: Any) -> None:
    context = browser.new_context()
    page, troubles = context.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto((ours.html / "explorer.html").as_uri() + "#words=berglund")
    page.wait_for_selector("#pm-results .pm-title a")
    assert listed(page) == ["berglund2023reversal"]
    page.goto((ours.html / "notebooks/editing/rome.html").as_uri())
    page.wait_for_selector("mjx-container svg", state="attached")
    assert troubles == []
    context.close()
