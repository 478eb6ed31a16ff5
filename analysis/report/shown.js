"use strict";
// Figures and tables of the report and of the served page.
const Shown = (() => {
  const root = document.documentElement;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly draws with fixed colours; those of text, grid and hover boxes follow the page.
  function dress(layout) {
    const ink = css("--soft"), grid = css("--grid"), card = css("--card");
    const out = JSON.parse(JSON.stringify(layout));
    out.modebar = { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: ink };
    out.font = { ...out.font, color: ink };
    out.hoverlabel = { ...out.hoverlabel, bgcolor: card, bordercolor: css("--line"),
      font: { ...(out.hoverlabel || {}).font, color: css("--ink") } };
    for (const key of Object.keys(out)) {
      if (/^[xy]axis/.test(key)) out[key] = { ...out[key], gridcolor: grid };
    }
    return out;
  }

  const webgl = Boolean(document.createElement("canvas").getContext("webgl"));
  const config = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false };

  function draw(box, spec) {
    box.alike = spec;
    // Slower, but drawn: remote desktops and strict browsers have no WebGL.
    if (!webgl) for (const trace of spec.data) if (trace.type === "scattergl") trace.type = "scatter";
    const zoom = spec.layout.meta && spec.layout.meta.zoom;
    return Plotly.newPlot(box, spec.data, dress(spec.layout),
      zoom ? { ...config, displayModeBar: true, scrollZoom: true,
        modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] } : config);
  }

  function redress(box) {
    if (box.alike && box.data) Plotly.react(box, box.data, dress(box.alike.layout));
  }

  // Tables: a click on a heading sorts, numbers as numbers; the filter hides rows.
  function tables(place) {
    for (const table of place.querySelectorAll("table.sortable")) {
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

  return { css, draw, redress, tables };
})();
