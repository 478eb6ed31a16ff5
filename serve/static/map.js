// Map: the stored t-SNE or PCA of all images; of two networks, linked.
import { ask, askIfThere, choices, count, csv, empty, fill, h, isolated, link, named, otherMeasure, percent, picture, pictureLink, press, replace, saveFile, say, select, waiting } from "./parts.js";
import { sideOf } from "./answers.js";
import { Scatter } from "./scatter.js";

// Ten colours that stay apart for most eyes, as in analysis/figures/map.py.
const TEN = ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#d6a419", "#9d755d", "#5b5bd6", "#d67195"];
const COLOURS = [["label", "class"], ["split", "side"], ["subset", "subset"], ["purity", "score"], ["prediction", "prediction"]];
const KINDS = [["tsne", "t-SNE"], ["pca", "PCA"]];
const SHOWN = 60; // pictures of a selection
const NAMED = 60; // colours of the legend; of more, a list has all names

export const parameters = () => ({ colour: COLOURS.map(([name]) => name), kind: KINDS.map(([name]) => name), split: null, lit: null, beside: null,
  view: (value) => (readView(value) ? "" : "it is the centre and the zoom of each map, as 0.1,-0.2,3") });

// The numbers of an address; null where it has others.
function readView(text) {
  const numbers = text.split(",").map((one) => (one.trim() ? Number(one) : NaN));
  return numbers.length % 3 === 0 && numbers.every((one, i) => Number.isFinite(one) && (i % 3 < 2 || one > 0)) ? numbers : null;
}

export function view(place, { facts, go, source, doubt, about, life }) {
  const maps = []; // {data, scatter, byImage}
  let values = {}, loaded = "", turns = 0, late = 0, tool = "move", chosen = [], colours = [];
  const area = h("div", { class: "maps" }), controls = h("div", { class: "controls" });
  const legend = h("div", { class: "legend", role: "group", "aria-label": "Legend" });
  const list = h("section", { class: "selection", "aria-label": "Selected images" });
  const card = h("div", { class: "mapcard", role: "tooltip" });
  place.append(h("h1", { class: "unseen" }, "Map of all images"), controls, area, legend, list, card);
  life.addEventListener("abort", () => {
    clearTimeout(late);
    maps.forEach((one) => one.scatter?.close());
  });
  addEventListener("themechange", () => paintAll(), { signal: life });

  const colour = () => (values.colour && COLOURS.some(([name]) => name === values.colour) ? values.colour : facts.classes && Object.keys(facts.classes).length ? "label" : "split");
  const kind = () => (values.kind === "pca" ? "pca" : "tsne");

  // The class that is lit; a colour has its own names.
  function lit() {
    const names = colour() === "purity" ? [] : maps.flatMap((one) => one.data[colour()] || []);
    const there = names.some((name) => String(name) === values.lit);
    doubt("lit", values.lit, there ? "" : `no image has it as its ${COLOURS.find(([name]) => name === colour())[1]}`);
    return there ? values.lit : null;
  }

  // What the maps show, x,y,zoom of each; undefined for all of it.
  function viewsNow() {
    const parts = maps.map(({ scatter: { view } }) => [Number(view.x.toFixed(4)), Number(view.y.toFixed(4)), Number(view.zoom.toPrecision(4))]);
    return parts.some(([x, y, zoom]) => x || y || zoom !== 1) ? parts.join(",") : undefined;
  }

  // When the maps rest: browsers allow few changes of the address in a second.
  function writeViews() {
    clearTimeout(late);
    late = setTimeout(() => { if (maps.every((one) => one.scatter) && viewsNow() !== (readView(values.view || "") ? values.view : undefined)) go({ view: viewsNow() }, { replace: true }); }, 300);
  }

  function readViews() {
    const numbers = readView(values.view || "") || [];
    maps.forEach((one, i) => {
      const [x, y, zoom] = numbers.slice(3 * i, 3 * i + 3);
      if (zoom) one.scatter.show({ x, y, zoom });
      else one.scatter.reset();
    });
  }

  async function load() {
    const turn = (turns += 1);
    maps.forEach((one) => one.scatter?.close());
    maps.length = 0;
    chosen = [];
    list.replaceChildren();
    const sides = ["", values.beside].filter((one, i) => i === 0 || one).map((one) => sideOf(one, { facts, source }));
    const single = h("p", {}, h("a", { class: "button", href: link("map", { ...values, beside: undefined }) }, "Show one map"));
    await fill(area, life, async (live) => {
      if (sides.includes(null)) return empty("No such network", `This server has no network “${values.beside}” now.`, single);
      const needs = sides.map(({ map }) => map.needs).filter(Boolean);
      if (needs.length) return empty("No map yet", `This needs ${needs.join(", and ")}.`, facts.map_needs ? "" : single);
      const data = await Promise.all(sides.map(({ store, features, map: { measure } }) =>
        ask("map", { store, features, measure, split: values.split, limit: 100000, predictions: values.colour === "prediction" || undefined }, { signal: life })));
      if (!live()) return [];
      return data.map((one, i) => {
        const box = h("div", { class: "plane" });
        maps.push({ data: one, box, byImage: new Map(one.image.map((image, i) => [image, i])) });
        return h("figure", { class: "mapfigure" }, data.length > 1 ? h("h2", {}, sides[i].title) : null, box,
          otherMeasure(one.settings.measure, facts, `no map by ${facts.measure} of this network is stored`),
          one.sampled ? h("figcaption", {}, `A random part of ${count(one.images)} images.`) : null);
      });
    }, waiting(6, "Loading the map"));
    if (turn !== turns || life.aborted) return;
    if (!maps.length || !maps[0].box.isConnected) { controls.replaceChildren(); legend.replaceChildren(); return; }
    for (const one of maps) {
      one.scatter = new Scatter(one.box, `Map of ${count(one.data.row.length)} images. Arrow keys move, plus and minus zoom, 0 shows all, Enter lists what is in view.`, {
        hover: (i, event) => hover(one, i, event),
        click: (i) => { location.hash = link("ask", { ...source, image: one.data.image[i] }); },
        lasso: (numbers) => choose(numbers.map((i) => one.data.image[i]), one),
        moved: writeViews,
      });
      one.scatter.tool = tool;
      one.scatter.setPoints(one.data[kind()]);
      Shown.saving(one.box, { SVG: () => [one.scatter.svg(colours), "svg", "image/svg+xml"] }, one === maps[0] ? "map" : "map-beside");
    }
    readViews();
    showControls();
    paintAll();
    say(`Map of ${count(maps[0].data.row.length)} images`);
  }

  function predicts(key) {
    return facts.extractions.find((one) => one.key === key)?.arrays.includes("logits");
  }

  function showControls() {
    const data = maps[0].data;
    const there = COLOURS.filter(([name]) => name === "purity" ? data.purity : name === "prediction" ? predicts(data.key) : new Set(data[name]).size > 1 || name === "split");
    const others = facts.networks.filter((one) => one.value !== facts.key);
    const tools = choices("What dragging does", [["move", "move"], ["lasso", "lasso"]], tool, (value) => {
      tool = value;
      press(tools, value);
      maps.forEach((one) => { one.scatter.tool = value; one.box.classList.toggle("lasso", value === "lasso"); });
    });
    replace(controls,
      choices("Projection", KINDS, kind(), (value) => go({ kind: value, view: undefined })),
      h("span", { class: "named" }, "colour ", choices("Colour", there, colour(), (value) => go({ colour: value, lit: undefined }))), tools,
      h("button", { type: "button", onclick: () => maps.forEach((one) => one.scatter.reset()) }, "Show all"),
      h("button", { type: "button", onclick: () => choose(maps[0].scatter.inView().map((i) => data.image[i])) }, "List what is in view"),
      others.length ? select("beside", [["", "no other network"], ...others.map((one) => [one.value, one.title])], values.beside || "", (beside) => go({ beside })) : "");
  }

  function paintAll() {
    if (!maps.length || !maps[0].scatter) return;
    const by = colour(), inks = by === "purity" ? purityInk : classInk(by, maps.flatMap((one) => one.data[by] || []));
    const selected = new Set(chosen), bright = lit();
    for (const one of maps) {
      const values = one.data[by] || [], ink = new Uint8Array(4 * one.data.row.length);
      for (let i = 0; i < one.data.row.length; i++) {
        const value = values[i] ?? null;
        const on = (bright === null || String(value) === bright) && (!selected.size || selected.has(one.data.image[i]));
        ink.set([...rgb(inks(value)), on ? (one.data.row.length > 20000 ? 190 : 225) : 26], 4 * i);
      }
      one.scatter.setInk(ink);
    }
    showLegend(by, inks, bright);
  }

  // Below the map, and in its file as [colour, text].
  function showLegend(by, inks, bright) {
    if (by === "purity") {
      colours = [[0, "none of the nearest has its class"], [0.5, "half"], [1, "all"], [null, "not analysed"]].map(([share, text]) => [inks(share), text]);
      legend.replaceChildren(h("span", { class: "soft small" }, "Share of the nearest images that have the image's class: none"),
        h("span", { class: "ramp", "aria-hidden": "true" }), h("span", { class: "soft small" }, "all. Grey: not analysed."));
      return;
    }
    const counts = new Map();
    for (const value of maps[0].data[by] || []) counts.set(String(value), (counts.get(String(value)) || 0) + 1);
    const names = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const words = (name) => (name === "null" ? "none" : by === "split" ? name.replace("_", " ") : name);
    colours = names.map((name) => [inks(name === "null" ? null : name), words(name)]);
    const light = (name) => go({ lit: name || undefined }, { replace: true });
    replace(legend, ...names.slice(0, NAMED).map((name, i) => {
      const dot = h("i");
      dot.style.background = colours[i][0];
      return h("button", { type: "button", "aria-pressed": String(bright === name), title: `${isolated(words(name))}: ${count(counts.get(name))} images`,
        onclick: () => light(bright === name ? undefined : name) }, dot, h("span", {}, words(name)));
    }));
    // First, since the others fill more than is seen of the legend.
    if (names.length > NAMED) legend.prepend(select(`light one of ${count(names.length)}`, [["", "none"], ...names.map((name) => [name, words(name)])], bright ?? "", light));
  }

  function hover(one, i, event) {
    const image = i < 0 ? null : one.data.image[i];
    for (const each of maps) {
      each.scatter.ring(image ? [each.byImage.get(image) ?? -1] : []);
      each.scatter.canvas.style.cursor = image ? "pointer" : "";
    }
    card.style.display = image ? "block" : "none";
    if (!image) return;
    const pure = one.data.purity?.[i];
    card.replaceChildren(picture(imageAt(one, i), 192), h("b", {}, one.data.label[i] ?? "no label"),
      h("small", {}, one.data.path[i], h("br"), `${one.data.split[i].replace("_", " ")}${pure == null ? "" : ` · ${percent(pure, 0)} of its neighbours share its class`}`));
    const { width, height } = card.getBoundingClientRect();
    card.style.left = `${Math.max(8, Math.min(event.clientX + 18, document.documentElement.clientWidth - width - 8))}px`;
    card.style.top = `${Math.max(8, Math.min(event.clientY + 18, innerHeight - height - 8))}px`;
  }

  function imageAt(one, i) {
    const { data } = one;
    return { image: data.image[i], row: data.row[i], path: data.path[i], label: data.label[i], subset: data.subset[i], split: data.split[i] };
  }

  // Listed from the map in which they were selected: another may be of another set.
  function choose(images, one = maps[0]) {
    chosen = images;
    const numbers = images.map((image) => one.byImage.get(image)).filter((i) => i !== undefined);
    const classes = new Map();
    for (const i of numbers) classes.set(one.data.label[i], (classes.get(one.data.label[i]) || 0) + 1);
    const most = [...classes].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([name, n]) => `${isolated(name ?? "no label")} ${n}`).join(", ");
    list.replaceChildren(...(numbers.length ? [
      h("div", { class: "controls" }, h("h2", {}, `${count(numbers.length)} selected`), h("span", { class: "soft small" }, most),
        h("button", { type: "button", onclick: () => saveFile("selection.csv", table(one, numbers)) }, "Save as CSV"),
        h("button", { type: "button", onclick: () => { choose([]); one.scatter.canvas.focus({ preventScroll: true }); } }, "Clear")),
      h("div", { class: "grid small" }, numbers.slice(0, SHOWN).map((i) => pictureLink(imageAt(one, i), [one.data.label[i] ?? ""], "", link("ask", { ...source, image: one.data.image[i] })))),
      numbers.length > SHOWN ? h("p", { class: "soft small" }, `The first ${SHOWN} are shown; the file has all.`) : "",
    ] : []));
    say(`${numbers.length} images selected`);
    paintAll();
  }

  function table({ data }, numbers) {
    const names = ["row", "image", "path", "label", "subset", "split"];
    return csv([[...names, "x", "y"], ...numbers.map((i) => [...names.map((name) => data[name][i]), ...data[kind()][i]])]);
  }

  return (now) => {
    const before = values;
    values = now;
    about(now.lit ? isolated(now.lit) : "");
    const wanted = JSON.stringify([now.split, now.beside, now.colour === "prediction"]);
    if (wanted !== loaded) { loaded = wanted; load(); return; }
    if (!maps.length || !maps[0].scatter) return;
    if ((before.kind || "tsne") !== (now.kind || "tsne")) {
      maps.forEach((one) => one.scatter.setPoints(one.data[kind()]));
      readViews();
    } else if (before.view !== now.view && now.view !== viewsNow()) readViews();
    if (["kind", "colour", "lit"].every((name) => before[name] === now[name])) return;
    showControls();
    paintAll();
  };
}

function classInk(by, values) {
  const names = [...new Set(values.map(String))].filter((name) => name !== "null").sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const colours = new Map(names.map((name, i) => [name, names.length <= TEN.length ? TEN[i] : hue(i, names.length)]));
  return (value) => (value === null ? "#8b93a1" : colours.get(String(value)));
}

function hue(i, n) {
  const light = [0.42, 0.56, 0.66][i % 3], reach = 0.55 * Math.min(light, 1 - light);
  const part = (k) => { const t = (k + (12 * i) / n) % 12; return Math.round(255 * (light - reach * Math.max(-1, Math.min(t - 3, 9 - t, 1)))); };
  return `#${[part(0), part(8), part(4)].map((one) => one.toString(16).padStart(2, "0")).join("")}`;
}

const WORST = [194, 85, 31], MIDDLE = [216, 196, 150], BEST = [15, 139, 141];
function purityInk(value) {
  if (value === null || value === undefined) return "#8b93a1";
  const [a, b, t] = value < 0.5 ? [WORST, MIDDLE, 2 * value] : [MIDDLE, BEST, 2 * value - 1];
  return `#${a.map((one, i) => Math.round(one + (b[i] - one) * t).toString(16).padStart(2, "0")).join("")}`;
}

const seen = new Map();
function rgb(colour) {
  if (!seen.has(colour)) seen.set(colour, [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  return seen.get(colour);
}
