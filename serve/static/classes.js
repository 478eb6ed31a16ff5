// Classes: which are alike, and what two of them look like at their nearest and farthest.
import { analysedMeasure, ask, count, distance, empty, figure, figureText, fill, h, isolated, link, otherMeasure, pictureLink, plainText, prose, replace, say, select, sentences, unlabelled, waiting } from "./parts.js";
import { bar } from "./answers.js";

const HIGHEST = 640, SCALE = 50; // pixels: the matrix at most, and the scale of colours beside it
const LISTED = 1000; // classes of the list
const NARROW = 480, LONGEST = 7; // pixels of a phone, and there the characters of a name beside the matrix

export const parameters = ({ classes }) => ({ first: Object.keys(classes), second: Object.keys(classes) });

export function view(place, { facts, go, source, about, life }) {
  const names = Object.keys(facts.classes);
  if (!names.length) {
    place.append(h("h1", { class: "unseen" }, "Classes"), unlabelled(facts,
      "Classes need labels. The map, the neighbours and the list of twins work without them.",
      h("p", {}, h("a", { class: "button", href: link("map", source) }, "See the map"))));
    return () => {};
  }
  const matrix = h("section", { class: "card", "aria-label": "Distances between classes" });
  const list = h("section", { class: "card", "aria-label": "Classes by sameness" });
  const pair = h("section", { class: "pairofclasses", "aria-label": "Two classes" });
  const lacking = names.length < 2 ? empty("One class alone", "Distances between classes, and their scores, need two classes.")
    : facts.analysis_needs ? empty("Not analysed yet", `Distances between classes, and their scores, need ${facts.analysis_needs}.`) : null;
  place.append(h("h1", { class: "unseen" }, "Classes"), lacking ?? h("div", { class: "two" }, matrix, list), pair);
  const analysed = { ...source, measure: analysedMeasure(facts) };
  let shown = "";

  const above = lacking ? [] : [fill(matrix, life, async () => {
    const told = await ask("class-matrix", analysed, { signal: life });
    const head = [h("h2", {}, "Mean distance between classes"), otherMeasure(told.measure, facts)];
    const nearest = [h("h3", {}, "Nearest to each other"),
      h("div", { class: "chips" }, told.nearest.map((one) => h("a", { class: "button", href: link("classes", { ...source, first: one.class_a, second: one.class_b }), title: ratio(one) },
        h("bdi", {}, one.class_a), " – ", h("bdi", {}, one.class_b), " ", h("span", { class: "soft" }, distance(one.between)))))];
    if (!told.figure) return [head, h("p", { class: "soft", role: "status" }, sentences(told.notes)), nearest];
    const box = h("div", { role: "img", "aria-label": `Mean distances between ${told.order.length} classes, similar ones beside each other` });
    // A screen has not the pixels for every class of thousands.
    const blocks = told.figure.data[0].x.length < told.order.length;
    const says = h("p", { class: "soft small", role: "status" },
      `Similar classes are beside each other. Dark cells are small distances. The diagonal is the distance within a class. ${blocks ? "A cell can be a block of classes. " : ""}Click a cell.`);
    requestAnimationFrame(() => figure(box, square(told.figure, box)).then(() => {
      if (!box.on) return;
      box.on("plotly_click", (event) => {
        const { customdata, x, y } = event.points[0], [first, second] = (customdata || [y, x]).map(plainText);
        if (names.includes(first) && names.includes(second)) go({ first, second });
        else says.replaceChildren(...prose(`“${names.includes(first) ? second : first}” is a block of classes: choose two classes below.`));
      });
    }).catch((error) => box.replaceChildren(error.message)));
    return [head, says, box, nearest];
  }, waiting(6, "Loading the classes")),
  fill(list, life, async () => {
    const told = await ask("classes", { ...analysed, limit: LISTED }, { signal: life });
    const low = Math.min(0, ...told.rows.map((row) => row.sameness ?? 0));
    const table = h("div", {}, h("div", { class: "tablebox tall" }, h("table", {}, h("thead", {}, h("tr", {}, ["Class", "Images", "Sameness", "", "Within", "Between"].map((name, i) =>
        h("th", { class: [0, 3].includes(i) ? "t" : "n", scope: "col" }, name)))),
      h("tbody", {}, told.rows.map((row) => h("tr", {}, h("td", { class: "classname" }, h("a", { href: link("classes", { ...source, first: row.class, second: row.class }) }, row.class)),
        h("td", { class: "n" }, count(row.n)), h("td", { class: "n" }, row.sameness === null ? "–" : [row.sameness.toFixed(3).replace("-", "\u2212"), span(row)]),
        h("td", { class: "wide" }, bar(((row.sameness ?? 0) - low) / (1 - low), "accent")),
        h("td", { class: "n" }, row.intra_mean === null ? "–" : distance(row.intra_mean)), h("td", { class: "n" }, row.inter_mean === null ? "–" : distance(row.inter_mean))))))));
    Shown.savable(table.querySelector("table"), "classes");
    return [h("h2", {}, "Classes by sameness, the lowest first"),
      h("p", { class: "soft small" }, `By ${told.measure}. ${told.n_rows > LISTED ? `The first ${count(LISTED)} of ${count(told.n_rows)} classes. ` : ""}0 is chance, 1 is perfect. ${told.rows.some((row) => row.sameness_low != null) ? "Under each is the 95 % interval of this class alone; classes of fewer than 5 images have none. " : ""}Within and between are mean distances.`),
      table];
  }, waiting(6, "Loading the scores of classes"))];

  return (values) => {
    const [first, second] = [values.first || names[0], values.second || values.first || names[Math.min(1, names.length - 1)]];
    const wanted = `${first}\n${second}`;
    if (values.first) about(first === second ? `Within ${isolated(first)}` : `${isolated(first)} and ${isolated(second)}`);
    else about("");
    if (wanted === shown) return;
    shown = wanted;
    const unknown = [...new Set([first, second])].filter((name) => !names.includes(name));
    const options = [...unknown.map((name) => [name, `${isolated(name)}: not known`, { disabled: true }]), ...names.map((name) => [name, isolated(name)])];
    const heading = h("div", { class: "controls" }, h("h2", {}, first === second ? ["Within “", h("bdi", {}, first), "”"] : ["“", h("bdi", {}, first), "” and “", h("bdi", {}, second), "”"]),
      select("class", options, first, (value) => go({ first: value, second })), select("and", options, second, (value) => go({ first, second: value })));
    const body = h("div");
    replace(pair, heading, body);
    const filled = fill(body, life, async () => {
      if (unknown.length) return empty("No such class", `This set has no class ${unknown.map((name) => `“${name}”`).join(" and no ")}. Choose two of its classes.`);
      if (first === second && facts.classes[first] < 2) return empty("One image alone", `“${first}” has no two images to compare.`);
      const told = await ask("class-pair", { ...source, first, second }, { signal: life });
      if (pairsIn(told, first === second) === 1) return [h("p", { class: "soft" }, `Two images are compared: their distance is ${distance(told.mean)} by ${told.measure}.`), pairs("The pair", told.nearest, source)];
      const box = h("div", { role: "img", "aria-label": `Histogram of the distances of ${isolated(first)} and ${isolated(second)}` });
      requestAnimationFrame(() => figure(box, told.figure).catch((error) => box.replaceChildren(error.message)));
      const sampled = told.images.some((n, i) => n < told.of[i]) ? ` A random part of each class is compared: ${told.images.join(" and ")} images.` : "";
      say(`${isolated(first)} and ${isolated(second)}: mean distance ${distance(told.mean)}`);
      return h("div", { class: "two" },
        h("div", { class: "card" }, h("h3", {}, "Distances"), box, h("p", { class: "soft small" },
          `Mean ${distance(told.mean)} by ${told.measure}, over ${told.split === "all" ? "all" : `the ${told.split.replace("_", " ")}`} images. ${first === second ? "" : "“Same class” are pairs within either of the two."}${sampled}`)),
        h("div", {}, sameEnds(told) ? pairs("Every pair, the nearest first", told.nearest, source)
          : [pairs("Nearest", told.nearest, source), pairs("Farthest", told.farthest, source)]));
    }, waiting(5, "Comparing two classes"));
    // When what is above has its height.
    if (values.first) Promise.all([...above, filled]).then(() => { if (wanted === shown && !life.aborted) pair.scrollIntoView({ block: "start" }); });
  };
}

// As high as it is wide without the scale of colours, so that the matrix fills its card. On a phone the scale stands above it and
// names are short: tapping a cell names both.
function square({ data, layout }, box) {
  // Without names beside it nothing is higher than the matrix.
  const height = layout.xaxis.ticktext?.length ? Math.max(layout.height, Math.min(box.clientWidth - SCALE, HIGHEST)) : Math.min(box.clientWidth, HIGHEST);
  if (box.clientWidth >= NARROW) return { data, layout: { ...layout, height } };
  const short = (text) => { const name = plainText(text); return name.length > LONGEST ? figureText(`${name.slice(0, LONGEST - 1)}…`) : text; };
  const axis = (one) => ({ ...one, ticktext: one.ticktext?.map(short) });
  const [cells] = data, colorbar = { ...cells.colorbar, orientation: "h", y: 1.02, yanchor: "bottom", len: 1, thickness: 8 };
  return { data: [{ ...cells, colorbar }], layout: { ...layout, height, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) } };
}

// How many distances the histogram holds: those between the two, and those within each.
function pairsIn({ images: [n, m] }, one) {
  const within = (count) => (count * (count - 1)) / 2;
  return one ? within(n) : n * m + within(n) + within(m);
}

// Of so few images the nearest pairs are the farthest too.
function sameEnds({ nearest, farthest }) {
  const names = (list) => list.map(({ first, second }) => `${first.image} ${second.image}`).sort().join();
  return names(nearest) === names(farthest);
}

// A class of one image has no distance within it.
function ratio({ ratio: value }) {
  return value === null ? null : `ratio ${value.toFixed(2)}: between / within`;
}

// Older analyses have no intervals of classes.
function span(row) {
  return row.sameness_low == null ? "" : h("span", { class: "sub" }, `${row.sameness_low.toFixed(3)} to ${row.sameness_high.toFixed(3)}`.replaceAll("-", "\u2212"));
}

function pairs(title, list, source) {
  return h("div", { class: "card" }, h("h3", {}, title), h("div", { class: "pairlist" }, list.map((one) => {
    const href = link("ask", { ...source, image: one.first.image, with: one.second.image });
    return h("div", { class: "pairitem" }, pictureLink(one.first, [one.first.label ?? ""], "", href), pictureLink(one.second, [one.second.label ?? ""], "", href),
      h("span", { class: "soft small" }, distance(one.distance)));
  })));
}
