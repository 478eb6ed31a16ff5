// Colours of relevance over an image. Only what is strong is coloured; elsewhere the image is seen.

const SMALL = 48, SIDE = 420, WEAK = 0.3;

// Ink and opacity of a share of the largest magnitude; `colours` are those of analysis/explain/overlay.py.
export function colour(share, colours) {
  const size = Math.abs(share), [weak, strong] = share < 0 ? colours.against : colours.for;
  const over = Math.max(0, (size - WEAK) / (1 - WEAK));
  return [weak.map((value, i) => value * (1 - over) + strong[i] * over), 0.85 * over ** 1.1];
}

export function largest(...maps) {
  return Math.max(...maps.flat(2).map(Math.abs), 0);
}

// Draw an image and a map (h, w) over it; `top` is what full colour means; `mark` is a cell [y, x].
export function paint(canvas, img, map, top, colours, mark = null) {
  const scale = SIDE / Math.max(img.naturalWidth, img.naturalHeight);
  canvas.width = Math.round(img.naturalWidth * scale);
  canvas.height = Math.round(img.naturalHeight * scale);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = Math.max(img.naturalWidth, img.naturalHeight) > SMALL;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(img, 0, 0, canvas.width, canvas.height);
  if (!map) return;
  const shown = pen.getImageData(0, 0, canvas.width, canvas.height), data = shown.data;
  const high = map.length, wide = map[0].length;
  const place = (x, size, cells) => {
    const exact = Math.min(Math.max(((x + 0.5) * cells) / size - 0.5, 0), cells - 1), low = Math.floor(exact);
    return [low, Math.min(low + 1, cells - 1), exact - low];
  };
  const across = Array.from({ length: canvas.width }, (_, x) => place(x, canvas.width, wide));
  for (let y = 0, i = 0; y < canvas.height; y++) {
    const [up, down, v] = place(y, canvas.height, high);
    for (let x = 0; x < canvas.width; x++, i += 4) {
      const [left, right, u] = across[x];
      const above = map[up][left] * (1 - u) + map[up][right] * u;
      const below = map[down][left] * (1 - u) + map[down][right] * u;
      const share = top > 0 ? Math.min(Math.max((above * (1 - v) + below * v) / top, -1), 1) : 0;
      const [ink, opacity] = colour(share, colours);
      const grey = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
      for (let c = 0; c < 3; c++) {
        const base = 0.45 * data[i + c] + 0.55 * grey;
        data[i + c] = base * (1 - opacity) + ink[c] * opacity;
      }
    }
  }
  pen.putImageData(shown, 0, 0);
  if (mark) outline(pen, [canvas.width / wide, canvas.height / high], mark);
}

function outline(pen, [wide, high], [y, x]) {
  for (const [ink, width, inset] of [["#fff", 3, 1], ["#000", 1, 3]]) {
    pen.lineWidth = width;
    pen.strokeStyle = ink;
    pen.strokeRect(x * wide + inset, y * high + inset, wide - 2 * inset, high - 2 * inset);
  }
}

// The scale of the colours, from -1 to 1.
export function paintScale(canvas, colours, ground) {
  const pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    const [ink, opacity] = colour((2 * x) / (canvas.width - 1) - 1, colours);
    pen.fillStyle = `rgb(${ink.map((value) => ground * (1 - opacity) + value * opacity).join(",")})`;
    pen.fillRect(x, 0, 1, canvas.height);
  }
}
