// Ask: an image, its neighbours, and the chosen pair, on one screen.
import { address, ask, askIfThere, choices, count, distance, empty, fill, h, link, named, percent, picture, pictureLink, prose, rounded, say, select, waiting } from "./parts.js";
import { pairView } from "./pair.js";

const brought = []; // images of this visit that were uploaded
const RELATIONS = [["any", "any class"], ["same", "its class"], ["other", "other classes"]];

export function view(place, { facts, go, source, life }) {
  let before = {};
  const drop = dropZone(place, go, source, life);
  const answer = h("div", { class: "asked", hidden: true });
  const query = h("section", { class: "query card", "aria-label": "Query" });
  const near = h("section", { class: "near", "aria-label": "Neighbours" });
  const beside = h("section", { class: "near", "aria-label": "Neighbours by another network", hidden: true });
  const pair = h("section", { class: "pairplace", "aria-label": "The chosen pair" });
  answer.append(h("div", { class: "left" }, query, near, beside), pair);
  const some = someImages(facts, source, life);
  place.append(h("h1", { class: "unseen" }, "Ask: the nearest stored images of an image"), drop, answer, some);
  arrows(near, life);
  const compare = pairView(pair, { facts, source, life });

  return async (values) => {
    const same = ["image", "relation", "k", "beside"].every((name) => values[name] === before[name]);
    const first = values.image && values.image !== before.image;
    before = values;
    drop.classList.toggle("slim", Boolean(values.image));
    answer.hidden = !values.image;
    some.classList.toggle("after", Boolean(values.image));
    if (!values.image) return;
    const context = { facts, go, source, life, values };
    if (!same) {
      if (first) scrollTo({ top: 0 });
      await showAnswer(context, query, near, beside);
    } else mark(place, values);
    compare(values);
  };
}

async function showAnswer(context, query, near, beside) {
  const { facts, source, life, values } = context;
  const relation = values.relation || "any", k = Number(values.k) || 12;
  const path = `images/${values.image}/neighbours`;
  let reply = null;
  const asked = fill(near, life, async () => {
    reply = await ask(path, { ...source, k, relation }, { signal: life });
    return nearest(reply, context);
  }, waiting(4, "Looking for neighbours"));
  beside.hidden = !values.beside;
  if (values.beside) {
    fill(beside, life, async () => {
      const other = await ask(path, { ...source, features: values.beside, k, relation }, { signal: life });
      const title = networkName(facts, values.beside);
      return [h("h2", {}, `The same query by ${title}`), nearest(other, context, values.beside)];
    });
  }
  if (!(await asked)) {
    query.replaceChildren();
    return;
  }
  showQuery(query, reply, context);
  say(`${reply.neighbours.length} neighbours of ${named(reply.query)}`);
}

function networkName(facts, key) {
  const one = facts.extractions.find((each) => each.key === key);
  return one ? `${one.network.split(/[/:]/).pop()} (${one.weights})` : key;
}

function showQuery(place, reply, context) {
  const { facts, go, source, life, values } = context;
  const { query, neighbours: near } = reply, relation = values.relation || "any";
  const whose = query.row < 0 ? "not in this store" : `${query.path} · row ${query.row} · ${query.split.replace("_", " ")}`;
  const others = facts.extractions.filter((one) => one.key !== facts.key && one.indexes.includes(facts.measure));
  const number = h("input", { type: "number", min: 1, max: 200, value: Number(values.k) || 12, onchange: (event) => go({ k: event.target.value }) });
  const predicted = h("div", { class: "small soft" });
  place.replaceChildren(
    picture(query, 384),
    h("div", {},
      h("h2", { class: "name" }, query.label === null ? named(query) : query.label),
      h("p", { class: "soft small" }, whose),
      votes(reply, relation), predicted,
      h("div", { class: "controls" },
        choices("Which classes may answer", RELATIONS.map(([value, text]) =>
          [value, text, { disabled: query.label === null && value !== "any" }]), relation, (value) => go({ relation: value })),
        h("label", {}, "neighbours ", number),
        others.length ? select("beside", [["", "no other network"], ...others.map((one) => [one.key, networkName(facts, one.key)])],
          values.beside || "", (key) => go({ beside: key })) : null),
      h("p", { class: "soft small" }, summary(reply, near, query))));
  askIfThere(`images/${values.image}/prediction`, { features: source.features }, { signal: life }).then((told) => {
    if (!told) return;
    const sure = told.shares.map((share, i) => [told.classes[i], share]).filter(([, share], i) => i === 0 || share > 0.01);
    predicted.replaceChildren("The network says ", ...sure.flatMap(([name, share], i) =>
      [i ? ", " : "", h("b", {}, name), " ", h("span", { class: "nowrap" }, rounded(share))]), ".");
  }).catch(() => {});
}

// How the neighbours vote for classes.
function votes(reply, relation) {
  const { query, neighbours: near } = reply, counts = new Map();
  for (const one of near) if (one.label !== null) counts.set(one.label, (counts.get(one.label) || 0) + 1);
  if (!counts.size || relation !== "any") return null;
  const sorted = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4);
  return h("div", { class: "votes", role: "img", "aria-label": `Votes of ${near.length} neighbours: ${sorted.map(([name, n]) => `${name} ${n}`).join(", ")}` },
    sorted.map(([name, n]) => [h("span", { class: "t" }, name),
      bar(n / near.length, query.label === null ? "plain" : name === query.label ? "same" : "other"), h("span", {}, `${n} of ${near.length}`)]).flat());
}

export function bar(share, kind = "") {
  const inner = h("i", { class: kind });
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return h("span", { class: "track" }, inner);
}

function summary(reply, near, query) {
  const text = !near.length ? "No stored image may answer."
    : reply.exact ? "These are exactly the nearest." : "Found by an approximate index.";
  const lacking = reply.missing ? ` ${count(reply.missing)} images are not in the index: none of them can be here.` : "";
  return text + lacking + (query.label === null ? " The class of the query is not known." : "");
}

function nearest(reply, { values, source }, features = source.features) {
  const { query, neighbours: near } = reply;
  if (!near.length) return empty("No neighbours", "No stored image may answer. Allow any class.");
  const grid = h("div", { class: "grid" }, near.map((one) => {
    const known = query.label !== null && one.label !== null;
    const kind = !known ? "plain" : one.label === query.label ? "same" : "other";
    const chosen = [one.image, String(one.row)].includes(values.with) && (values.by || undefined) === (features === source.features ? undefined : features);
    const by = features === source.features ? undefined : features;
    const tile = pictureLink(one, [distance(one.distance), one.label ?? ""], kind, link("ask", { ...values, with: one.image, by }), chosen);
    tile.dataset.image = one.image;
    tile.dataset.by = by || "";
    return tile;
  }));
  return [grid, query.label === null ? null : h("p", { class: "soft small key" },
    h("i", { class: "dot same" }), "its class", h("i", { class: "dot other" }), "another class")].filter(Boolean);
}

function mark(place, values) {
  for (const one of place.querySelectorAll(".near .pic")) {
    one.href = link("ask", { ...values, with: one.dataset.image, by: one.dataset.by });
    if (one.dataset.image === values.with && one.dataset.by === (values.by || "")) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
}

// The arrow keys go through the neighbours.
function arrows(near, life) {
  near.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...near.querySelectorAll(".pic")], next = all[all.indexOf(document.activeElement) + step];
    if (next) { next.focus(); event.preventDefault(); }
  }, { signal: life });
}

function dropZone(place, go, source, life) {
  const input = h("input", { type: "file", accept: "image/*", multiple: true, id: "file" });
  const told = h("div", { class: "brought", role: "status" });
  const zone = h("section", { class: "dropzone", "aria-label": "Bring an image" },
    h("label", { class: "drop" }, input, h("b", {}, "Drop an image, paste one, or choose a file"),
      h("span", { class: "soft small" }, "It stays on this machine. The network of the store looks at it, and nothing is kept.")), told);
  const list = (note = "") => told.replaceChildren(...[
    note ? h("p", { class: "wrongline" }, prose(note)) : null,
    brought.length > 1 ? h("div", { class: "strip" }, h("span", { class: "soft small" }, "You brought "),
      brought.map((one) => h("a", { href: link("ask", { ...source, image: one.image }), title: named(one) }, picture(one, 96)))) : null,
  ].filter(Boolean));
  const bring = async (files) => {
    if (!files.length) return;
    zone.classList.add("busy");
    say("The image is sent");
    const wrong = [];
    let last = null;
    for (const file of files) {
      try {
        last = await ask("images", {}, { method: "POST", body: file });
        if (!brought.some((one) => one.image === last.image)) brought.push(last);
      } catch (error) {
        wrong.push(`${file.name || "the image"}: ${error.message}`);
      }
    }
    zone.classList.remove("busy");
    list(wrong.join(" "));
    if (last) go({ image: last.image, with: undefined, relation: undefined, by: undefined });
  };
  input.addEventListener("change", () => bring([...input.files]).then(() => { input.value = ""; }));
  const on = (kind, act) => addEventListener(kind, act, { signal: life });
  for (const kind of ["dragenter", "dragover"]) on(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
  on("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
  on("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) bring(files);
    else list("What you dropped is an address, not a file. This page asks no other server: save the image, then drop the file.");
  });
  on("paste", (event) => bring([...event.clipboardData.files]));
  list();
  return zone;
}

function someImages(facts, source, life) {
  let seed = 0, label = "";
  const gallery = h("div", { class: "grid" });
  const show = () => fill(gallery, life, async () => {
    const images = await ask("images", { count: 24, seed, label, features: source.features }, { signal: life });
    if (!images.length) return empty("No images", "The store has no images with features yet. Run `alike extract`.");
    return images.map((one) => pictureLink(one, [one.label ?? named(one)], "", link("ask", { ...source, image: one.image })));
  }, waiting(2, "Loading stored images"));
  const names = Object.entries(facts.classes).map(([name, n]) => [name, `${name} (${n})`]);
  const section = h("section", { class: "some", "aria-label": "Stored images" },
    h("div", { class: "controls" }, h("h2", {}, "Or ask a stored image"),
      names.length ? select("class", [["", "all"], ...names], "", (value) => { label = value; show(); }) : null,
      h("button", { type: "button", onclick: () => { seed += 1; show(); } }, "Others")), gallery);
  show();
  return section;
}
