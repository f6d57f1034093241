// What is wrong with this page, in words; asked of the browser's own tree and not of the text.
const wrong = [];
const shown = e => e.getClientRects().length > 0;
const name = e => (e.getAttribute("aria-label") || (e.labels && [...e.labels].map(l => l.textContent).join(" "))
    || e.textContent || [...e.querySelectorAll("img")].map(i => i.alt).join(" ") || "").trim();
if (!document.documentElement.lang) wrong.push("the page says no language");
if (!document.title) wrong.push("the page has no title");
const first = document.querySelector("a, button, input");
if (!first || first.getAttribute("href") !== "#main") wrong.push("the first stop is no way past the header");
if (document.querySelectorAll("main").length !== 1) wrong.push("not one main part");
if (document.querySelectorAll("h1").length !== 1) wrong.push(document.querySelectorAll("h1").length + " h1");
let last = 0;
for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
  const level = Number(h.tagName[1]);
  if (last && level > last + 1) wrong.push("heading skips a level: " + h.textContent.trim());
  last = level;
}
for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
  if (!(e.getAttribute("aria-label") || (e.labels && e.labels.length))) wrong.push("no label: " + e.outerHTML);
for (const e of document.querySelectorAll("a, button, summary")) {
  if (!name(e)) wrong.push("no name: " + e.outerHTML);
  if (e.tabIndex < 0) wrong.push("not reached with the keyboard: " + e.outerHTML);
}
for (const e of document.querySelectorAll("img")) {
  if (!e.hasAttribute("alt")) wrong.push("no alternative text: " + e.outerHTML);
  if (!e.hasAttribute("width") || !e.hasAttribute("height")) wrong.push("no size: " + e.outerHTML);
}
for (const e of document.querySelectorAll("table")) if (!e.querySelector("th")) wrong.push("a table without headings");
const ids = new Set();
for (const e of document.querySelectorAll("[id]")) {
  if (ids.has(e.id)) wrong.push("twice the id " + e.id);
  ids.add(e.id);
}
for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
  for (const id of (e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby")).split(" "))
    if (!ids.has(id)) wrong.push("points at no " + id);
for (const e of document.querySelectorAll("main button, main .button, nav a"))
  if (shown(e) && !e.closest("[hidden]") && e.getBoundingClientRect().height < 24) wrong.push("too small to touch: " + e.outerHTML);
if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than the screen: " + document.documentElement.scrollWidth);
const brand = document.querySelector(".brand span"), links = document.querySelector(".top-links");
if (brand && links && brand.getBoundingClientRect().right > links.getBoundingClientRect().left + 1
    && brand.getBoundingClientRect().bottom > links.getBoundingClientRect().top
    && links.getBoundingClientRect().bottom > brand.getBoundingClientRect().top) wrong.push("the name and the links overlap");
return wrong;
