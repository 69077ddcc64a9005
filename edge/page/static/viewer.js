// The picture of one image: the original's pixels through a window, and what the result says drawn over them.
// Points are detector pixels, (0, 0) is the centre of the top-left one; "scale" is CSS pixels per detector pixel.

const FULL = 65535;
const REACH = 8; // of a mark, from its middle
const HEAD = 10; // of the arrow
const RIM = "#000";
const WHITE = "#ffffff";
const MARGIN = 12; // about a picture that fits
const ZOOM_STEP = 1.25;
const MOST_SCALE = 40;
const BARS_MM = [1, 2, 5, 10, 20, 50, 100, 200];
const LAYER_KEYS = { i: "image", h: "heatmaps", l: "landmarks", u: "uncertainty", r: "reference", s: "shift" };

const root = document.getElementById("viewer");
const scene = JSON.parse(root.dataset.scene);
const canvas = document.getElementById("canvas");
const stage = canvas.parentElement;
const pen = canvas.getContext("2d");
const word = document.getElementById("stage-word");
const remark = document.getElementById("remark");
const readout = document.getElementById("readout");
const film = root.querySelector(".view-film");
const zoomOut = document.getElementById("zoom");
const level = document.getElementById("level");
const width = document.getElementById("width");
const boxes = new Map([...root.querySelectorAll("input[name=layer]")].map((box) => [box.value, box]));
const button = (name) => root.querySelector(`button[data-do=${name}]`);

const view = { scale: 1, x: 0, y: 0, fitted: true, ratio: 1, unit: 1 };
const shown = { low: 0, high: 1, inverted: false };
let raw = null; // { values, low, high, window, sign } of the original; more is more dose, sign times it is the file's own
let base = null; // what is drawn as the image: { picture, width, height }
let shades = null; // the heatmaps as one canvas over the image
let asked = false; // a frame is on its way

// ---- Getting pixels ----

async function fetched(address) {
  const answer = await fetch(address, { credentials: "same-origin" });
  if (answer.status === 503) throw new Error("Too many images are being shown just now; load this page again.");
  if (!answer.ok) throw new Error(`The page's server answered ${answer.status}.`);
  if ((answer.headers.get("Content-Type") || "").startsWith("application/json")) {
    throw new Error((await answer.json()).reason);
  }
  return answer;
}

async function openOriginal() {
  const answer = await fetched(scene.addresses.pixels);
  const number = (name) => Number(answer.headers.get(name));
  const values = littleEndian(await answer.arrayBuffer());
  const size = { width: number("X-Width"), height: number("X-Height") };
  if (values.length !== size.width * size.height) throw new Error("The pixels did not arrive whole.");
  const suggested = answer.headers.get("X-Window").split(",").map(Number);
  raw = { values, low: number("X-Low"), high: number("X-High"), window: suggested, sign: number("X-Sign") };
  base = { picture: surface(size.width, size.height), ...size };
  [shown.low, shown.high] = suggested;
  develop();
}

function littleEndian(buffer) {
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] === 1) return new Uint16Array(buffer);
  const bytes = new DataView(buffer);
  return Uint16Array.from({ length: buffer.byteLength / 2 }, (_, i) => bytes.getUint16(2 * i, true));
}

async function openOverlay() {
  const picture = await createImageBitmap(await (await fetched(scene.addresses.overlay)).blob());
  base = { picture, width: picture.width, height: picture.height };
}

async function openHeatmaps() {
  const answer = await fetched(scene.addresses.heatmaps);
  const kinds = JSON.parse(answer.headers.get("X-Kinds")); // in the order of the release, which need not be the scene's
  const stacked = await createImageBitmap(await answer.blob());
  const size = [stacked.width, Math.round(stacked.height / kinds.length)];
  const source = surface(stacked.width, stacked.height);
  const from = source.getContext("2d", { willReadFrequently: true });
  from.drawImage(stacked, 0, 0);
  const all = surface(...size);
  for (const [place, name] of kinds.entries()) {
    const part = from.getImageData(0, place * size[1], ...size);
    const [red, green, blue] = rgb((scene.kinds.find((one) => one.kind === name) || { colour: WHITE }).colour);
    for (let i = 0; i < part.data.length; i += 4) {
      part.data[i + 3] = part.data[i]; // grey is how opaque it is, as in the overlay
      [part.data[i], part.data[i + 1], part.data[i + 2]] = [red, green, blue];
    }
    const one = surface(...size);
    one.getContext("2d").putImageData(part, 0, 0);
    all.getContext("2d").drawImage(one, 0, 0);
  }
  shades = all;
}

function surface(wide, high) {
  const made = document.createElement("canvas");
  [made.width, made.height] = [wide, high];
  return made;
}

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// ---- The window: from the original's pixels to grey ----

function develop() {
  const { values, low, high } = raw;
  const step = (high - low) / FULL || 1;
  const [from, span] = [shown.low, Math.max(shown.high - shown.low, step)];
  const greys = new Uint32Array(FULL + 1);
  for (let value = 0; value <= FULL; value += 1) {
    const share = Math.min(1, Math.max(0, (low + value * step - from) / span));
    const grey = Math.round(255 * (shown.inverted ? share : 1 - share)); // as on film: less dose is brighter
    greys[value] = 0xff000000 | (grey * 0x010101); // the same in either order of bytes but for alpha
  }
  const ink = base.picture.getContext("2d");
  const image = ink.createImageData(base.width, base.height);
  const target = new Uint32Array(image.data.buffer);
  for (let i = 0; i < values.length; i += 1) target[i] = greys[values[i]];
  ink.putImageData(image, 0, 0);
}

function setWindow(low, high) {
  const least = (raw.high - raw.low) / FULL || 1;
  const middle = (low + high) / 2;
  const half = Math.max(least, Math.min(high - low, 4 * (raw.high - raw.low))) / 2;
  const bounded = Math.min(raw.high, Math.max(raw.low, middle));
  [shown.low, shown.high] = [bounded - half, bounded + half];
  develop();
  tellWindow();
  draw();
}

const brighten = (share) => {
  const move = share * (shown.high - shown.low) * (shown.inverted ? -1 : 1);
  setWindow(shown.low + move, shown.high + move);
};

const widen = (factor) => {
  const [middle, half] = [(shown.low + shown.high) / 2, ((shown.high - shown.low) / 2) * factor];
  setWindow(middle - half, middle + half);
};

function invert() {
  shown.inverted = !shown.inverted;
  button("invert").setAttribute("aria-pressed", String(shown.inverted));
  develop();
  tellWindow();
  draw();
}

const digits = () => Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(raw.high - raw.low || 1))));

function tellWindow() {
  const places = digits();
  if (document.activeElement !== level) level.value = ((raw.sign * (shown.low + shown.high)) / 2).toFixed(places);
  if (document.activeElement !== width) width.value = (shown.high - shown.low).toFixed(places);
  film.textContent = shown.inverted ? "more dose is brighter" : "less dose is brighter";
  [root.dataset.low, root.dataset.high] = [shown.low, shown.high];
}

function readWindow() {
  const [middle, span] = [raw.sign * level.valueAsNumber, width.valueAsNumber];
  if (Number.isFinite(middle) && span > 0) setWindow(middle - span / 2, middle + span / 2);
}

// ---- Zoom and place ----

function fit() {
  view.scale = Math.min((stage.clientWidth - 2 * MARGIN) / base.width, (stage.clientHeight - 2 * MARGIN) / base.height);
  view.scale = Math.max(view.scale, 0.01);
  view.x = (stage.clientWidth - base.width * view.scale) / 2;
  view.y = (stage.clientHeight - base.height * view.scale) / 2;
  view.fitted = true;
  tellZoom();
  draw();
}

function zoomTo(scale, at = [stage.clientWidth / 2, stage.clientHeight / 2]) {
  const next = Math.min(MOST_SCALE, Math.max(0.02, scale));
  view.x = at[0] - ((at[0] - view.x) * next) / view.scale;
  view.y = at[1] - ((at[1] - view.y) * next) / view.scale;
  view.scale = next;
  view.fitted = false;
  keepInSight();
  tellZoom();
  draw();
}

function move(dx, dy) {
  view.x += dx;
  view.y += dy;
  view.fitted = false;
  keepInSight();
  draw();
}

function keepInSight() {
  const least = 48; // so much of the picture stays in the stage
  view.x = Math.min(stage.clientWidth - least, Math.max(least - base.width * view.scale, view.x));
  view.y = Math.min(stage.clientHeight - least, Math.max(least - base.height * view.scale, view.y));
}

function tellZoom() {
  zoomOut.textContent = `${Math.round(view.scale * view.ratio * 100)} %`;
  root.dataset.zoom = String(view.scale * view.ratio);
}

// ---- Drawing ----

const on = (layer) => boxes.get(layer).checked && !boxes.get(layer).disabled;
const at = ([x, y]) => [(x + 0.5) * view.scale + view.x, (y + 0.5) * view.scale + view.y];

function draw() {
  if (asked || !base) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    paint();
  });
}

function paint() {
  const ratio = view.ratio;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.lineJoin = "round";
  pen.imageSmoothingEnabled = view.scale * ratio < 4; // larger pixels are shown as pixels
  pen.imageSmoothingQuality = "high";
  const place = [view.x, view.y, base.width * view.scale, base.height * view.scale];
  if (on("image")) pen.drawImage(base.picture, ...place);
  if (!raw) return;
  if (shades && on("heatmaps")) {
    pen.imageSmoothingEnabled = true;
    pen.drawImage(shades, ...place);
  }
  if (on("reference")) scene.reference.forEach(drawPlanned);
  if (on("landmarks")) drawLines();
  scene.landmarks.forEach(drawLandmark);
  if (on("shift")) drawShift();
  drawBar();
}

function stroked(colour, thick, outline) {
  for (const [ink, extra] of [[RIM, 2], [colour, 0]]) {
    pen.strokeStyle = ink;
    pen.lineWidth = (thick + extra) * view.unit;
    pen.beginPath();
    outline();
    pen.stroke();
  }
}

function polyline(points) {
  points.map(at).forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
}

function drawLines() {
  scene.kinds.forEach((kind, index) => {
    const points = scene.landmarks.filter((one) => one.kind === index).map((one) => [one.x, one.y]);
    if (kind.line && points.length > 1) stroked(kind.colour, 2, () => polyline(points));
  });
}

function drawLandmark(one) {
  const kind = scene.kinds[one.kind];
  if (kind.line) return;
  const [x, y] = at([one.x, one.y]);
  if (on("uncertainty") && one.radius95 !== null) {
    stroked(kind.colour, 1, () => pen.arc(x, y, one.radius95 * view.scale, 0, 2 * Math.PI));
  }
  if (!on("landmarks")) return;
  stroked(kind.colour, 2.5, () => outline(kind.mark, x, y, REACH * view.unit));
  write(one.score.toFixed(2), x + (REACH + 6) * view.unit, y, kind.colour);
}

function outline(mark, x, y, reach) {
  if (mark === "cross") {
    pen.moveTo(x - reach, y);
    pen.lineTo(x + reach, y);
    pen.moveTo(x, y - reach);
    pen.lineTo(x, y + reach);
  } else if (mark === "diamond") {
    [[0, -1], [1, 0], [0, 1], [-1, 0]].forEach(([dx, dy], i) => {
      if (i) pen.lineTo(x + dx * reach, y + dy * reach);
      else pen.moveTo(x + dx * reach, y + dy * reach);
    });
    pen.closePath();
  } else if (mark === "square") {
    pen.rect(x - reach, y - reach, 2 * reach, 2 * reach);
  } else {
    pen.arc(x, y, reach, 0, 2 * Math.PI);
  }
}

function drawPlanned(kind) {
  if (kind.line) {
    stroked(WHITE, 1, () => polyline(kind.places));
    return;
  }
  const reach = REACH * view.unit;
  for (const [x, y] of kind.places.map(at)) {
    stroked(WHITE, 2, () => {
      pen.moveTo(x - reach, y - reach);
      pen.lineTo(x + reach, y + reach);
      pen.moveTo(x - reach, y + reach);
      pen.lineTo(x + reach, y - reach);
    });
  }
}

function drawShift() {
  if (!scene.shift) return;
  const [start, end] = scene.shift.map(at);
  const back = [start[0] - end[0], start[1] - end[1]];
  const length = Math.hypot(...back) || 1;
  const reach = (HEAD * view.unit) / length / Math.SQRT2;
  stroked(WHITE, 2.5, () => {
    pen.arc(...start, 3 * view.unit, 0, 2 * Math.PI); // the isocentre
    pen.moveTo(...start);
    pen.lineTo(...end);
    if (length < HEAD * view.unit) return; // a head would be all there is to see
    for (const side of [1, -1]) {
      pen.moveTo(end[0] + reach * (back[0] + side * back[1]), end[1] + reach * (back[1] - side * back[0]));
      pen.lineTo(...end);
    }
  });
}

function drawBar() {
  if (!scene.mm) return;
  const perMm = view.scale / Math.abs(scene.mm.step[0]);
  const length = BARS_MM.filter((mm) => mm * perMm <= stage.clientWidth * 0.25).pop();
  if (!length) return;
  const [left, bottom] = [16 * view.unit, stage.clientHeight - 16 * view.unit];
  stroked(WHITE, 2, () => {
    pen.moveTo(left, bottom - 5 * view.unit);
    pen.lineTo(left, bottom);
    pen.lineTo(left + length * perMm, bottom);
    pen.lineTo(left + length * perMm, bottom - 5 * view.unit);
  });
  write(`${length} mm at the isocentre`, left, bottom - 15 * view.unit, WHITE);
}

function write(text, x, y, colour) {
  pen.font = `${13 * view.unit}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  pen.lineWidth = 3 * view.unit;
  pen.strokeStyle = RIM;
  pen.strokeText(text, x, y);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

// ---- What is under the pointer ----

function tellPlace(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left - view.x) / view.scale - 0.5;
  const y = (event.clientY - box.top - view.y) / view.scale - 0.5;
  const [column, row] = [Math.round(x), Math.round(y)];
  if (!raw || column < 0 || row < 0 || column >= base.width || row >= base.height) {
    readout.textContent = "";
    return;
  }
  const parts = [`x ${column}, y ${row} px`];
  if (scene.mm) {
    const mm = [x, y].map((value, axis) => scene.mm.first[axis] + value * scene.mm.step[axis]);
    parts.push(`${mm.map(signed).join(", ")} mm`);
  }
  const value = raw.low + (raw.values[row * base.width + column] * (raw.high - raw.low)) / FULL;
  parts.push(`value ${(raw.sign * value).toFixed(digits())}`);
  readout.textContent = parts.join(" · ");
}

const signed = (value) => {
  const text = Math.abs(value).toFixed(1);
  return `${value < 0 && Number(text) ? "−" : "+"}${text}`;
};

// ---- Layers ----

function readyLayers() {
  const there = {
    image: true,
    heatmaps: raw && scene.addresses.heatmaps,
    landmarks: raw && scene.landmarks.length,
    uncertainty: raw && scene.landmarks.some((one) => one.radius95 !== null && !scene.kinds[one.kind].line),
    reference: raw && scene.reference.some((kind) => kind.places.length),
    shift: raw && scene.shift,
  };
  for (const [layer, box] of boxes) {
    box.disabled = !there[layer];
    if (box.disabled) box.checked = false;
  }
}

async function toggled(layer) {
  if (layer === "heatmaps" && on(layer) && !shades) await showHeatmaps();
  draw();
  root.dataset.layers = [...boxes.keys()].filter(on).join(" ");
}

async function showHeatmaps() {
  const box = boxes.get("heatmaps");
  remark.textContent = "The heatmaps are being computed…";
  try {
    await openHeatmaps();
    remark.textContent = "";
  } catch (error) {
    remark.textContent = `No heatmaps: ${error.message}`;
    box.checked = false;
    box.disabled = true;
  }
}

function toggle(layer) {
  const box = boxes.get(layer);
  if (box.disabled) return;
  box.checked = !box.checked;
  toggled(layer);
}

// ---- Hands on it ----

const acts = {
  auto: () => setWindow(...raw.window),
  full: () => setWindow(raw.low, raw.high),
  invert,
  in: () => zoomTo(view.scale * ZOOM_STEP),
  out: () => zoomTo(view.scale / ZOOM_STEP),
  fit,
  one: () => zoomTo(1 / view.ratio),
};

const keys = {
  ArrowLeft: () => move(48, 0),
  ArrowRight: () => move(-48, 0),
  ArrowUp: () => move(0, 48),
  ArrowDown: () => move(0, -48),
  "+": acts.in,
  "=": acts.in,
  "-": acts.out,
  0: acts.fit,
  1: acts.one,
};

const windowKeys = {
  w: () => widen(1.1),
  n: () => widen(1 / 1.1),
  b: () => brighten(0.05),
  d: () => brighten(-0.05),
  a: acts.auto,
  v: acts.invert,
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = keys[key] || (raw && windowKeys[key]) || (LAYER_KEYS[key] && (() => toggle(LAYER_KEYS[key])));
  if (!act) return;
  event.preventDefault();
  act();
}

let drag = null; // { x, y, moves }

function grab(event) {
  if (event.button > 1) return;
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
  drag = { x: event.clientX, y: event.clientY, moves: event.shiftKey || event.button === 1 || !raw };
  event.preventDefault();
}

function pull(event) {
  tellPlace(event);
  if (!drag) return;
  const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
  [drag.x, drag.y] = [event.clientX, event.clientY];
  if (drag.moves) {
    move(dx, dy);
    return;
  }
  if (dx) widen(Math.exp(dx / 250));
  if (dy) brighten(dy / 400);
}

function wheeled(event) {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  const turn = Math.max(-1, Math.min(1, event.deltaY / 100));
  zoomTo(view.scale * ZOOM_STEP ** -turn, [event.clientX - box.left, event.clientY - box.top]);
}

function listen() {
  canvas.addEventListener("keydown", pressed);
  canvas.addEventListener("pointerdown", grab);
  canvas.addEventListener("pointermove", pull);
  canvas.addEventListener("pointerup", () => (drag = null));
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => (readout.textContent = ""));
  canvas.addEventListener("wheel", wheeled, { passive: false });
  canvas.addEventListener("dblclick", fit);
  for (const box of boxes.values()) box.addEventListener("change", () => toggled(box.value));
  for (const one of root.querySelectorAll("button[data-do]")) one.addEventListener("click", () => acts[one.dataset.do]());
  for (const field of [level, width]) {
    field.addEventListener("input", readWindow);
    field.addEventListener("blur", () => raw && tellWindow());
  }
}

function resized() {
  view.ratio = window.devicePixelRatio || 1;
  view.unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  canvas.width = Math.round(stage.clientWidth * view.ratio);
  canvas.height = Math.round(stage.clientHeight * view.ratio);
  if (!base) return;
  if (view.fitted) fit();
  else paint();
  tellZoom();
}

function allow() {
  const usable = raw ? Object.keys(acts) : ["in", "out", "fit", "one"];
  for (const name of usable) button(name).disabled = false;
  level.disabled = width.disabled = !raw;
}

async function openPicture() {
  const reasons = scene.why ? [scene.why] : [];
  if (scene.addresses.pixels) {
    try {
      await openOriginal();
      return [];
    } catch (error) {
      reasons.push(error.message);
    }
  }
  if (scene.addresses.overlay) {
    try {
      await openOverlay();
      return [...reasons, "Shown is the overlay that was published, with its marks drawn in."];
    } catch (error) {
      reasons.push(error.message);
    }
  }
  return reasons;
}

async function start() {
  const reasons = await openPicture();
  remark.textContent = reasons.map((one) => (one.endsWith(".") ? one : `${one}.`)).join(" ");
  root.dataset.source = raw ? "pixels" : base ? "overlay" : "none";
  if (!base) {
    word.textContent = "There is no picture.";
    root.dataset.state = "failed";
    return;
  }
  word.hidden = true;
  film.hidden = !raw;
  readyLayers();
  allow();
  listen();
  resized();
  if (raw) tellWindow();
  new ResizeObserver(resized).observe(stage);
  paint();
  root.dataset.layers = [...boxes.keys()].filter(on).join(" ");
  root.dataset.state = "ready";
}

start();
