"""The commands that read the literature: ``papers``, ``show``, ``bib``, ``format``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paramem.errors import BadParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from paramem.bibliography import Paper
    from paramem.report import Score
    from paramem.taxonomy import Taxonomy


def console_for(width_in_files: int = 160) -> Console:
    """The terminal, or lines of a fixed width where output goes into a file."""
    from rich.console import Console

    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=max(console.width, width_in_files), emoji=False)


def papers(
    search: Annotated[list[str] | None, typer.Argument(help="Words that all occur in the entry or the title.")] = None,
    category: Annotated[str, typer.Option(help="Only this category, as in editing or editing/mastery.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Only papers with this tag; repeatable.")] = None,
    text: Annotated[str, typer.Option(help="The same as words without an option.")] = "",
    status: Annotated[str, typer.Option(help="notebook, planned, survey or 'out of reach'.")] = "",
    claims: Annotated[bool, typer.Option("--claims", help="With the claims of each paper.")] = False,
) -> None:
    """List the papers by category, each in all of its categories; in a file or a pipe, lines are not wrapped."""
    from rich.markup import escape

    from paramem.bibliography import load_papers
    from paramem.catalogue import Query, find
    from paramem.project import Project
    from paramem.taxonomy import load_taxonomy

    project = Project.find()
    taxonomy, bibliography = load_taxonomy(project), load_papers(project)
    words = " ".join([*(search or []), text]).strip()
    query = Query(text=words, category=category, tags=tag or (), status=status).checked(taxonomy)
    keys = find(query, taxonomy, bibliography)
    console = console_for()
    if not keys:
        asked = [repr(words) if words else "", category, *(tag or ()), status]
        console.print(escape(f"no paper matches {', '.join(part for part in asked if part)}"), highlight=False)
        return
    print_papers(keys, taxonomy, bibliography, console, claims=claims, within=category)


def print_papers(
    keys: list[str],
    taxonomy: Taxonomy,
    bibliography: dict[str, Paper],
    console: Console,
    *,
    claims: bool,
    within: str = "",
) -> None:
    """The papers as a tree of categories; a paper with two places stands in both."""
    from rich.markup import escape
    from rich.tree import Tree

    from paramem.catalogue import by_category

    several = len(keys) != 1
    tree = Tree(f"{len(keys)} paper{'s' * several}", guide_style="dim")
    for name, category, inside in by_category(keys, taxonomy, within):
        branch = tree.add(f"[bold]{escape(name)}[/]  {escape(category.title)}")
        for key in inside:
            entry, paper = taxonomy.entries[key], bibliography.get(key)
            cite = f"{paper.cite()}. {paper.title}" if paper else "not in papers.bib"
            state = ", ".join(f"notebooks/{notebook}.ipynb" for notebook in entry.notebooks) or entry.state
            leaf = branch.add(f"[cyan]{escape(key)}[/]  {escape(cite)}  [dim]{escape(state)}[/]")
            for claim_id in [f"{key}.{claim}" for claim in entry.claims] if claims else []:
                claim = taxonomy.claims[claim_id]
                place = claim.notebook if claim.notebook and claim.status is None else claim.status
                leaf.add(escape(f"{claim_id} ({place}): {claim.says}"))
    if console.is_terminal:
        console.print(tree, highlight=False)
    else:
        wide = type(console)(width=10_000, emoji=False, file=console.file)
        with wide.capture() as captured:
            wide.print(tree, highlight=False)
        typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show(
    key: Annotated[
        str, typer.Argument(help="Only this paper (meng2022rome, or its arXiv number) or this claim of it.")
    ] = "",
    verdict: Annotated[str, typer.Option(help="Only claims of this verdict: reproduced, undecided, ...")] = "",
    style: Annotated[str, typer.Option("--format", help="table, json or markdown.")] = "table",
    write: Annotated[bool, typer.Option("--write", help="Write README and docs/papers/.")] = False,
) -> None:
    """Show the scoreboard from the committed results; with a paper's key, all that is known about the paper."""
    import json

    from paramem import report
    from paramem.bibliography import key_of, load_papers
    from paramem.catalogue import paper_json
    from paramem.pages import scoreboard_markdown, write_generated
    from paramem.project import Project
    from paramem.taxonomy import load_taxonomy

    project = Project.find()
    taxonomy = load_taxonomy(project)
    lines = report.scores(taxonomy, report.committed_results(project))
    if (key or verdict) and write:
        raise BadParameter(f"show {key or '--verdict'} --write: the README holds the whole scoreboard; leave it out")
    if style not in ("table", "json", "markdown"):
        raise BadParameter(f"--format {style!r}: table, json or markdown")
    papers = load_papers(project) if key else {}
    if key:
        key = key_of(key, papers)
        lines = report.of_paper(lines, key, taxonomy)
    lines = report.with_verdict(lines, verdict) if verdict else lines
    paper = papers.get(key.partition(".")[0])
    if write:
        for name in write_generated(project):
            typer.echo(f"wrote {name}" if (project.root / name).is_file() else f"removed {name}")
    elif style == "json":
        data = report.scoreboard_json(lines)
        if key in taxonomy.entries:
            data = {"paper": paper_json(key, taxonomy, paper, lines), **data}
        typer.echo(json.dumps(data, indent=1))
    elif style == "markdown":
        typer.echo(scoreboard_markdown(lines))
    else:
        console = console_for()
        if key in taxonomy.entries:
            print_paper(key, taxonomy, paper, console)
        if lines:
            console.print(
                report.scoreboard_table(lines, statements=not key and console.width >= 130)
                if not key
                else claims_of(lines, console)
            )
        for sentence in report.contradictions(key, taxonomy) if key else ():
            typer.echo(sentence)


def print_paper(key: str, taxonomy: Taxonomy, paper: Paper | None, console: Console) -> None:
    """One paper: bibliography, what we say about it, neighbours and opponents on both sides."""
    from rich.markup import escape

    from paramem.report import disagreements

    entry = taxonomy.entries[key]
    console.print(f"[bold]{escape(paper.title if paper else key)}[/]", highlight=False)
    if paper is not None:
        console.print(escape("; ".join(paper.authors) or "author unknown"), highlight=False)
        where = ", ".join(part for part in (paper.venue, str(paper.year)) if part)
        posted = f" (first posted in {paper.posted})" if paper.posted and paper.posted != paper.year else ""
        console.print(escape(f"{where}{posted}"), highlight=False)
    rows = [
        ("key", key),
        ("link", paper.link if paper else ""),
        ("category", ", ".join([entry.category, *entry.also])),
        ("status", entry.state + (f": {entry.reason}" if entry.reason else "")),
        ("tags", ", ".join(entry.tags)),
        ("summary", entry.summary),
        ("computes", entry.computes or ""),
        ("notebooks", ", ".join(f"notebooks/{name}.ipynb" for name in entry.notebooks)),
        ("methods", ", ".join(entry.methods)),
        *entry.links.items(),
        ("code licence", entry.code_licence or ""),
        ("corrections", "\n".join(entry.corrections)),
        ("related", "\n".join(f"{other}" for other in taxonomy.related(key))),
        ("disagrees", "\n".join(disagreements(key, taxonomy))),
    ]
    console.print(_facts(rows))
    if paper is not None:
        console.print()
        for line in paper.bibtex.splitlines():
            typer.echo(line)
        console.print()


def _facts(rows: list[tuple[str, str]]) -> Table:
    """Names and values in two columns, without those that are empty."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(escape(name), escape(value))
    return table


def claims_of(lines: list[Score], console: Console) -> Table:
    """The claims of one paper, one below the other: they fit into any width."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Claims, paper beside ours", title_justify="left", show_header=False, show_lines=True)
    table.add_column(overflow="fold")
    for line in lines:
        parts = [f"[bold]{escape(line.claim)}[/]  " + _outcome(line)]
        parts.append(escape(line.says) + (f" [dim]({escape(line.where)})[/]" if line.where else ""))
        parts += [f"[dim]paper:[/] {escape(line.reported)}"] if line.reported else []
        parts += [f"[dim]ours:[/]  {escape(line.ours)}"] if line.ours else []
        parts += [f"[dim]why:[/]   {escape(line.reason)}"] if line.reason else []
        table.add_row("\n".join(parts))
    return table


def _outcome(line: Score) -> str:
    """``holds on 0 of 6: not reproduced``."""
    from paramem.report import coloured

    return f"holds on {line.holds}: {coloured(line)}" if line.holds else coloured(line)


def bib(
    keys: Annotated[list[str], typer.Argument(help="Bib keys, as in meng2022rome; all for the whole bibliography.")],
) -> None:
    """Print BibTeX entries, ready for a LaTeX document."""
    from paramem.bibliography import load_papers
    from paramem.findings import nearest
    from paramem.project import Project

    known = load_papers(Project.find())
    wanted = list(known) if keys == ["all"] else _without_claims(keys, known)
    for key in wanted:
        if key not in known:
            raise BadParameter(f"no entry {key!r} in papers.bib; {nearest(key, known) or 'paramem papers lists them'}")
    typer.echo("\n\n".join(known[key].bibtex for key in wanted))


def _without_claims(names: Sequence[str], papers: Mapping[str, Paper]) -> list[str]:
    """The papers that are named, each once: by key, by a claim's full name, by arXiv number or doi."""
    from paramem.bibliography import key_of

    found = [key_of(name, papers) for name in names]
    return list(dict.fromkeys(key if key in papers else key.partition(".")[0] for key in found))


def tidy(
    check: Annotated[bool, typer.Option("--check", help="Only say whether it would change.")] = False,
) -> None:
    """Bring papers.bib into its one layout: fields and entries in order, lines wrapped, comments kept."""
    from paramem.formatting import formatted_bib
    from paramem.project import Project
    from paramem.results import write_atomically

    project = Project.find()
    text = formatted_bib(project)
    if text == project.bib.read_text(encoding="utf-8"):
        typer.echo("papers.bib is in its layout")
        return
    if check:
        typer.echo("papers.bib is not in its layout; run: paramem format")
        raise typer.Exit(1)
    write_atomically(project.bib, text)
    typer.echo("wrote papers.bib")


def register(app: typer.Typer) -> None:
    """Give the commands to the application."""
    app.command()(papers)
    app.command()(show)
    app.command()(bib)
    app.command("format")(tidy)
