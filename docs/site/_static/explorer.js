// The explorer: papers and claims, searched and filtered in the browser. The state is the address: what is chosen stands
// behind the '#', so that a view can be linked to. Text is only ever set as text, never as markup.
"use strict";

(() => {
  const FACETS = ["category", "method", "tag", "status"];
  const data = JSON.parse(document.getElementById("pm-data").textContent);
  const form = document.getElementById("pm-form");
  const results = document.getElementById("pm-results");
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

  for (const paper of data.papers) {
    const words = [paper.title, paper.authors, paper.cite, paper.key, paper.venue, paper.numbers, paper.summary];
    paper.text = fold([...words, ...paper.tag, ...paper.method, ...paper.category].join(" "));
    for (const claim of paper.claims) claim.text = fold(`${claim.name} ${claim.says}`);
  }

  // An element with text, classes and children.
  function make(name, options = {}, ...children) {
    const { text, ...attributes } = options;
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter(Boolean));
    return element;
  }

  function buildChoices() {
    for (const facet of FACETS)
      for (const [value, label] of data.choices[facet])
        form.elements[facet].append(make("option", { value, text: label, "data-label": label }));
    for (const [value] of data.choices.verdict) {
      const box = make("input", { type: "checkbox", name: "verdict", value });
      const word = make("span", { text: value, class: `pm-verdict pm-${value.replaceAll(" ", "-")}` });
      document.getElementById("pm-verdicts").append(make("label", {}, box, " ", word, " ", make("small")));
    }
  }

  // State: { words, category, method, tag, status, verdict: [...], view }.
  function fromForm() {
    const given = new FormData(form);
    const state = { words: given.get("words").trim(), verdict: given.getAll("verdict"), view: given.get("view") };
    for (const facet of FACETS) state[facet] = given.get(facet) ?? "";
    return state;
  }

  function toForm(state) {
    form.elements.words.value = state.words;
    for (const facet of FACETS) {
      form.elements[facet].value = state[facet];
      if (form.elements[facet].selectedIndex < 0) form.elements[facet].value = ""; // an address may name what is gone
    }
    for (const box of form.querySelectorAll("[name=verdict]")) box.checked = state.verdict.includes(box.value);
    form.elements.view.value = state.view === "claims" ? "claims" : "papers";
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1) || location.search);
    const state = { words: given.get("words") ?? "", verdict: given.getAll("verdict"), view: given.get("view") ?? "papers" };
    for (const facet of FACETS) state[facet] = given.get(facet) ?? "";
    return state;
  }

  function toAddress(state) {
    const chosen = new URLSearchParams();
    if (state.words) chosen.set("words", state.words);
    for (const facet of FACETS) if (state[facet]) chosen.set(facet, state[facet]);
    for (const verdict of state.verdict) chosen.append("verdict", verdict);
    if (state.view === "claims") chosen.set("view", "claims");
    history.replaceState(null, "", `${location.pathname}${chosen.size ? `#${chosen}` : ""}`);
  }

  // A category stands for those below it.
  const chosen = (values, value) => !value || values.some((each) => each === value || each.startsWith(`${value}/`));
  const within = (text, words) => words.every((word) => text.includes(word));

  // The claims of a paper that a state leaves, or null where the paper itself is left out.
  function claimsLeft(paper, state, words) {
    if (!FACETS.every((facet) => chosen(paper[facet], state[facet]))) return null;
    let claims = paper.claims;
    if (!within(paper.text, words)) {
      claims = claims.filter((claim) => within(`${paper.text} ${claim.text}`, words));
      if (words.length && !claims.length) return null;
    }
    if (state.verdict.length) {
      claims = claims.filter((claim) => state.verdict.includes(claim.verdict));
      if (!claims.length) return null;
    }
    return claims;
  }

  function search(state) {
    const words = fold(state.words).split(/\s+/).filter(Boolean);
    return data.papers
      .map((paper) => ({ paper, claims: claimsLeft(paper, state, words) }))
      .filter((found) => found.claims !== null);
  }

  // How many papers each choice of a filter would leave, the other filters staying as they are.
  function showCounts(state) {
    for (const facet of FACETS) {
      const found = search({ ...state, [facet]: "" });
      for (const option of form.elements[facet].options) {
        const number = found.filter(({ paper }) => chosen(paper[facet], option.value)).length;
        option.textContent = `${option.dataset.label ?? "all"} (${number})`;
      }
    }
    const claims = search({ ...state, verdict: [] }).flatMap((found) => found.claims);
    for (const box of form.querySelectorAll("[name=verdict]")) {
      const number = claims.filter((claim) => claim.verdict === box.value).length;
      box.parentElement.querySelector("small").textContent = `${number}`;
    }
  }

  const badge = (claim) => make("span", { text: claim.verdict, class: `pm-verdict pm-${claim.verdict.replaceAll(" ", "-")}` });

  const own = (claim) => (claim.own ? make("small", { text: " A statement of ours." }) : null);

  function paperItem({ paper, claims }) {
    const links = paper.notebooks.map((each) => make("a", { href: each.href, text: each.title }));
    const listed = claims.map((claim) =>
      make("li", {}, badge(claim), " ", make("a", { href: claim.href, text: claim.says }), own(claim)));
    return make("li", { class: "pm-paper" },
      make("p", { class: "pm-title" }, make("a", { href: paper.href, text: paper.title })),
      make("p", { class: "pm-cite", text: paper.venue ? `${paper.cite}, ${paper.venue}` : paper.cite }),
      make("p", { text: paper.summary }),
      links.length ? make("p", {}, "Notebook: ", ...links.flatMap((link, i) => (i ? [", ", link] : [link]))) : null,
      listed.length ? make("ul", { class: "pm-found" }, ...listed) : null);
  }

  function claimsTable(found) {
    const head = ["verdict", "claim", "the paper reports", "here", "holds on", "paper"];
    const rows = found.flatMap(({ paper, claims }) => claims.map((claim) =>
      make("tr", {},
        make("td", { "data-label": head[0] }, badge(claim)),
        make("td", { "data-label": head[1] }, make("a", { href: claim.href, text: claim.says }), own(claim)),
        make("td", { "data-label": head[2], text: claim.reported || "-" }),
        make("td", { "data-label": head[3], text: claim.ours || "-" }),
        make("td", { "data-label": head[4], text: claim.holds || "-" }),
        make("td", { "data-label": head[5] }, make("a", { href: paper.href, text: paper.cite, title: paper.title })))));
    const table = make("table", { class: "pm-table pm-board" },
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col", text })))),
      make("tbody", {}, ...rows));
    return make("div", { class: "pm-scroll", tabindex: "0", role: "region", "aria-label": "Claims found" }, table);
  }

  function show(state) {
    const found = search(state);
    const claims = found.reduce((sum, each) => sum + each.claims.length, 0);
    const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
    document.getElementById("pm-count").textContent =
      found.length ? `${plural(found.length, "paper")}, ${plural(claims, "claim")}` : "Nothing matches. Clear a filter or a word.";
    results.replaceChildren(state.view === "claims"
      ? claimsTable(found)
      : make("ul", { class: "pm-papers" }, ...found.map(paperItem)));
    showCounts(state);
  }

  function changed() {
    const state = fromForm();
    toAddress(state);
    show(state);
  }

  function followAddress() {
    toForm(fromAddress());
    show(fromForm());
  }

  buildChoices();
  followAddress();
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
  form.addEventListener("reset", () => setTimeout(changed)); // after the browser has emptied the form
  window.addEventListener("hashchange", followAddress);
})();
