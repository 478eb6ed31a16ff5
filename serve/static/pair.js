// Two images: how far apart, how typical that is, and where they are alike. The address holds what is shown of them.
import { sideOf } from "./answers.js";
import { address, ask, askIfThere, choices, distance, empty, fill, h, imagePath, link, named, nameOfImage, percent, press, prose, rounded, select, titleOf, waiting, whyGone } from "./parts.js";
import { largest, paint, paintScale } from "./heat.js";
import { pointer } from "./pointer.js";
import { howTypical } from "./typical.js";

const WHAT = [["likeness", "alike"], ["difference", "different"], ["pixels", "alike in pixels"], ["gradcam", "Grad-CAM"], ["cam", "CAM"], ["lrp", "LRP"], ["sa", "gradient"], ["none", "image"]];
const PIXELS = [["likeness_lrp", "LRP"], ["likeness_lrp_gamma", "LRP, for and against"], ["likeness_lrp_epsilon", "LRP, epsilon"], ["likeness_gradient", "gradient"], ["likeness_path", "path from blurred"]];
// What an address may say of a pair.
export const PAIR = { show: WHAT.map(([name]) => name), method: PIXELS.map(([name]) => name) };
const EXPLAINS = new Set(["gradcam", "cam", "lrp", "sa"]);
const SIDES = ["first", "second"];
const SAYS = {
  likeness: (pair) => `On each image the colours sum to ${pair.measure_form === "cosine" ? "the similarity" : "the inner product, which makes the distance smaller"}, without remainder.${pair.pairs ? " Point at a place, or choose one by the arrow keys: the other image shows what goes with it." : ""}`,
  difference: (pair) => `Where the two differ. Both images together sum to ${pair.measure_form === "cosine" ? "what the similarity lacks to 1" : "the squared distance"}.`,
  none: () => "What the network sees.",
};
const among = (table, value) => (table.some(([name]) => name === value) ? value : table[0][0]);

export function pairView(place, { facts, go, source, doubt, entitle, life }) {
  let what = "likeness", pair = null, maps = {}, method = PIXELS[0][0];
  const canvases = SIDES.map(() => h("canvas", { width: 420, height: 420, role: "img" }));
  const captions = SIDES.map(() => h("figcaption"));
  const low = h("span"), high = h("span"), scale = h("canvas", { width: 240, height: 12, "aria-hidden": "true" });
  const scaleLine = h("div", { class: "scale" }, low, scale, high);
  const says = h("p", { class: "soft small says", role: "status" }), graded = h("p", { class: "soft small graded" });
  const choose = (value) => go({ show: value === WHAT[0][0] ? undefined : value, at: undefined }, { replace: true });
  const group = choices("What the colours show", WHAT, what, choose);
  const methods = select("by", PIXELS, method, (value) => go({ method: value === PIXELS[0][0] ? undefined : value }, { replace: true }));
  const held = pointer(canvases, {
    shapes: () => (pair && pair.pairs && what === "likeness" ? pair.likeness.map((map) => [map.length, map[0].length]) : null),
    show: (here, cell, words) => (cell ? drawFrom(here, cell, words) : draw()),
    hold: (at) => go({ at }, { replace: true }),
  });
  addEventListener("themechange", () => { if (pair) draw(); }, { signal: life });

  async function show() {
    press(group, what);
    methods.hidden = what !== "pixels";
    methods.querySelector("select").value = method;
    if (!pair) return;
    const mine = pair;
    if (what === "pixels" && !maps[method]) await askPixels(mine, method);
    if (EXPLAINS.has(what) && !maps[what]) await askMaps(mine, what);
    if (mine === pair) draw();
  }

  async function askMaps(mine, by) {
    says.textContent = "The network is asked …";
    const { store, features } = mine.side;
    const told = await orWhy(Promise.all(SIDES.map((side) =>
      ask(imagePath(mine[side].image, "explain"), { store, method: by, features }, { signal: life }))));
    if (mine !== pair) return;
    maps[by] = told.left || told.every((one) => one.arrays[by]) ? told
      : { left: told.flatMap((one) => one.images.left_out)[0] || "This method does not fit the network." };
  }

  async function askPixels(mine, by) {
    says.textContent = "The network is asked …";
    const { store, features, measure } = mine.side;
    const told = await orWhy(ask(imagePath(mine.first.image, "alike", mine.second.image, "pixels"),
      { store, method: by, features, measure }, { signal: life }));
    if (mine === pair) maps[by] = told.left || told.maps.length ? told : { left: told.left_out || "This method does not fit the network." };
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
    held.dress();
    graded.replaceChildren(...prose(grade(what === "pixels" ? method : what, pair)));
    if (held.cell()) { drawFrom(...held.cell()); return; }
    if (what === "pixels") { drawPixels(); return; }
    const told = maps[what], shown = what === "none" || (told && told.left) ? [null, null]
      : EXPLAINS.has(what) ? told && told.map((one) => one.arrays[what]) : pair[what];
    if (!shown) return;
    const both = what === "likeness" || what === "difference";
    const top = shown[0] ? (both ? largest(...shown) : 0) : 0;
    canvases.forEach((canvas, i) => paint(canvas, pair.pictures[i], shown[i], shown[i] && !both ? largest(shown[i]) : top, facts.colours));
    if (told && told.left) says.textContent = told.left;
    else if (told) says.replaceChildren(...prose(`What speaks for ${told.map((one) => `“${one.images.maps[0].target}” (${rounded(one.images.maps[0].probability)})`).join(" and for ")}. Each image has its own scale.`));
    else says.textContent = SAYS[what](pair);
    showScale(both ? top : 0, Boolean(shown[0]), both);
  }

  // What goes with a place (y, x) of one image; `words` say it, unless the mouse only passes.
  function drawFrom(here, mark, words = true) {
    const shape = pair.likeness[1 - here], wide = shape[0].length;
    const number = mark[0] * pair.likeness[here][0].length + mark[1];
    const flat = here === 0 ? pair.pairs[number] : pair.pairs.map((row) => row[number]);
    const other = shape.map((_, y) => flat.slice(y * wide, (y + 1) * wide)), near = largest(other);
    paint(canvases[here], pair.pictures[here], pair.likeness[here], largest(...pair.likeness), facts.colours, mark);
    paint(canvases[1 - here], pair.pictures[1 - here], other, near, facts.colours);
    showScale(near, true, true);
    if (!words) return;
    const best = flat.indexOf(Math.max(...flat)), share = pair.likeness[here][mark[0]][mark[1]] / pair.value;
    says.textContent = `Row ${mark[0] + 1}, column ${mark[1] + 1} of the ${["left", "right"][here]} image: ${percent(share)} of the ${pair.measure_form === "cosine" ? "similarity" : "inner product"}. `
      + `In the other image most of it goes with row ${Math.floor(best / wide) + 1}, column ${(best % wide) + 1}.`;
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
    if (chosen) choose(chosen[0]);
  }, { signal: life });

  // Which of two networks explains the pair.
  function byWhom(values) {
    const other = values.beside && sideOf(values.beside, { facts, source });
    if (!other) return null;
    return choices("By which network", [sideOf("", { facts, source }), other].map(({ value, title }) => [value, title]), values.by || "",
      (by) => go({ by: by || undefined, at: undefined }));
  }

  // A place of the address that cannot be shown.
  function doubtPlace(at) {
    doubt("at", at, !pair ? "no pair is chosen" : held.cell() ? "" : what !== "likeness" ? "places are chosen where the colours say what is alike"
      : !pair.pairs ? "places of these two cannot be chosen" : `a place is 0 or 1, the image, and a number below ${pair.likeness.map((map) => map.length * map[0].length).join(" and ")}, as 0.3`);
  }

  let shownFor = "";
  return async (values) => {
    what = among(WHAT, values.show);
    method = among(PIXELS, values.method);
    held.set(values.at);
    const wanted = values.with ? [values.image, values.with, values.by || "", values.beside || ""].join(" ") : "";
    if (wanted === shownFor && wanted) {
      show();
      if (pair) doubtPlace(values.at);
      return;
    }
    shownFor = wanted;
    pair = null;
    maps = {};
    entitle({ pair: "" });
    if (!wanted) {
      doubtPlace(values.at);
      if (["", values.beside || ""].every((one) => sideOf(one, { facts, source })?.needs)) place.replaceChildren();
      else place.replaceChildren(empty("Choose a neighbour", "Then you see where the two are alike, and how typical their distance is."));
      return;
    }
    await fill(place, life, async (live) => {
      const side = sideOf(values.by, { facts, source });
      if (!side) return empty("No such network", `This server has no network “${values.by}” now.`);
      const loaded = await loadPair(values, side, life, facts);
      if (!live()) return [];
      pair = loaded;
      entitle({ pair: titleOf(pair.second) });
      SIDES.forEach((name, i) => {
        const image = pair[name];
        captions[i].replaceChildren(h("b", {}, image.label ?? named(image)), image.label === null ? "" : ` ${named(image)}`);
        held.name(i, `${titleOf(image)}: ${i ? "neighbour" : "query"}`);
      });
      return h("div", { class: "card" }, h("h2", {}, "Where are the two alike?"), byWhom(values), pair.typical,
        h("div", { class: "both" }, canvases.map((canvas, i) => h("figure", {}, canvas, captions[i]))),
        h("div", { class: "controls" }, group, methods), scaleLine, says, graded,
        h("p", { class: "soft small terms" }, terms(pair, side)),
        h("p", {}, h("a", { class: "button", href: link("ask", { ...source, class: values.class, image: pair.second.image, show: values.show, method: values.method }) }, "Ask the right image")));
    }, waiting(5, "Comparing the two images"));
    if (pair) {
      show();
      doubtPlace(values.at);
      if (place.getBoundingClientRect().top > innerHeight * 0.7) place.scrollIntoView({ block: "start" });
    }
  };
}

// An answer, or the line that refuses it.
function orWhy(answer) {
  return answer.catch((error) => {
    if (error.name === "AbortError") throw error;
    return { left: error.message };
  });
}

// Whether the network follows the maps of a method: what `alike explain --grade` has stored.
function grade(method, pair) {
  if (method === "none" || method === "difference" || !pair.grades) return "";
  const { images, pairs, pair_measure: measure } = pair.grades, both = pair.first.label !== null && pair.second.label !== null;
  const kind = pair.first.label === pair.second.label ? "same class" : "different classes", of = EXPLAINS.has(method) ? images : pairs;
  const row = EXPLAINS.has(method) ? images.find((one) => one.explainer === method)
    : measure === (method === "likeness" ? pair.measure : pair.side.named) && both && pairs.find((one) => one.explainer === method && one.pairs === kind);
  if (!row) return of.length ? "No grade of this method is stored." : `Whether the network follows these maps was not measured: run \`${pair.grades.command}\`.`;
  const span = (name) => `${row[name] === null ? "–" : row[name].toFixed(3)}${row[`${name}_low`] === null ? "" : ` (${row[`${name}_low`].toFixed(3)} to ${row[`${name}_high`].toFixed(3)})`}`;
  return `Grade, over ${row.n_counted ?? row.n_images} ${EXPLAINS.has(method) ? "images" : `pairs of ${kind}`}: deletion ${span("deletion")}, less that of random orders ${span("deletion_to_random")}. Below 0 is better than chance.${pair.grades.outdated.includes(EXPLAINS.has(method) ? "images" : "pairs") ? ` The features have changed since: run \`${pair.grades.command}\` again.` : ""}`;
}

// Pixels have the share of the similarity that biases do not take.
function conserved(told) {
  if (told.conserved.some((one) => one === null)) return "";
  return `The colours sum to ${told.conserved.map((one) => percent(one, 0)).join(" and ")} of it.`;
}

// What the colours split, and whether it is what the neighbours are ordered by.
function terms(alike, side) {
  const number = alike.measure_form === "cosine" ? `similarity ${alike.value.toFixed(4)}` : `squared distance ${distance(alike.apart)}`;
  return alike.in_measure ? `By ${alike.measure}${side.needs ? "" : ", as the neighbours"}: ${number}.`
    : `By ${alike.measure}: ${number}. The neighbours are ordered by ${side.named}, which cannot be split over places.`;
}

// The pair by one network: the answer, the grades of explanations, how typical the distance is, the two pictures.
async function loadPair(values, side, life, facts) {
  const { store, features, measure } = side, options = { signal: life };
  const alike = await ask(imagePath(values.image, "alike", nameOfImage(values.with)), { store, features, measure }, options);
  const [typical, grades, transform] = await Promise.all([
    howTypical(alike.distance, { store, features, measure }, side.typical, life), askIfThere("grades", { store, features }, options),
    side.value ? ask("set", { store, features, measure }, options).then((its) => its.transform) : facts.transform]);
  const pictures = await Promise.all(SIDES.map((name) => new Promise((good, bad) => {
    const img = new Image();
    img.onload = () => good(img);
    const [path, asked] = [imagePath(alike[name].image, "input"), { store, transform, features }];
    img.onerror = () => whyGone(path, asked).then((why) => bad(new Error(why)));
    img.src = address(path, asked);
  })));
  return { ...alike, side, typical, grades, pictures };
}
