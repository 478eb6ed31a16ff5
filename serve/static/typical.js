// How typical a distance is among those of all evaluated pairs.
import { askIfThere, distance, h, rounded } from "./parts.js";

// "Nearer than 97 % of same-class pairs", and where that is on the histograms, if that is `there`.
export async function howTypical(apart, asked, there, life) {
  const options = { signal: life };
  const [typical, histogram] = !there ? [null, null] : await Promise.all([
    askIfThere("typical", { ...asked, distance: apart }, options), askIfThere("histograms", asked, options)]);
  const head = h("p", {}, "Distance ", h("b", {}, distance(apart)), ". ");
  if (!typical) {
    head.append(h("span", { class: "soft" }, "How typical that is needs labels, and an analysis by this measure."));
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
      [h("span", { class: "nowrap" }, h("i", { class: `dot ${kind}` }), text), " "]),
    " Heights are square roots of shares, so that rare distances are seen."));
}
