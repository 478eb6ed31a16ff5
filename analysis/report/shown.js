"use strict";
// Figures and tables of the report and of the served page.
const Shown = (() => {
  const root = document.documentElement;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly draws with fixed colours; those of text, grid and hover boxes follow the page.
  function dress(layout) {
    const ink = css("--soft"), grid = css("--grid"), card = css("--card");
    const out = themed(JSON.parse(JSON.stringify(layout)));
    out.modebar = { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: ink };
    out.font = { ...out.font, color: ink };
    out.hoverlabel = { ...out.hoverlabel, bgcolor: card, bordercolor: css("--line"),
      font: { ...(out.hoverlabel || {}).font, color: css("--ink") } };
    for (const key of Object.keys(out)) {
      if (/^[xy]axis/.test(key)) out[key] = { ...out[key], gridcolor: grid };
    }
    return out;
  }

  // The colours of analysis/figures by the names that the page has for them, where those differ by theme.
  const INKS = { "#0f8b8d": "--good", "#e07a3f": "--far", "#2f6fde": "--accent", "#8b93a1": "--before", "#6b7280": "--soft" };
  const inked = (value) => (typeof value === "string" && INKS[value] ? css(INKS[value]) : value);

  // A part of a figure in the colours of the theme. Scales of colours are the same in both, as their words are.
  function themed(part) {
    if (Array.isArray(part)) return part.map((one) => (one && typeof one === "object" && !Array.isArray(one) ? themed(one) : one));
    return Object.fromEntries(Object.entries(part).map(([name, one]) => {
      if (name === "color") return [name, Array.isArray(one) ? one.map(inked) : inked(one)];
      const deep = one && typeof one === "object" && (!Array.isArray(one) || (one[0] && one[0].constructor === Object));
      return [name, deep ? themed(one) : one];
    }));
  }

  const webgl = Boolean(document.createElement("canvas").getContext("webgl"));
  const config = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false };

  function draw(box, spec) {
    box.alike = spec;
    // Slower, but drawn: remote desktops and strict browsers have no WebGL.
    if (!webgl) for (const trace of spec.data) if (trace.type === "scattergl") trace.type = "scatter";
    const zoom = spec.layout.meta && spec.layout.meta.zoom;
    saving(box, {
      SVG: async () => [await svg(box), "svg", "image/svg+xml"],
      PNG: async () => [await png(box), "png", "image/png"],
    }, box.id || "figure");
    return Plotly.newPlot(box, themed(spec.data), dress(spec.layout),
      zoom ? { ...config, displayModeBar: true, scrollZoom: true,
        modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] } : config);
  }

  // In the colours of the theme; of a fixed width, in pixels, for paper.
  function redress(box, width = 0) {
    if (!box.alike || !box.data) return;
    // What a click on the legend or the list of classes has changed stays.
    const data = themed(box.alike.data).map((trace, i) => {
      const { visible, marker } = box.data[i], kept = marker && marker.opacity !== undefined ? { marker: { ...trace.marker, opacity: marker.opacity } } : {};
      return { ...trace, ...kept, ...(visible === undefined ? {} : { visible }) };
    });
    Plotly.react(box, data, width ? { ...dress(box.alike.layout), width } : dress(box.alike.layout));
    // Back from paper it is as wide as its place again.
    if (box.fixed && !width) Plotly.Plots.resize(box);
    box.fixed = width;
  }

  // What is shown, as a file: a figure as SVG or PNG, a table as CSV or LaTeX. Nothing leaves the page.
  function saving(box, ways, name) {
    if (box.nextElementSibling && box.nextElementSibling.classList.contains("saves")) return;
    const line = document.createElement("p");
    line.className = "saves";
    for (const [label, make] of Object.entries(ways)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.setAttribute("aria-label", `Download ${name} as ${label}`);
      button.addEventListener("click", async () => {
        const [content, suffix, kind] = await make(), link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([content], { type: kind }));
        link.download = `${name}.${suffix}`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
      line.append(button);
    }
    box.after(line);
  }

  // What Plotly gives for a drawing, after the comma of a data address.
  async function drawn(box, form) {
    const layout = { ...box.layout, paper_bgcolor: css("--card") };
    const size = { width: box.clientWidth, height: box.clientHeight };
    const address = await Plotly.toImage({ data: box.data, layout }, { ...form, ...size });
    return address.slice(address.indexOf(",") + 1);
  }

  async function svg(box) {
    return decodeURIComponent(await drawn(box, { format: "svg" }));
  }

  // With twice the pixels that the screen has, so that it is sharp on a slide.
  async function png(box) {
    const bytes = atob(await drawn(box, { format: "png", scale: 2 }));
    return Uint8Array.from(bytes, (one) => one.charCodeAt(0));
  }

  // Rows of text, the headings first; an interval under a number has a column of its own.
  function cells(table) {
    const plain = (node) => node.textContent.trim().replace(/\u2212/g, "-").replace(/[\u00a0\u202f]/g, " ");
    const rows = [...table.rows].map((row) => [...row.cells].map((cell) => {
      const copy = cell.cloneNode(true), under = copy.querySelector(".sub");
      if (under) under.remove();
      return [plain(copy), under ? plain(under) : ""];
    }));
    const has = (part) => rows[0].map((_, column) => rows.some((row) => row[column] && row[column][part]));
    const [filled, wide] = [has(0), has(1)]; // a column of bars has no text
    return rows.map((row, number) => row.flatMap(([value, under], column) =>
      wide[column] ? [value, number ? under : `${value}, below`] : filled[column] ? [value] : []));
  }

  // A spreadsheet runs what begins so: an apostrophe makes it text. Numbers and spans of them stay.
  const RUNS = /^[=+\-@\t\r]/, NUMBERS = /^[+-][\d.,\s%e]*( to [+-]?[\d.,\s%e]+)?( points)?$/;
  const inert = (value) => (RUNS.test(value) && !NUMBERS.test(value) ? `'${value}` : value);

  function csv(table) {
    const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);
    return cells(table).map((row) => row.map(inert).map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "[": "{[}", "*": "{*}" }; // which belong to the end of the line above where they begin one
  function latex(table) {
    const safe = (value) => value.replace(/[\\~^[*]|[&%$#_{}]/g, (one) => LATEX[one] || `\\${one}`);
    const rows = cells(table).map((row) => `${row.map(safe).join(" & ")} \\\\`);
    const kinds = cells(table)[0].map(() => "l").join("");
    return [`\\begin{tabular}{${kinds}}`, "\\hline", rows[0], "\\hline", ...rows.slice(1), "\\hline", "\\end{tabular}", ""].join("\n");
  }

  function savable(table, name) {
    saving(table.closest(".tablebox") || table, {
      CSV: () => [csv(table), "csv", "text/csv"], LaTeX: () => [latex(table), "tex", "text/x-tex"],
    }, name);
  }

  // Tables: a click on a heading sorts, numbers as numbers; the filter hides rows.
  function tables(place) {
    let number = 0;
    for (const table of place.querySelectorAll("table.sortable")) {
      const section = table.closest("section[id]"), name = `${section ? section.id : "table"}-${(number += 1)}`;
      savable(table, name);
      const heads = [...table.tHead.rows[0].cells];
      heads.forEach((head, column) => head.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => {
          const cell = row.cells[column];
          const raw = cell.dataset.key === undefined ? cell.textContent.trim() : cell.dataset.key;
          const value = Number(raw.replace("\u2212", "-").replace(/[\s%\u202f]/g, ""));
          return Number.isNaN(value) || raw === "" ? raw.toLowerCase() : value;
        };
        const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1));
        if (down) rows.reverse();
        table.tBodies[0].append(...rows.map(([, row]) => row));
      }));
    }
    for (const input of place.querySelectorAll("input.filter")) {
      const rows = [...input.nextElementSibling.querySelectorAll("tbody tr")];
      input.addEventListener("input", () => {
        const wanted = input.value.toLowerCase();
        for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      });
    }
  }

  return { css, csv, draw, latex, png, redress, savable, saving, svg, tables };
})();
