// Classes: which are alike, and what two of them look like at their nearest and farthest.
import { ask, count, distance, empty, figure, fill, h, link, pictureLink, say, select, waiting } from "./parts.js";
import { bar } from "./answers.js";

export const parameters = () => ({ first: null, second: null });

export function view(place, { facts, go, source, life }) {
  const names = Object.keys(facts.classes);
  if (!names.length) {
    place.append(h("h1", { class: "unseen" }, "Classes"), empty("This set has no labels",
      "Classes need labels. The map, the neighbours and the list of twins work without them.",
      h("p", {}, h("a", { class: "button", href: link("map", source) }, "See the map"))));
    return () => {};
  }
  const matrix = h("section", { class: "card", "aria-label": "Distances between classes" });
  const list = h("section", { class: "card", "aria-label": "Classes by sameness" });
  const pair = h("section", { class: "pairofclasses", "aria-label": "Two classes" });
  place.append(h("h1", { class: "unseen" }, "Classes"), h("div", { class: "two" }, matrix, list), pair);
  let shown = "";

  const above = [fill(matrix, life, async () => {
    const told = await ask("class-matrix", source, { signal: life });
    const box = h("div", { role: "img", "aria-label": `Mean distances between ${told.order.length} classes, similar ones beside each other` });
    // A screen has not the pixels for every class of thousands.
    const blocks = told.figure.data[0].x.length < told.order.length;
    const says = h("p", { class: "soft small", role: "status" },
      `Similar classes are beside each other. Dark cells are small distances. The diagonal is the distance within a class. ${blocks ? "A cell can be a block of classes. " : ""}Click a cell.`);
    requestAnimationFrame(() => figure(box, told.figure).then(() => {
      if (!box.on) return;
      box.on("plotly_click", (event) => {
        const { customdata, x, y } = event.points[0], [first, second] = customdata || [y, x];
        if (names.includes(first) && names.includes(second)) go({ first, second });
        else says.textContent = `“${names.includes(first) ? second : first}” is a block of classes: choose two classes below.`;
      });
    }).catch((error) => box.replaceChildren(error.message)));
    return [h("h2", {}, "Mean distance between classes"),
      says, box, h("h3", {}, "Nearest to each other"),
      h("div", { class: "chips" }, told.nearest.map((one) => h("a", { class: "button", href: link("classes", { ...source, first: one.class_a, second: one.class_b }), title: `ratio ${one.ratio.toFixed(2)}: between / within` },
        `${one.class_a} – ${one.class_b} `, h("span", { class: "soft" }, distance(one.between)))))];
  }, waiting(6, "Loading the classes")),
  fill(list, life, async () => {
    const told = await ask("classes", source, { signal: life });
    const low = Math.min(0, ...told.rows.map((row) => row.sameness ?? 0));
    const table = h("div", {}, h("div", { class: "tablebox tall" }, h("table", {}, h("thead", {}, h("tr", {}, ["Class", "Images", "Sameness", "", "Within", "Between"].map((name, i) =>
        h("th", { class: [0, 3].includes(i) ? "t" : "n", scope: "col" }, name)))),
      h("tbody", {}, told.rows.map((row) => h("tr", {}, h("td", {}, h("a", { href: link("classes", { ...source, first: row.class, second: row.class }) }, row.class)),
        h("td", { class: "n" }, count(row.n)), h("td", { class: "n" }, row.sameness === null ? "–" : [row.sameness.toFixed(3).replace("-", "\u2212"), span(row)]),
        h("td", { class: "wide" }, bar(((row.sameness ?? 0) - low) / (1 - low), "accent")),
        h("td", { class: "n" }, row.intra_mean === null ? "–" : distance(row.intra_mean)), h("td", { class: "n" }, row.inter_mean === null ? "–" : distance(row.inter_mean))))))));
    Shown.savable(table.querySelector("table"), "classes");
    return [h("h2", {}, "Classes by sameness, the lowest first"),
      h("p", { class: "soft small" }, `By ${told.measure}. 0 is chance, 1 is perfect. ${told.rows.some((row) => row.sameness_low != null) ? "Under each is the 95 % interval of this class alone; classes of fewer than 5 images have none. " : ""}Within and between are mean distances.`),
      table];
  }, waiting(6, "Loading the scores of classes"))];

  return (values) => {
    const [first, second] = [values.first || names[0], values.second || values.first || names[Math.min(1, names.length - 1)]];
    const wanted = `${first}\n${second}`;
    if (wanted === shown) return;
    shown = wanted;
    const options = names.map((name) => [name, name]);
    const heading = h("div", { class: "controls" }, h("h2", {}, first === second ? `Within “${first}”` : `“${first}” and “${second}”`),
      select("class", options, first, (value) => go({ first: value, second })), select("and", options, second, (value) => go({ first, second: value })));
    const body = h("div");
    pair.replaceChildren(heading, body);
    const filled = fill(body, life, async () => {
      const told = await ask("class-pair", { ...source, first, second }, { signal: life });
      const box = h("div", { role: "img", "aria-label": `Histogram of the distances of ${first} and ${second}` });
      requestAnimationFrame(() => figure(box, told.figure).catch((error) => box.replaceChildren(error.message)));
      const sampled = told.images.some((n, i) => n < told.of[i]) ? ` A random part of each class is compared: ${told.images.join(" and ")} images.` : "";
      say(`${first} and ${second}: mean distance ${distance(told.mean)}`);
      return h("div", { class: "two" },
        h("div", { class: "card" }, h("h3", {}, "Distances"), box, h("p", { class: "soft small" },
          `Mean ${distance(told.mean)} by ${told.measure}, over ${told.split === "all" ? "all" : `the ${told.split.replace("_", " ")}`} images. ${first === second ? "" : "“Same class” are pairs within either of the two."}${sampled}`)),
        h("div", {}, pairs("Nearest", told.nearest, source), pairs("Farthest", told.farthest, source)));
    }, waiting(5, "Comparing two classes"));
    // When what is above has its height.
    if (values.first) Promise.all([...above, filled]).then(() => { if (wanted === shown && !life.aborted) pair.scrollIntoView({ behavior: "smooth", block: "start" }); });
  };
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
