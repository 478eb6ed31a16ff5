// Ask: an image, its neighbours, and the chosen pair, on one screen; by two networks in two columns.
import { askNeighbours, column, compareLists, MOST, nearest, noIndex, prediction, sideOf, summary, votes, wantedNumber } from "./answers.js";
import { dropZone } from "./bring.js";
import { ask, choices, empty, fill, goTo, h, imagePath, isolated, link, named, networkOption, picture, pictureLink, prose, replace, say, select, titleOf, waiting, whyGone } from "./parts.js";
import { PAIR, pairView } from "./pair.js";

const RELATIONS = [["any", "any class"], ["same", "its class"], ["other", "other classes"]];

// What an address of this view may say; null: anything.
export const parameters = ({ classes }) => ({
  image: null, with: null, by: null, beside: null, at: null, class: Object.keys(classes), relation: RELATIONS.map(([name]) => name),
  k: (value) => (String(wantedNumber({ k: value })) === value ? "" : `from 1 to ${MOST} neighbours are answered, ${wantedNumber({ k: value })} here`),
  ...PAIR,
});

export function view(place, { facts, go, source, doubt, about, life }) {
  let before = {}, titles = {};
  const drop = dropZone(source, life);
  const answer = h("div", { class: "asked", hidden: true });
  const query = h("section", { class: "query card", "aria-label": "Query" });
  const near = h("section", { class: "near", "aria-label": "Neighbours" });
  const beside = h("section", { class: "near beside", "aria-label": "Neighbours by another network", hidden: true });
  const pair = h("section", { class: "pairplace", "aria-label": "The chosen pair" });
  answer.append(h("div", { class: "left" }, query, near, beside), pair);
  const some = someImages({ facts, go, source, life });
  // With an image it stands in place of its neighbours.
  const lacking = h("div", { class: "lacking" }, facts.needs ? noIndex(facts.needs) : "");
  place.append(h("h1", { class: "unseen" }, "Ask: the nearest stored images of an image"), lacking, drop, answer, some.section);
  for (const list of [near, beside]) arrows(list, life);
  // Of the page: the image that is asked, and the neighbour that is chosen.
  const entitle = (changes) => {
    titles = { ...titles, ...changes };
    about([titles.query, titles.pair].filter(Boolean).join(" and "));
  };
  const compare = pairView(pair, { facts, go, source, doubt, entitle, life });

  return async (values) => {
    const same = ["image", "relation", "k", "beside"].every((name) => values[name] === before[name]);
    const other = values.image !== before.image, first = values.image && other;
    before = values;
    if (other || !values.image) entitle({ query: values.image || !Object.hasOwn(facts.classes, values.class) ? "" : isolated(values.class), pair: "" });
    drop.classList.toggle("slim", Boolean(values.image));
    answer.hidden = !values.image;
    lacking.hidden = Boolean(values.image);
    answer.classList.toggle("compared", Boolean(values.beside));
    some.section.classList.toggle("after", Boolean(values.image));
    some.show(values.class);
    if (!values.image) return;
    if (!same) {
      if (first) {
        scrollTo({ top: 0 });
        // Who asked another image by a link in this view goes on at the new question.
        if (place.contains(document.activeElement)) goTo(query.hidden ? near : query);
      }
      await showAnswer({ facts, go, source, life, values, entitle }, { answer, query, near, beside, pair });
      // Meanwhile another image, or a neighbour of this one, may have been chosen.
      if (before !== values) {
        if (before.image === values.image) mark(place, before);
        return;
      }
    } else mark(place, values);
    compare(values);
  };
}

async function showAnswer(context, { answer, query, near, beside, pair }) {
  const { life, values } = context, own = sideOf("", context);
  beside.hidden = !values.beside;
  await fill(near, life, async (live) => {
    const reply = await askNeighbours(values.image, own, context);
    if (!live()) return [];
    query.hidden = pair.hidden = false;
    context.entitle({ query: titleOf(reply.query) });
    showQuery(query, reply, context);
    say(reply.needs ? "No neighbours: there is no index" : `${reply.neighbours.length} neighbours of ${isolated(named(reply.query))}`);
    if (!values.beside) return nearest(reply, own, context);
    showBeside(context, { answer, query, beside }, reply);
    return column(reply, own, context);
  }, waiting(4, "Looking for neighbours"));
  if (near.querySelector("[role=alert]")) {
    if (query.contains(document.activeElement)) goTo(near);
    query.hidden = pair.hidden = true;
    beside.replaceChildren();
  }
}

function showBeside(context, { answer, query, beside }, reply) {
  const { life, values } = context, other = sideOf(values.beside, context);
  fill(beside, life, async (live) => {
    if (!other) return empty("No such network", `This server has no network “${values.beside}” now.`);
    // By its hash: a row of another store is another image.
    const its = await askNeighbours(reply.query.image, other, context);
    requestAnimationFrame(() => { if (live()) query.querySelector(".shared")?.replaceChildren(compareLists(answer, [reply, its])); });
    return column(its, other, context);
  }, waiting(4, "Asking the other network"));
}

function showQuery(place, reply, context) {
  const { facts, go, life, values } = context, own = sideOf("", context);
  const { query } = reply, relation = values.relation || "any";
  const whose = query.row < 0 ? "not in this store" : `${query.path} · row ${query.row} · ${query.split.replace("_", " ")}`;
  const others = facts.networks.filter((one) => one.value !== facts.key);
  const number = h("input", { type: "number", min: 1, max: MOST, value: wantedNumber(values), onchange: (event) => go({ k: event.target.value }) });
  const gone = h("p", { class: "wrongline small" });
  const sayWhy = () => whyGone(imagePath(query.image, "thumbnail"), { side: 384 }).then((why) => gone.replaceChildren(...prose(why)));
  replace(place,
    picture(query, 384, sayWhy),
    h("div", {},
      h("h2", { class: "name" }, query.label === null ? named(query) : query.label),
      h("p", { class: "soft small" }, whose),
      gone,
      values.beside ? "" : [votes(reply, relation), prediction(query, own, life)].filter(Boolean),
      h("div", { class: "controls" },
        reply.needs && !values.beside ? null : [choices("Which classes may answer", RELATIONS.map(([value, text]) =>
          [value, text, { disabled: query.label === null && value !== "any" }]), relation, (value) => go({ relation: value })),
        h("label", {}, "neighbours ", number)],
        others.length ? select("beside", [["", "no other network"], ...others.map((one) => networkOption(one.value, one.title, one.measure))],
          values.beside || "", (beside) => go({ beside, by: undefined })) : null),
      h("p", { class: "soft small shared", role: "status" }, values.beside ? "" : summary(reply))));
}

function mark(place, values) {
  for (const one of place.querySelectorAll(".near .pic")) {
    one.href = link("ask", { ...values, with: one.dataset.image, by: one.dataset.by, at: undefined });
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

function someImages({ facts, go, source, life }) {
  let seed = 0, label = null;
  const gallery = h("div", { class: "grid" });
  const draw = () => fill(gallery, life, async () => {
    const drawn = await ask("images", { count: 24, seed, label, features: source.features }, { signal: life });
    if (!drawn.images.length) return empty("No images", "The store has no images with features yet.");
    return drawn.images.map((one) => pictureLink(one, [one.label ?? named(one)], "", link("ask", { ...source, class: label, image: one.image })));
  }, waiting(2, "Loading stored images"));
  const names = Object.entries(facts.classes).map(([name, n]) => [name, `${isolated(name)} (${n})`]);
  const list = names.length ? select("class", [["", "all"], ...names], "", (value) => go({ class: value }, { replace: true })) : null;
  const section = h("section", { class: "some", "aria-label": "Stored images" },
    h("div", { class: "controls" }, h("h2", {}, "Or ask a stored image"),
      list, h("button", { type: "button", onclick: () => { seed += 1; draw(); } }, "Others")), gallery);
  const show = (name) => {
    const wanted = Object.hasOwn(facts.classes, name) ? name : "";
    if (wanted === label) return;
    label = wanted;
    if (list) list.querySelector("select").value = label;
    draw();
  };
  return { section, show };
}
