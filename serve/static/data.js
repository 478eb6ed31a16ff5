// Data: images that somebody should look at. A mark is a tag in the store; no label is changed.
import { address, ask, askIfThere, count, empty, fill, h, link, named, otherMeasure, pathOf, picture, prose, replace, say, waiting, whileBusy, written } from "./parts.js";

const KINDS = [["labels", "Suspected labels"], ["outliers", "Outliers"], ["twins", "Twins"], ["bad", "Bad images"], ["tags", "Marked"]];
const ABOUT = {
  labels: "The neighbours of these images are of another class, the most contradicted first. The network may be wrong, or the label.",
  outliers: "Images that are far from all others, the farthest first.",
  twins: "Images that show one picture: re-encoded, resized, turned, cropped, brightened.",
  bad: "Images without features: they could not be read.",
  tags: "Images that carry a mark. Marks are kept in the store, and change no label.",
};
const NONE = { labels: "No label is contradicted by its neighbours.", outliers: "No image is far from all others.", twins: "No two images show one picture.", bad: "Every image could be read.", tags: "No image has a mark yet. Mark images in the other lists." };
const TAGS = { labels: "wrong-label", outliers: "outlier", twins: "twin", bad: "bad-image" };
const PAGE = 100, MOST = 10000; // entries: of one part, and at most

export const parameters = () => ({ kind: KINDS.map(([name]) => name), lines: (value) => (String(wantedLines(value)) === value ? "" : `from ${PAGE} to ${MOST} entries are shown, ${wantedLines(value)} here`) });

const wantedLines = (value) => Math.min(MOST, Math.max(PAGE, Math.round(Number(value)) || PAGE));

export function view(place, { facts, go, source, about, life }) {
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Lists" });
  const limits = h("div", { class: "limits" }), body = h("div");
  place.append(h("h1", { class: "unseen" }, "Data: images to look at"), limits, tabs, body);
  const rests = (shown) => (Object.keys(facts.classes).length ? `the analysis made this list by ${shown}` : `without labels, this list is by ${shown}`);
  if (!facts.analysis_needs && Object.keys(facts.classes).length) fill(limits, life, async () => {
    const told = await askIfThere("report", { features: source.features, section: "data" }, { signal: life });
    return told?.sections.data ? allowed(told.sections.data, life) : [];
  }, waiting(4, "Loading what the data allow"));
  // Outliers of a set without an analysis are found by the chosen measure.
  const asked = (kind) => ({ features: source.features, measure: kind === "outliers" && facts.analysis_needs ? facts.measure : undefined });
  let shown = "", entries = 0;

  const show = (kind, limit) => fill(body, life, async () => {
    const tags = await ask("tags", {}, { signal: life });
    const told = await ask(pathOf("lists", kind), { ...asked(kind), limit }, { signal: life });
    if (!told.lines.length && told.needs) return empty("Not known yet", `This needs ${told.needs}.`);
    if (!told.lines.length) return empty(kind === "tags" ? "Nothing is marked" : "Nothing to look at", NONE[kind]);
    const lines = h("div", { class: "lines" }, told.lines.map((line) => entry(kind, line, tags, source)));
    return [h("p", { class: "lead" }, ABOUT[kind]), told.measure ? otherMeasure(told.measure, facts, rests(told.measure)) : null,
      h("div", { class: "controls" }, h("b", {}, `${count(told.n_lines)} ${told.n_lines === 1 ? "entry" : "entries"}`),
        kind === "tags" ? h("span", { class: "soft small" }, Object.entries(tags.counts).map(([name, n]) => `${name} ${count(n)}`).join(", ")) : null,
        [["csv", "Save as CSV"], ["latex", "LaTeX"], ["parquet", "Parquet"]].map(([form, title]) => h("a", { class: "button", download: true, href: address(pathOf("lists", kind, "file"), { form, ...asked(kind) }) }, title))),
      told.needs ? h("p", { class: "soft" }, `For a complete list: ${told.needs}.`) : "",
      lines, more(kind, lines, tags, told.n_lines)];
  }, waiting(5, "Loading the list"));

  // The button below a part of a list, which adds the next part.
  function more(kind, lines, tags, all) {
    const place = h("p");
    const draw = (line = "") => {
      const there = lines.childElementCount, rest = all - there;
      if (rest <= 0) { place.replaceChildren(); return; }
      const button = h("button", { type: "button", class: "more", onclick: () => add(button) }, `${count(Math.min(rest, PAGE))} more`);
      place.replaceChildren(button, h("span", { class: line ? "wrongline small" : "soft small" }, line || ` ${count(there)} of ${count(all)} are shown.`));
    };
    const add = (button) => whileBusy(button, async () => {
      const offset = lines.childElementCount;
      try {
        const told = await ask(pathOf("lists", kind), { ...asked(kind), limit: PAGE, offset }, { signal: life });
        lines.append(...told.lines.map((line) => entry(kind, line, tags, source)));
        say(`${count(lines.childElementCount)} of ${count(all)} are shown`);
        draw();
        // The way back, and a link, show as many.
        entries = wantedLines(lines.childElementCount);
        go({ lines: entries }, { replace: true });
        // The keyboard goes on where the new part begins.
        lines.children[offset]?.querySelector("a, button")?.focus({ preventScroll: true });
      } catch (error) {
        if (error.name === "AbortError") return;
        draw(` ${error.message}`);
        place.querySelector("button")?.focus({ preventScroll: true });
      }
    });
    draw();
    return place;
  }

  return (values) => {
    const kind = KINDS.some(([name]) => name === values.kind) ? values.kind : "labels";
    about(KINDS.find(([name]) => name === kind)[1]);
    replace(tabs, ...KINDS.map(([name, title]) => h("a", { href: link("data", { ...source, kind: name }), "aria-current": name === kind ? "page" : undefined }, title)));
    // On a phone not all of them are in sight.
    const chosen = tabs.querySelector("[aria-current]");
    tabs.scrollLeft = chosen.offsetLeft + chosen.offsetWidth / 2 - tabs.offsetLeft - tabs.clientWidth / 2;
    const wanted = wantedLines(values.lines);
    if (kind === shown && wanted === entries) return;
    [shown, entries] = [kind, wanted];
    show(kind, wanted);
  };
}

// The sentences, and below them bounds and curve: folded, or the lists would be far down.
function allowed(html, life) {
  const place = written(html, life), section = place.firstElementChild, drawn = section.querySelector("figure");
  const parts = [...section.children].slice([...section.children].findIndex((one) => one.matches(".tablebox")));
  section.append(h("details", {}, h("summary", {}, drawn ? "Bounds, and a curve over the number of images" : "Bounds"),
    h("div", { class: drawn ? "two" : "" }, h("div", {}, parts.filter((one) => one !== drawn)), drawn)));
  return place;
}

// One line of a list.
export function entry(kind, line, tags, source) {
  const [first, second] = line.images, same = second?.image === first.image;
  const shown = same ? [first] : line.images, stored = shown.filter((image) => image.image);
  const href = second && !same ? link("ask", { ...source, image: first.image, with: second.image }) : link("ask", { ...source, image: first.image });
  const inside = shown.map((image) => picture(line.bad ? { ...image, image: "" } : image));
  const says = {
    labels: () => [h("b", {}, first.label), " or ", h("b", {}, line.suggested), "?", h("p", { class: "soft small" }, `margin ${line.score.toFixed(2)} (0: all neighbours say the other)`), h("p", { class: "soft small" }, prose(line.why.split("; ")[1] ?? ""))],
    outliers: () => [h("b", {}, first.label ?? named(first)), h("p", { class: "soft small" }, `${line.score.toFixed(1)} robust standard deviations out`)],
    twins: () => [h("b", {}, prose(line.why)), same ? null : h("p", { class: "small" }, prose(labelsOf(first, second))),
      same ? null : h("p", { class: "soft small" }, line.score === null ? "of one group" : `correlation ${line.score.toFixed(3)}`)].filter(Boolean),
    bad: () => [h("b", {}, named(first)), h("p", { class: "small" }, prose(line.why)), first.image ? null
      : h("p", { class: "soft small" }, "A mark belongs to the bytes of an image, and these were never read.")].filter(Boolean),
    tags: () => [h("b", {}, first.label ?? (first.path ? named(first) : "not in the set any more"))],
  }[kind]();
  const marks = kind === "tags" ? line.why.split(", ") : [TAGS[kind]];
  return h("article", { class: "entry card" },
    h("div", { class: "pictures" }, first.split === null ? inside : h("a", { href }, inside)),
    h("div", {}, says, line.images.map((image) => h("p", { class: "soft small path" }, image.path, image.split ? ` · ${image.split.replace("_", " ")}` : "")),
      stored.length ? h("div", { class: "chips" }, marks.map((tag) => mark(stored, tag, tags))) : null));
}

// The labels of twins.
function labelsOf(...images) {
  const labels = [...new Set(images.map((one) => one.label))];
  if (labels.length === 1) return labels[0] === null ? "" : `both “${labels[0]}”`;
  return labels.map((one) => (one === null ? "no label" : `“${one}”`)).join(" and ");
}

// A mark that is on or off.
function mark(images, tag, tags) {
  const on = () => images.every((image) => (tags.images[image.image] || []).includes(tag));
  const button = h("button", { type: "button", class: "mark-it", "aria-pressed": String(on()) }, `mark: ${tag}`);
  button.addEventListener("click", () => whileBusy(button, async () => {
    const present = button.getAttribute("aria-pressed") !== "true";
    try {
      await ask(pathOf("tags", tag), {}, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ images: images.map((image) => image.image), present }) });
      button.setAttribute("aria-pressed", String(present));
      say(`${tag}: ${present ? "marked" : "not marked any more"}`);
    } catch (error) {
      say(error.message);
      button.title = error.message;
      button.classList.add("wrongline");
    }
  }));
  return button;
}
