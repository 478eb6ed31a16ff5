// Two images: how far apart, how typical that is, and where they are alike.
import { address, ask, askIfThere, choices, distance, empty, fill, h, link, named, percent, press, prose, rounded, select, waiting } from "./parts.js";
import { largest, paint, paintScale } from "./heat.js";

const WHAT = [["likeness", "alike"], ["difference", "different"], ["pixels", "alike in pixels"], ["gradcam", "Grad-CAM"], ["cam", "CAM"], ["lrp", "LRP"], ["sa", "gradient"], ["none", "image"]];
const PIXELS = [["likeness_lrp", "LRP"], ["likeness_lrp_gamma", "LRP, for and against"], ["likeness_lrp_epsilon", "LRP, epsilon"], ["likeness_gradient", "gradient"], ["likeness_path", "path from blurred"]];
const EXPLAINS = new Set(["gradcam", "cam", "lrp", "sa"]);
const SAYS = {
  likeness: (pair) => `On each image the colours sum to ${pair.measure_form === "cosine" ? "the similarity" : "the inner product, which makes the distance smaller"}, without remainder.${pair.pairs ? " Point at a place: the other image shows what goes with it." : ""}`,
  difference: (pair) => `Where the two differ. Both images together sum to ${pair.measure_form === "cosine" ? "what the similarity lacks to 1" : "the squared distance"}.`,
  none: () => "What the network sees.",
};

export function pairView(place, { facts, source, life }) {
  let what = "likeness", pair = null, maps = {}, method = PIXELS[0][0];
  const sides = ["first", "second"];
  const canvases = sides.map(() => h("canvas", { width: 420, height: 420, role: "img" }));
  const captions = sides.map(() => h("figcaption"));
  const low = h("span"), high = h("span"), scale = h("canvas", { width: 240, height: 12, "aria-hidden": "true" });
  const scaleLine = h("div", { class: "scale" }, low, scale, high);
  const says = h("p", { class: "soft small says" }), graded = h("p", { class: "soft small graded" });
  const group = choices("What the colours show", WHAT, what, (value) => { what = value; show(); });

  const methods = select("by", PIXELS, method, (value) => { method = value; show(); });

  canvases.forEach((canvas, here) => {
    canvas.addEventListener("pointermove", (event) => {
      if (!pair || !pair.pairs || what !== "likeness") return;
      const map = pair.likeness[here], box = canvas.getBoundingClientRect();
      const cell = (share, cells) => Math.min(Math.max(Math.floor(share * cells), 0), cells - 1);
      drawFrom(here, [cell((event.clientY - box.top) / box.height, map.length), cell((event.clientX - box.left) / box.width, map[0].length)]);
    });
    canvas.addEventListener("pointerleave", () => draw());
  });
  addEventListener("themechange", () => { if (pair) draw(); }, { signal: life });

  async function show() {
    press(group, what);
    methods.hidden = what !== "pixels";
    if (!pair) return;
    const mine = pair;
    if (what === "pixels" && !maps[method]) await askPixels(mine, method);
    if (EXPLAINS.has(what) && !maps[what]) {
      says.textContent = "The network is asked …";
      const [first, second] = await Promise.all(sides.map((side) =>
        askIfThere(`images/${pair[side].image}/explain`, { method: what, features: pair.by }, { signal: life })));
      if (mine !== pair) return;
      maps[what] = first && second && first.arrays[what] && second.arrays[what] ? [first, second]
        : { left: (first && first.left_out[0]) || "This method does not fit the network." };
    }
    if (mine === pair) draw();
  }

  async function askPixels(mine, by) {
    says.textContent = "The network is asked …";
    const told = await askIfThere(`images/${mine.first.image}/alike/${mine.second.image}/pixels`,
      { method: by, features: mine.by, measure: source.measure }, { signal: life });
    if (mine === pair) maps[by] = told && told.maps.length ? told : { left: told?.left_out || "This method does not fit the network." };
  }

  function drawPixels() {
    const told = maps[method];
    if (!told) return;
    const shown = told.left ? [null, null] : told.maps;
    canvases.forEach((canvas, i) => paint(canvas, pair.pictures[i], shown[i], shown[i] ? largest(shown[i]) : 0, facts.colours));
    says.textContent = told.left || `Which pixels make the two alike by ${told.measure} (${told.value.toFixed(4)}). ${conserved(told)} Each image has its own scale.`;
    showScale(0, !told.left, false);
  }

  function draw() {
    if (!pair) return;
    graded.replaceChildren(...prose(grade(what === "pixels" ? method : what, pair)));
    if (what === "pixels") { drawPixels(); return; }
    const told = maps[what], shown = what === "none" || (told && told.left) ? [null, null]
      : EXPLAINS.has(what) ? told && told.map((one) => one.arrays[what]) : pair[what];
    if (!shown) return;
    const both = what === "likeness" || what === "difference";
    const top = shown[0] ? (both ? largest(...shown) : 0) : 0;
    canvases.forEach((canvas, i) => paint(canvas, pair.pictures[i], shown[i], shown[i] && !both ? largest(shown[i]) : top, facts.colours));
    if (told && told.left) says.textContent = told.left;
    else if (told) says.textContent = `What speaks for ${told.map((one) => `“${one.maps[0].target}” (${rounded(one.maps[0].probability)})`).join(" and for ")}. Each image has its own scale.`;
    else says.textContent = SAYS[what](pair);
    showScale(both ? top : 0, Boolean(shown[0]), both);
  }

  function drawFrom(here, mark) {
    const shape = pair.likeness[1 - here], wide = shape[0].length;
    const number = mark[0] * pair.likeness[here][0].length + mark[1];
    const flat = here === 0 ? pair.pairs[number] : pair.pairs.map((row) => row[number]);
    const other = shape.map((_, y) => flat.slice(y * wide, (y + 1) * wide)), near = largest(other);
    paint(canvases[here], pair.pictures[here], pair.likeness[here], largest(...pair.likeness), facts.colours, mark);
    paint(canvases[1 - here], pair.pictures[1 - here], other, near, facts.colours);
    showScale(near, true, true);
  }

  function showScale(top, there, numbers) {
    scaleLine.hidden = !there;
    paintScale(scale, facts.colours, document.documentElement.dataset.theme === "dark" ? 90 : 190);
    low.textContent = numbers ? `against, −${top.toPrecision(2)}` : "against";
    high.textContent = numbers ? `${top.toPrecision(2)}, for` : "for";
  }

  addEventListener("keydown", (event) => {
    if (!pair || event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    const chosen = WHAT[Number(event.key) - 1];
    if (chosen) { what = chosen[0]; show(); }
  }, { signal: life });

  let shownFor = "";
  return async (values) => {
    const by = values.by || source.features, wanted = values.with ? `${values.image} ${values.with} ${by || ""}` : "";
    if (wanted === shownFor && wanted) return;
    shownFor = wanted;
    pair = null;
    maps = {};
    if (!wanted) {
      place.replaceChildren(empty("Choose a neighbour", "Then you see where the two are alike, and how typical their distance is."));
      return;
    }
    await fill(place, life, async () => {
      const alike = await loadPair(values, { ...source, features: by }, life, facts);
      const [typical, grades] = await Promise.all([howTypical(alike.distance, { ...source, features: by }, life),
        askIfThere("grades", { features: by }, { signal: life })]);
      pair = { ...alike, by, grades, index: source.measure || facts.measure };
      sides.forEach((side, i) => {
        const image = alike[side];
        captions[i].replaceChildren(h("b", {}, image.label ?? named(image)), image.label === null ? "" : ` ${named(image)}`);
        canvases[i].setAttribute("aria-label", `${image.label ?? ""} ${named(image)}: ${i ? "neighbour" : "query"}`);
      });
      return h("div", { class: "card" }, h("h2", {}, "Where are the two alike?"), typical,
        h("div", { class: "both" }, canvases.map((canvas, i) => h("figure", {}, canvas, captions[i]))),
        h("div", { class: "controls" }, group, methods), scaleLine, says, graded,
        h("p", { class: "soft small terms" }, terms(alike, facts)),
        h("p", {}, h("a", { class: "button", href: link("ask", { ...source, image: values.with }) }, "Ask the right image")));
    }, waiting(5, "Comparing the two images"));
    if (pair) {
      show();
      if (place.getBoundingClientRect().top > innerHeight * 0.7) place.scrollIntoView({ behavior: "smooth", block: "start" });
    }
  };
}

// Whether the network follows the maps of a method: what `alike explain --grade` has stored.
function grade(method, pair) {
  if (method === "none" || method === "difference" || !pair.grades) return "";
  const { images, pairs, pair_measure: measure } = pair.grades, both = pair.first.label !== null && pair.second.label !== null;
  const kind = pair.first.label === pair.second.label ? "same class" : "different classes", of = EXPLAINS.has(method) ? images : pairs;
  const row = EXPLAINS.has(method) ? images.find((one) => one.explainer === method)
    : measure === (method === "likeness" ? pair.measure : pair.index) && both && pairs.find((one) => one.explainer === method && one.pairs === kind);
  if (!row) return of.length ? "No grade of this method is stored." : "Whether the network follows these maps was not measured: `alike explain --grade`.";
  const span = (name) => `${row[name] === null ? "–" : row[name].toFixed(3)}${row[`${name}_low`] === null ? "" : ` (${row[`${name}_low`].toFixed(3)} to ${row[`${name}_high`].toFixed(3)})`}`;
  return `Grade, over ${row.n_counted ?? row.n_images} ${EXPLAINS.has(method) ? "images" : `pairs of ${kind}`}: deletion ${span("deletion")}, less that of random orders ${span("deletion_to_random")}. Below 0 is better than chance.${pair.grades.outdated.includes(EXPLAINS.has(method) ? "images" : "pairs") ? " The features have changed since: run `alike explain --grade` again." : ""}`;
}

// Pixels have the share of the similarity that biases do not take.
function conserved(told) {
  if (told.conserved.some((one) => one === null)) return "";
  return `The colours sum to ${told.conserved.map((one) => percent(one, 0)).join(" and ")} of it.`;
}

// What the colours split, and whether it is what the neighbours are ordered by.
function terms(alike, facts) {
  const number = alike.measure_form === "cosine" ? `similarity ${alike.value.toFixed(4)}` : `squared distance ${distance(alike.apart)}`;
  return alike.in_measure ? `By ${alike.measure}, as the neighbours: ${number}.`
    : `By ${alike.measure}: ${number}. The neighbours are ordered by ${facts.measure}, which cannot be split over places.`;
}

async function loadPair(values, asked, life, facts) {
  const alike = await ask(`images/${values.image}/alike/${values.with}`, asked, { signal: life }), by = asked.features;
  const transform = by && by !== facts.key ? (await ask("set", { features: by }, { signal: life })).transform : facts.transform;
  const pictures = await Promise.all(["first", "second"].map((side) => new Promise((good, bad) => {
    const img = new Image();
    img.onload = () => good(img);
    img.onerror = () => bad(new Error("one of the two images cannot be shown: is its file still there?"));
    img.src = address(`images/${alike[side].image}/input`, { transform, features: by });
  })));
  return { ...alike, pictures };
}

// "Nearer than 97 % of same-class pairs", and where that is on the histograms.
async function howTypical(apart, asked, life) {
  const options = { signal: life };
  const [typical, histogram] = await Promise.all([
    askIfThere("typical", { ...asked, distance: apart }, options), askIfThere("histograms", asked, options)]);
  const head = h("p", {}, "Distance ", h("b", {}, distance(apart)), ". ");
  if (!typical) {
    head.append(h("span", { class: "soft" }, "How typical that is needs labels and an analysis (", h("code", {}, "alike analyse"), ")."));
    return head;
  }
  head.append("Nearer than ", h("b", {}, rounded(typical.same_farther[0])), " of same-class pairs and ",
    h("b", {}, rounded(typical.different_farther[0])), " of pairs of different classes.");
  return [head, histogram && histogram.measure === typical.measure ? spread(histogram.rows, apart) : null].filter(Boolean).flat();
}

const SVG = "http://www.w3.org/2000/svg";
function spread(rows, at) {
  const low = rows[0].bin_low, span = rows.at(-1).bin_high - low, step = 4, high = 46;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 256 ${high + 2}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spread");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Distances of same-class pairs and of others, with this pair at ${distance(at)}`);
  const shares = (name) => {
    const sums = [];
    for (let i = 0; i < rows.length; i += step) sums.push(rows.slice(i, i + step).reduce((sum, row) => sum + row[name], 0));
    const total = sums.reduce((a, b) => a + b, 0) || 1;
    return sums.map((one) => Math.sqrt(one / total));
  };
  const both = [shares("different"), shares("same")], top = Math.max(...both.flat()) || 1;
  both.forEach((values, i) => {
    const path = document.createElementNS(SVG, "path"), wide = 256 / values.length;
    path.setAttribute("d", `M0 ${high}${values.map((value, x) => `V${(high * (1 - value / top)).toFixed(2)}H${((x + 1) * wide).toFixed(2)}`).join("")}V${high}Z`);
    path.setAttribute("class", i ? "same" : "other");
    svg.append(path);
  });
  const line = document.createElementNS(SVG, "rect"), x = (256 * (at - low)) / (span || 1);
  for (const [name, value] of Object.entries({ x: Math.min(Math.max(x, 0), 254.4), y: 0, width: 1.6, height: high + 2, class: "mark" })) line.setAttribute(name, value);
  svg.append(line);
  return h("div", { class: "spreadbox" }, svg, h("p", { class: "soft small key" },
    [["same", "pairs of one class"], ["other", "of two classes"], ["line", "this pair"]].flatMap(([kind, text]) =>
      [h("span", { class: "nowrap" }, h("i", { class: `dot ${kind}` }), text), " "])));
}
