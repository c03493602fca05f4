// The page of the map: its points, what is under the pointer, in an outline, found by a search.
import { plot } from "./plot.js";

const MOST_KEYS = 1000; // that are sent, and
const MOST_CORNERS = 300; // of an outline: fewer than maps.py takes
const NEAR = 9; // pixels, to be under the pointer
const REST = 120; // milliseconds that the pointer rests before a row is asked for
const STEP = 80; // pixels that an arrow key moves
const NEARER = 1.5; // times, that a key zooms

const by = (id) => document.getElementById(id);
const form = by("map-form");
const asked = () => new URLSearchParams(new FormData(form)).toString();
const ask = (wanted) => fetch(`/parts/map/points?${wanted}`, { headers: { "HX-Request": "true" } })
  .catch(() => new Response("The studio cannot be reached.", { status: 503 }));

if (form) {
  // The server reads the points while the browser reads D3.
  const wanted = asked();
  const answer = ask(wanted);
  document.addEventListener("DOMContentLoaded", () => begin(wanted, answer));
}

function begin(firstWanted, firstAnswer) {
  const plane = by("plane");
  const stage = plane.closest(".stage");
  const drawn = plot(plane, by("points"));
  let rows = null; // what read() gave last
  let marked = [];
  let hidden = new Set();

  // ---- Points

  async function load({ keepView = false, wanted = asked(), answering = ask(wanted) } = {}) {
    by("map-state").textContent = "Reading the rows …";
    by("map-problem").replaceChildren();
    const answer = await answering;
    if (answer.headers.get("HX-Refresh")) location.reload(); // the cookie is no longer right
    const body = answer.ok ? await answer.arrayBuffer() : await answer.text();
    if (wanted !== asked()) return; // by now something else is
    if (!answer.ok) {
      by("map-state").textContent = "";
      by("map-problem").innerHTML = body; // escaped by the server
      return;
    }
    rows = read(body);
    hidden = new Set();
    marked = [];
    by("picked").replaceChildren();
    describe(rows, toggle);
    if (!keepView) zoomTo(d3.zoomIdentity);
    style();
    requestAnimationFrame(() => performance.mark("map-drawn"));
    window.requestIdleCallback?.(() => treeOf(rows));
    history.replaceState(null, "", `/map?${short(wanted)}`);
  }

  function style() {
    if (rows) drawn.style(rows, rows.colours.map((one) => one.style), hidden, marked);
  }

  function mark(numbers) {
    marked = numbers;
    style();
  }

  function toggle(colour) {
    if (!hidden.delete(colour)) hidden.add(colour);
    style();
    return !hidden.has(colour);
  }

  // ---- Moving

  let frame = 0;
  const zoom = d3.zoom().scaleExtent([0.5, 500])
    .filter((event) => !outlining && !event.shiftKey && !event.button)
    .on("start", () => drawn.hold(true))
    .on("end", () => drawn.hold(false))
    .on("zoom", ({ transform }) => {
      hideTip();
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => drawn.draw(transform));
    });
  const view = d3.select(plane).call(zoom).on("dblclick.zoom", null);
  const zoomTo = (transform) => view.call(zoom.transform, transform);
  const move = (x, y) => view.call(zoom.translateBy, x / d3.zoomTransform(plane).k, y / d3.zoomTransform(plane).k);

  function show(number) {
    const [across, up] = drawn.scales();
    move(plane.clientWidth / 2 - across(rows.x[number]), plane.clientHeight / 2 - up(rows.y[number]));
  }

  const actions = {
    in: () => view.call(zoom.scaleBy, NEARER),
    out: () => view.call(zoom.scaleBy, 1 / NEARER),
    whole: () => zoomTo(d3.zoomIdentity),
    lasso: () => setOutlining(!outlining),
    view: () => {
      const [width, height] = [plane.clientWidth, plane.clientHeight];
      pick([[0, 0], [width, 0], [width, height], [0, height]]);
    },
    left: () => move(STEP, 0),
    right: () => move(-STEP, 0),
    up: () => move(0, STEP),
    down: () => move(0, -STEP),
    none: () => {
      setOutlining(false);
      by("picked").replaceChildren();
      mark([]);
    },
  };
  const keys = {
    "+": "in", "=": "in", "-": "out", 0: "whole", l: "lasso", Enter: "view", Escape: "none",
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
  };
  plane.addEventListener("keydown", (event) => {
    const action = actions[keys[event.key]];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
  for (const button of stage.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => actions[button.dataset.do]());
  }

  // ---- An outline

  let outlining = false;
  let outline = null; // corners, in pixels, while it is drawn

  function setOutlining(on) {
    outlining = on;
    stage.classList.toggle("drawing", on);
    stage.querySelector("[data-do=lasso]").ariaPressed = String(on);
  }

  plane.addEventListener("pointerdown", (event) => {
    if (event.button || !(outlining || event.shiftKey)) return;
    plane.setPointerCapture(event.pointerId);
    outline = [d3.pointer(event, plane)];
  });
  plane.addEventListener("pointermove", (event) => {
    if (!outline) return hover(event);
    const corner = d3.pointer(event, plane);
    const last = outline.at(-1);
    if (Math.hypot(corner[0] - last[0], corner[1] - last[1]) < 4) return;
    outline.push(corner);
    by("outline").setAttribute("d", `M${outline.join("L")}Z`);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    plane.addEventListener(end, () => {
      const corners = outline;
      outline = null;
      by("outline").removeAttribute("d");
      if (end === "pointerup" && corners?.length > 2) {
        setOutlining(false);
        pick(corners);
      }
    });
  }

  // Marks the points in an outline, and asks for their rows.
  function pick(corners) {
    if (!rows) return;
    const every = Math.ceil(corners.length / MOST_CORNERS);
    const [across, up] = drawn.scales();
    const polygon = corners.filter((_, place) => place % every === 0)
      .map(([x, y]) => [across.invert(x), up.invert(y)]);
    const [left, right] = d3.extent(polygon, ([x]) => x);
    const [bottom, top] = d3.extent(polygon, ([, y]) => y);
    const inside = [];
    for (let i = 0; i < rows.points; i += 1) {
      const [x, y] = [rows.x[i], rows.y[i]];
      if (x >= left && x <= right && y >= bottom && y <= top && !hidden.has(rows.colour[i])
          && d3.polygonContains(polygon, [x, y])) inside.push(i);
    }
    mark(inside);
    htmx.ajax("POST", `/parts/map/rows?${asked()}`, {
      target: "#picked",
      values: {
        keys: `[${inside.slice(0, MOST_KEYS).map((i) => rows.keys[i])}]`,
        total: inside.length,
        outline: JSON.stringify(hidden.size ? [] : polygon),
        map: rows.map ?? "",
      },
    });
  }

  // ---- The row under the pointer

  const tip = by("tip");
  let under = -1;
  let waiting = 0;
  let asking = new AbortController();

  function hideTip() {
    clearTimeout(waiting);
    asking.abort();
    under = -1;
    tip.hidden = true;
  }

  function hover(event) {
    if (!rows || event.buttons) return;
    const [x, y] = d3.pointer(event, plane);
    const [across, up] = drawn.scales();
    const [mapX, mapY] = [across.invert(x), up.invert(y)];
    const found = treeOf(rows).find(mapX, mapY, Math.abs(across.invert(x + NEAR) - mapX)) ?? -1;
    if (found === under) return;
    hideTip();
    if (found < 0 || hidden.has(rows.colour[found])) return;
    under = found;
    waiting = setTimeout(() => ask(found, x, y), REST);
  }

  async function ask(number, x, y) {
    asking = new AbortController();
    const { signal } = asking;
    const key = encodeURIComponent(rows.keys[number]);
    try {
      const answer = await fetch(`/parts/map/row?${asked()}&key=${key}`, { headers: { "HX-Request": "true" }, signal });
      const text = await answer.text();
      if (signal.aborted) return;
      tip.innerHTML = text; // escaped by the server
    } catch {
      return; // the pointer has gone on
    }
    if (rows.of) {
      const line = document.createElement("p");
      line.className = "dim";
      line.textContent = rows.colours[rows.colour[number]].name;
      tip.append(line);
    }
    tip.hidden = false;
    const left = x + 14 + tip.offsetWidth > plane.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    const top = Math.min(y + 14, plane.clientHeight - tip.offsetHeight - 4);
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  }
  plane.addEventListener("click", hover); // a finger does not hover
  plane.addEventListener("pointerleave", hideTip);

  // ---- What is beside the map

  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    if (detail.target.id === "source") {
      form.elements.map.replaceChildren();
      load();
      return;
    }
    if (detail.target.id !== "picked") return;
    by("picked-state").textContent = by("picked").querySelector("h3")?.textContent ?? "";
    if (detail.requestConfig.verb === "get" && rows) {
      const keysFound = [...by("picked").querySelectorAll("[data-key]")].map((one) => one.dataset.key);
      mark(keysFound.map((key) => numbersOf(rows).get(key)).filter((number) => number !== undefined));
    }
  });
  by("picked").addEventListener("click", (event) => {
    const entry = event.target.closest("[data-show]")?.closest("[data-key]");
    const number = entry && numbersOf(rows).get(entry.dataset.key);
    if (number === undefined || number === null) return;
    mark([number]);
    show(number);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  form.addEventListener("change", ({ target }) => {
    if (target.name === "colour" || target.name === "map") load({ keepView: target.name === "colour" });
  });
  new ResizeObserver(() => drawn.draw()).observe(plane);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", style);
  by("points").addEventListener("webglcontextrestored", style);
  if (!drawn.isDrawn) {
    by("map-keys").textContent = "This browser draws no WebGL, so no points are seen; they can be listed and searched.";
  }
  load({ wanted: firstWanted, answering: firstAnswer });
}

// An address without what was left empty.
function short(wanted) {
  const given = new URLSearchParams(wanted);
  const parts = ["column", "operator", "value"];
  const kept = [...given].filter(([name, value]) => value && !parts.includes(name));
  given.getAll("column").forEach((column, line) => {
    if (column) kept.push(...parts.map((name) => [name, given.getAll(name)[line]]));
  });
  return new URLSearchParams(kept);
}

// Takes apart what points.py put together.
function read(buffer) {
  const text = (from, length) => new TextDecoder().decode(new Uint8Array(buffer, from, length));
  const size = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(text(4, size));
  const many = head.points;
  const start = 4 + size;
  return {
    ...head,
    x: new Float32Array(buffer, start, many),
    y: new Float32Array(buffer, start + 4 * many, many),
    colour: new Uint8Array(buffer, start + 8 * many, many),
    keys: many ? text(start + 9 * many).split("\n") : [],
  };
}

// Made when they are first asked for: the map is drawn before.
function treeOf(rows) {
  rows.tree ??= d3.quadtree().x((i) => rows.x[i]).y((i) => rows.y[i]).addAll(d3.range(rows.points));
  return rows.tree;
}

function numbersOf(rows) {
  rows.numbers ??= new Map(rows.keys.map((key, number) => [key, number]));
  return rows.numbers;
}

function describe(rows, toggle) {
  const number = (value) => value.toLocaleString("en");
  const many = rows.sample ? `A sample, ${number(rows.points)} of ${number(rows.total)} rows`
    : `${number(rows.points)} ${rows.points === 1 ? "row" : "rows"}`;
  by("map-state").textContent = rows.points === 0 ? "There is no row to show."
    : `${many}${rows.map ? `, as in ${rows.map}` : ""}${rows.of ? `; colours: ${rows.of}` : ""}.`;
  coded(by("map-note"), rows.note);
  const command = by("map-command");
  command.hidden = rows.map !== null || rows.points === 0;
  command.querySelector("pre").textContent = rows.command;
  const options = [...rows.maps, "sketch"].map((name) =>
    new Option(name === "sketch" ? "a quick sketch" : name, name, false, name === (rows.map ?? "sketch")));
  form.elements.map.replaceChildren(...options);
  by("maps").hidden = rows.maps.length === 0;
  by("legend").replaceChildren(...rows.colours.map((colour, place) => entry(colour, place, toggle)));
}

function entry({ name, points, style }, place, toggle) {
  const button = document.createElement("button");
  const dot = document.createElement("i");
  const count = document.createElement("small");
  button.type = "button";
  button.ariaPressed = "true";
  dot.style.background = `var(--${style})`;
  count.textContent = points.toLocaleString("en");
  button.append(dot, name, " ", count);
  button.addEventListener("click", () => { button.ariaPressed = String(toggle(place)); });
  return button;
}

// What is between backticks is code.
function coded(place, text) {
  place.hidden = !text;
  place.replaceChildren(...text.split("`").map((part, number) => {
    if (number % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  }));
}
