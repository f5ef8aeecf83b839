// The viewer: map on the left, imagery made of it on the right of a border that can be moved.
// Settings come from viewer.json; what is seen is kept in the address, so that links restore it.

import { showStatus, status, tiles } from "./tiles.js";

const settings = await (await fetch("viewer.json")).json();
const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const plain = (text) => {
  const span = document.createElement("span");
  span.textContent = text;
  return span.innerHTML;
};

// ---- what is seen ------------------------------------------------------------------------

const models = new Map(settings.models.map((model) => [model.name, model]));
const first = settings.models[0];
const state = { model: first, swipe: 50, opacity: 100 };

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const [zoom, lat, lon] = (words.get("map") ?? "").split("/").map(Number);
  const percent = (name, other) => {
    const value = words.has(name) ? Number(words.get(name)) : NaN;
    return Number.isFinite(value) ? clamp(value, 0, 100) : other;
  };
  state.model = models.get(words.get("model")) ?? first;
  state.swipe = percent("swipe", 50);
  state.opacity = percent("opacity", 100);
  const good = [zoom, lat, lon].every(Number.isFinite) && Math.abs(lat) <= 85.06;
  return good ? { zoom, center: [lat, lon] } : null;
}

function writeAddress() {
  const { lat, lng } = map.getCenter();
  const words = [
    `map=${+map.getZoom().toFixed(2)}/${lat.toFixed(5)}/${lng.toFixed(5)}`,
    `model=${encodeURIComponent(state.model.name)}`,
    `swipe=${Math.round(state.swipe)}`,
    `opacity=${state.opacity}`,
  ];
  history.replaceState(null, "", `#${words.join("&")}`);
}

// ---- the map -----------------------------------------------------------------------------

const start = readAddress();
const lowest = Math.min(...settings.models.map((model) => model.lowest));
const highest = Math.max(...settings.models.map((model) => model.highest));
const map = L.map("map", {
  minZoom: lowest,
  maxZoom: highest,
  zoomControl: false,
  worldCopyJump: true,
  attributionControl: false,
});
L.control.zoom({ position: "topleft" }).addTo(map);
L.control.scale({ position: "bottomleft", imperial: false }).addTo(map);
const credits = L.control
  .attribution({ prefix: '<a href="https://leafletjs.com">Leaflet</a>' })
  .addTo(map);

function startView() {
  const [west, south, east, north] = first.bounds;
  map.fitBounds([[south, west], [north, east]], { animate: false });
  // the whole of a large map would take hours: begin where all tiles can be made; the bounds of
  // a map across 180 degrees go around the world, and their middle may be far from it
  if (map.getZoom() < first.whole + 1) {
    const [lon, lat] = first.middle;
    map.setView([lat, lon], first.whole + 1, { animate: false });
  }
}

const pane = map.createPane("imagery");
pane.style.zIndex = 250;
tiles("source", settings.map).addTo(map);
let imagery = null;
let credit = "";

function showModel(model) {
  state.model = model;
  imagery?.remove();
  imagery = tiles(encodeURIComponent(model.name), model, { pane: "imagery" }).addTo(map);
  if (credit) credits.removeAttribution(credit);
  credit = plain(model.attribution);
  credits.addAttribution(credit);
  element("model").value = model.name;
  showArea();
}

// ---- the border --------------------------------------------------------------------------

function clip() {
  const size = map.getSize();
  const across = (size.x * state.swipe) / 100;
  const [left, right] = [
    map.containerPointToLayerPoint([across, 0]),
    map.containerPointToLayerPoint(size),
  ];
  const corners = [
    [left.x, left.y], [right.x, left.y], [right.x, right.y], [left.x, right.y],
  ];
  pane.style.clipPath = `polygon(${corners.map(([x, y]) => `${x}px ${y}px`).join(",")})`;
  element("divider").style.left = `${across}px`;
}

function setSwipe(value) {
  state.swipe = clamp(value, 0, 100);
  const rounded = Math.round(state.swipe);
  element("swipe").setAttribute("aria-valuenow", rounded);
  element("swipe").setAttribute("aria-valuetext", `${rounded} % map`);
  clip();
}

function setOpacity(value) {
  state.opacity = value;
  pane.style.opacity = value / 100;
  element("opacity").value = value;
}

const handle = element("swipe");
handle.addEventListener("pointerdown", (event) => {
  handle.setPointerCapture(event.pointerId);
  const move = ({ clientX }) => {
    const box = map.getContainer().getBoundingClientRect();
    setSwipe(((clientX - box.left) / box.width) * 100);
  };
  handle.addEventListener("pointermove", move);
  const end = () => {
    handle.removeEventListener("pointermove", move);
    writeAddress();
  };
  handle.addEventListener("lostpointercapture", end, { once: true });
});
handle.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 2;
  const moves = {
    ArrowLeft: state.swipe - step, ArrowDown: state.swipe - step,
    ArrowRight: state.swipe + step, ArrowUp: state.swipe + step, Home: 0, End: 100,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  setSwipe(moves[event.key]);
  writeAddress();
});

// ---- an area -----------------------------------------------------------------------------

let area = null; // LatLngBounds
let outline = null;

function setDrawing(on) {
  element("draw").hidden = !on;
  element("select").setAttribute("aria-pressed", on);
  element("select").textContent = on ? "Drag a box (Enter: the middle)" : "Select area";
}

function setArea(bounds) {
  area = bounds;
  outline?.remove();
  outline = bounds && L.rectangle(bounds, { color: "#ff7a00", weight: 2, fillOpacity: 0.04, interactive: false });
  outline?.addTo(map);
  showArea();
}

// The pixels that the area touches, and a box a quarter of a pixel inside of them: however its
// degrees are rounded, the same pixels come out.
function pixels() {
  const zoom = state.model.zoom;
  const [low, high] = [area.getSouthWest(), area.getNorthEast()]
    .map((corner) => map.project(corner, zoom));
  const [left, right] = [Math.floor(low.x), Math.ceil(high.x)];
  const [top, bottom] = [Math.floor(high.y), Math.ceil(low.y)];
  const [west, east] = [map.unproject([left + 0.25, top + 0.25], zoom),
    map.unproject([right - 0.25, bottom - 0.25], zoom)];
  const box = [west.lng, east.lat, east.lng, west.lat].map((value) => +value.toFixed(7)).join(",");
  return { width: right - left, height: bottom - top, box };
}

function showArea() {
  element("area").hidden = !area;
  if (!area) return;
  const { width, height, box } = pixels();
  const large = width * height > settings.maxPixels;
  element("size").textContent =
    `${width.toLocaleString("en")} × ${height.toLocaleString("en")} px at zoom ${state.model.zoom}` +
    (large ? ": too large to download here, use the command" : "");
  const [before, after] = state.model.command;
  // a box that begins with a minus would look like an option
  const command = `${before}${box.startsWith("-") ? "=" : " "}${box} ${after}`;
  const words = command.split(" ").map((word) => {
    const span = document.createElement("span");
    span.textContent = word;
    return [span, " "];
  });
  element("command").replaceChildren(...words.flat().slice(0, -1));
  element("download").disabled = large || Boolean(status.busy);
}

const sheet = element("draw");
sheet.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  sheet.setPointerCapture(event.pointerId);
  const at = (where) => map.mouseEventToLatLng(where);
  const from = at(event);
  const origin = [event.clientX, event.clientY];
  const move = (now) => setArea(L.latLngBounds(from, at(now)));
  sheet.addEventListener("pointermove", move);
  const end = (now) => {
    sheet.removeEventListener("pointermove", move);
    const far = Math.min(Math.abs(now.clientX - origin[0]), Math.abs(now.clientY - origin[1]));
    if (now.type === "pointerup" && far > 4) setDrawing(false);
    else setArea(null);
  };
  sheet.addEventListener("pointerup", end, { once: true });
  sheet.addEventListener("pointercancel", end, { once: true });
});

element("select").addEventListener("click", () => setDrawing(element("draw").hidden));
element("clear").addEventListener("click", () => {
  setArea(null);
  element("select").focus();
});
element("copy").addEventListener("click", async () => {
  const button = element("copy");
  try {
    await navigator.clipboard.writeText(element("command").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element("command"));
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy command"), 2000);
});
element("download").addEventListener("click", async () => {
  status.busy = "Rendering the GeoTIFF …";
  status.problem = "";
  showStatus();
  showArea();
  try {
    const name = encodeURIComponent(state.model.name);
    const answer = await fetch(`${name}/area.tif?bbox=${encodeURIComponent(pixels().box)}`);
    if (!answer.ok) throw new Error(await answer.text());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1]
      ?? "area.tif";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    status.problem = error.message;
  }
  status.busy = "";
  showStatus();
  showArea();
});

// ---- settings, keys, links ---------------------------------------------------------------

for (const model of settings.models) {
  element("model").append(new Option(model.title, model.name));
}
element("model").addEventListener("change", (event) => {
  showModel(models.get(event.target.value));
  writeAddress();
});
element("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
element("opacity").addEventListener("change", writeAddress);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
  const names = [...models.keys()];
  const drawing = !element("draw").hidden;
  const actions = {
    "[": () => setSwipe(state.swipe - 5),
    "]": () => setSwipe(state.swipe + 5),
    m: () => showModel(models.get(names[(names.indexOf(state.model.name) + 1) % names.length])),
    a: () => setDrawing(!drawing),
    Escape: () => (drawing ? setDrawing(false) : setArea(null)),
  };
  if (drawing && event.key === "Enter") {
    event.preventDefault();
    setArea(map.getBounds().pad(-0.25));
    setDrawing(false);
  } else if (event.key in actions) {
    actions[event.key]();
    writeAddress();
  }
});

function restore(view) {
  if (view) map.setView(view.center, view.zoom, { animate: false });
  else startView();
  showModel(state.model);
  setOpacity(state.opacity);
  setSwipe(state.swipe);
}

element("choose").hidden = models.size < 2;
restore(start);
map.on("move zoom resize viewreset", clip);
new ResizeObserver(() => map.invalidateSize({ animate: false })).observe(element("stage"));
map.on("moveend", writeAddress);
addEventListener("hashchange", () => restore(readAddress()));
writeAddress();
