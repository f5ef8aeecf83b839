// Tiles that are asked for again while the server is busy, and no longer once they are out of sight.

// What is going on: tiles on their way, what else is being done, the last thing that went wrong.
export const status = { pending: 0, busy: "", problem: "" };
let statusTimer = 0;

export function showStatus() {
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => {
    const { pending, busy, problem } = status;
    const text = busy || (pending ? `Making ${pending} tile${pending > 1 ? "s" : ""} …` : problem);
    const shown = document.getElementById("status");
    shown.textContent = text;
    shown.hidden = !text;
  }, 300);
}

const pause = (seconds, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

// A full queue answers 503 and says when to come again; anything else is tried twice more.
async function load(address, signal) {
  for (let failures = 0; !signal.aborted; ) {
    let answer = null;
    try {
      answer = await fetch(address, { signal });
      if (answer.ok) return await answer.blob();
    } catch (error) {
      if (signal.aborted) break;
    }
    if (answer?.status === 503) {
      const seconds = Number(answer.headers.get("Retry-After")) || 2;
      await pause(seconds * (1 + Math.random() / 2), signal);
      continue;
    }
    failures += 1;
    if (failures > 2) {
      status.problem = answer ? await answer.text() : "The server does not answer.";
      throw new Error(status.problem);
    }
    await pause(failures, signal);
  }
  throw new DOMException("no longer needed", "AbortError");
}

const Tiles = L.GridLayer.extend({
  initialize(path, options) {
    L.GridLayer.prototype.initialize.call(this, options);
    this.path = path;
    this.loads = new WeakMap();
    this.on("tileunload", ({ tile }) => {
      this.loads.get(tile)?.abort();
      URL.revokeObjectURL(tile.src);
    });
  },
  createTile({ x, y, z }, done) {
    const tile = document.createElement("img");
    const control = new AbortController();
    tile.alt = "";
    this.loads.set(tile, control);
    status.pending += 1;
    showStatus();
    load(`${this.path}/${z}/${x}/${y}.webp${this.options.query}`, control.signal)
      .then((blob) => {
        status.problem = "";
        tile.onload = () => done(null, tile);
        tile.src = URL.createObjectURL(blob);
      })
      .catch((error) => control.signal.aborted || done(error, tile))
      .finally(() => {
        status.pending -= 1;
        showStatus();
      });
    return tile;
  },
});

// A layer of the tiles below `path`; `about` says which zooms the server has.
export function tiles(path, about, options) {
  return new Tiles(path, {
    query: `?v=${about.version}`,
    minNativeZoom: about.lowest,
    maxNativeZoom: about.highest,
    minZoom: 0,
    maxZoom: 30,
    noWrap: false,
    keepBuffer: 1,
    ...options,
  });
}
