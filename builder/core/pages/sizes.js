/* The map. Three parts: the trees of files, the layout (pure: weights in, boxes out), and what the person sees and does. */

// --- trees -----------------------------------------------------------------------------------------------------------

/** A node of a tree: `children` is null for a file; `owner` is an index of data.owners, or -1 for a folder of several. */
function node(name, parent, owner, isFile) {
  return { name, parent, owner, bytes: 0, files: 0, match: 0, children: isFile ? null : new Map() };
}

function addFile(root, parts, size, owner) {
  let at = root;
  root.bytes += size;
  root.files += 1;
  parts.forEach((part, index) => {
    const isFile = index === parts.length - 1;
    let next = at.children.get(part);
    if (!next) {
      next = node(part, at, owner, isFile);
      at.children.set(part, next);
    }
    if (next.owner !== owner) next.owner = -1;
    next.bytes += size;
    next.files += 1;
    at = next;
  });
  return at;
}

/** Every file: its path, size, owner, and its node in each of the two trees. */
const files = [];
const views = { p: node("all packages", null, -1, false), f: node("/", null, -1, false) };

(function read(folder, path) {
  for (const [name, inside, owner] of folder) {
    const here = [...path, name];
    if (Array.isArray(inside)) {
      read(inside, here);
    } else {
      const lower = `/${here.join("/")} ${data.owners[owner][0]}`.toLowerCase();
      files.push({
        path: `/${here.join("/")}`, size: inside, owner, lower,
        p: addFile(views.p, [data.owners[owner][0], ...here], inside, owner),
        f: addFile(views.f, here, inside, owner),
      });
    }
  }
})(data.files, []);

/** The kind of owner that most of a node's bytes belong to. */
function kind(at) {
  while (at && at.owner < 0) at = sorted(at)[0];
  return at ? data.kinds[data.owners[at.owner][2]][0] : "other";
}

function sorted(at) {
  at.sorted ??= [...at.children.values()].sort((a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : 1));
  return at.sorted;
}

/** Is a folder nearly all of the one above it? Then that one's map shows what is in this. */
const isMost = (at) => Boolean(at.children && at.parent && at.parent !== views.p && at.bytes > 0.75 * at.parent.bytes);

function ancestry(at) {
  const line = [];
  for (; at; at = at.parent) line.unshift(at);
  return line;
}

const pathOf = (line) => `/${line.map((each) => each.name).join("/")}`;

/** What a node is called in words: its path, and its package where that is one. */
function words(at) {
  const [root, ...line] = ancestry(at);
  if (!line.length) return [root.name, ""];
  const owner = at.owner < 0 ? null : data.owners[at.owner];
  const by = owner ? `${owner[0]} ${owner[1]}`.trim() : "several packages";
  if (root === views.f) return [pathOf(line), by];
  return line.length === 1 ? [by, ""] : [pathOf(line.slice(1)), by];
}

/** What a node's tile says: its path from `above`. */
function title(at, above = at.parent) {
  const line = ancestry(at).slice(above ? ancestry(above).length : 0);
  return line.map((each) => each.name).join("/") + (at.children && at.parent && at.parent !== views.p ? "/" : "");
}

function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size >= 50000 ? `${(size / 1e6).toFixed(1)} MB` : `${(size / 1e3).toFixed(1)} kB`;
}

// --- layout ----------------------------------------------------------------------------------------------------------

/** Squarified treemap (Bruls, Huizing, van Wijk, 2000): `box` cut into one box for each weight, largest first, areas in proportion. */
function squarify(weights, box) {
  let { x, y, w, h } = box;
  const scale = (w * h) / weights.reduce((sum, each) => sum + each, 0);
  const boxes = [];
  for (let start = 0; start < weights.length; ) {
    const side = Math.min(w, h);
    let sum = weights[start] * scale;
    let end = start + 1;
    const worst = (total, last) => {
      const depth = (total * total) / (side * side);
      return Math.max((weights[start] * scale) / depth, depth / (weights[last] * scale));
    };
    while (end < weights.length && worst(sum + weights[end] * scale, end) <= worst(sum, end - 1)) {
      sum += weights[end] * scale;
      end += 1;
    }
    const depth = sum / side;
    let along = 0;
    for (let at = start; at < end; at += 1) {
      const length = (weights[at] * scale) / depth;
      boxes.push(w >= h ? { x, y: y + along, w: depth, h: length } : { x: x + along, y, w: length, h: depth });
      along += length;
    }
    if (w >= h) [x, w] = [x + depth, w - depth];
    else [y, h] = [y + depth, h - depth];
    start = end;
  }
  return boxes;
}

const SMALLEST = 30; // square pixels: what would be less is shown together with its like
const DIVIDED = 1600; // square pixels from which a folder's tile is divided among what is in it

/** What to draw for the children of `at` in `box`: [nodes, box]; several nodes are those too small to be seen one by one. */
function divided(at, box) {
  const children = sorted(at).filter((child) => child.bytes > 0);
  const smallest = (SMALLEST * at.bytes) / (box.w * box.h);
  let count = children.findIndex((child) => child.bytes < smallest);
  if (count < 0 || count === children.length - 1) count = children.length;
  const shown = children.slice(0, count).map((child) => [child]);
  if (count < children.length) shown.push(children.slice(count));
  const weight = (nodes) => nodes.reduce((sum, each) => sum + each.bytes, 0);
  shown.sort((a, b) => weight(b) - weight(a));
  const boxes = squarify(shown.map(weight), box);
  return shown.map((nodes, index) => [nodes, boxes[index]]);
}

/** What to draw for `at` itself: as `divided`, but in place of a folder that is most of it stands what is in that. */
function grouped(at, box) {
  return divided(at, box).flatMap(([nodes, part]) =>
    nodes.length === 1 && isMost(nodes[0]) && nodes[0].bytes ? grouped(nodes[0], part) : [[nodes, part]],
  );
}

// --- what is seen ------------------------------------------------------------------------------------------------------

const map = document.getElementById("map");
const trail = document.getElementById("trail");
const description = document.getElementById("description");
const search = document.getElementById("search");
const found = document.getElementById("found");
let view = "p";
let current = views.p;
let query = ""; // in the search field
let chosen = ""; // the kind that the legend has picked out

const isPicked = () => Boolean(query || chosen);

function place(made, box) {
  made.style.left = `${box.x}px`;
  made.style.top = `${box.y}px`;
  made.style.width = `${box.w}px`;
  made.style.height = `${box.h}px`;
}

/** The lines that describe some nodes. */
function lines(nodes) {
  const size = nodes.reduce((sum, each) => sum + each.bytes, 0);
  const count = nodes.reduce((sum, each) => sum + each.files, 0);
  const amount = `${bytes(size)}, ${share(size, data.total)} of all`;
  const more = nodes.length === 1 && !nodes[0].children ? amount : `${amount}, ${count} file${count === 1 ? "" : "s"}`;
  if (nodes.length > 1) {
    return [`${nodes.length} smaller`, more, ...nodes.slice(0, 3).map((each) => `${bytes(each.bytes)} ${words(each)[0]}`)];
  }
  const [name, by] = words(nodes[0]);
  return by ? [name, more, by] : [name, more];
}

/** Draw the leaves of `nodes` into `group`; boxes are measured from the group's corner. `taken` is the box of the group's own label. */
function drawTiles(group, nodes, box, taken) {
  const [only] = nodes;
  if (nodes.length === 1 && only.children && box.w * box.h >= DIVIDED && Math.min(box.w, box.h) >= 20) {
    for (const [inside, part] of divided(only, box)) drawTiles(group, inside, part, taken);
    return;
  }
  const tile = element("div", `tile ${kind(only)}`);
  tile.nodes = nodes;
  tile.dataset.bytes = nodes.reduce((sum, each) => sum + each.bytes, 0);
  if (isPicked()) {
    const match = nodes.reduce((sum, each) => sum + each.match, 0);
    tile.classList.add(match ? "hit" : "dim");
    if (match && query) tile.classList.add("found");
  }
  place(tile, box);
  const covered = box.x < taken.w && box.y < taken.h ? taken.h - box.y : 0;
  if (box.w >= 44 && box.h - covered >= 20) {
    const name = nodes.length > 1 ? `${nodes.length} smaller` : title(only);
    const label = element("div", "label", name);
    label.style.top = `${covered + 1}px`;
    tile.append(label);
  }
  group.append(tile);
}

function draw() {
  const box = { x: 0, y: 0, w: map.clientWidth, h: map.clientHeight };
  const focused = map.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  map.replaceChildren();
  const shown = current.children && current.bytes ? grouped(current, box) : [[[current], box]];
  for (const [nodes, part] of shown) {
    const [only] = nodes;
    const name = nodes.length > 1 ? `${nodes.length} smaller` : title(only, only === current ? only.parent : current);
    const size = nodes.reduce((sum, each) => sum + each.bytes, 0);
    const group = element("div", `group ${kind(only)}`);
    group.nodes = nodes;
    group.tabIndex = -1;
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", lines(nodes).join(", "));
    group.dataset.name = name;
    group.dataset.bytes = size;
    if (nodes.length > 1 || !only.children) group.classList.add("end");
    place(group, part);
    let taken = { w: 0, h: 0 };
    // A tile that is not divided has its own label; a divided one has the group's name above those of its parts.
    const isDivided = nodes.length === 1 && only.children && part.w * part.h >= DIVIDED && Math.min(part.w, part.h) >= 20;
    map.append(group);
    if (isDivided && part.w >= 44) {
      // Where the path is too long for it, the end of it is.
      const short = name.length * 8 > part.w ? title(only) : name;
      const chip = element("div", "chip", part.w >= 120 ? `${short} ${bytes(size)}` : short);
      group.append(chip);
      taken = { w: chip.offsetWidth + 1, h: chip.offsetHeight + 1 };
    }
    const chip = group.firstChild;
    drawTiles(group, nodes, { x: 0, y: 0, w: part.w, h: part.h }, taken);
    if (chip) group.append(chip); // above the tiles
  }
  const groups = [...map.children];
  const target = groups.find((group) => group.dataset.name === focused) ?? groups[0];
  if (target) target.tabIndex = 0;
  if (focused !== null && target) target.focus({ preventScroll: true });
}

function drawTrail() {
  trail.replaceChildren(
    ...ancestry(current).map((each) => {
      const item = element("li");
      const link = element("a", "", each.name);
      link.href = address(view, each);
      if (each === current) link.setAttribute("aria-current", "location");
      item.append(link);
      return item;
    }),
  );
}

function describe(text = lines([current])) {
  description.replaceChildren(element("b", "", text[0]), " ", element("span", "", text.slice(1).join(" · ")));
}

/** The page's address for a node: the back button then goes where one was. */
function address(which, at) {
  return `#${which}/${ancestry(at).slice(1).map((each) => encodeURIComponent(each.name)).join("/")}`;
}

let routed = null;

function route() {
  if (routed === location.hash) return;
  routed = location.hash;
  const [which, ...parts] = location.hash.slice(1).split("/");
  view = which === "f" ? "f" : "p";
  current = views[view];
  for (const part of parts) {
    let name = part;
    try {
      name = decodeURIComponent(part);
    } catch {
      // An address that somebody mistyped: take it as it is, and find nothing there.
    }
    const next = current.children?.get(name);
    if (!next) break;
    current = next;
  }
  for (const button of document.querySelectorAll(".views button")) {
    button.setAttribute("aria-pressed", String(button.value === view));
  }
  hideTip();
  pick();
  drawTrail();
  describe();
}

/** Go to an address, and be there: the browser reports a changed one only some time later. */
function go(to) {
  location.hash = to;
  route();
}

function up() {
  if (!current.parent) return;
  const left = ancestry(current);
  let at = current.parent;
  // The way in went past folders that are most of the one above; so does the way out.
  while (isMost(at)) at = at.parent;
  go(address(view, at));
  focusOn([...map.children].find((group) => left.includes(group.nodes[0])));
}

function focusOn(group) {
  (group ?? map.firstChild)?.focus({ preventScroll: true });
}

// --- search and legend -----------------------------------------------------------------------------------------------

/** Mark what the search and the legend pick out, and draw. */
function pick() {
  const wanted = query.split(/\s+/).filter(Boolean);
  const hits = [];
  for (const tree of Object.values(views)) clear(tree);
  if (isPicked()) {
    for (const file of files) {
      if (chosen && data.kinds[data.owners[file.owner][2]][0] !== chosen) continue;
      if (!wanted.every((word) => file.lower.includes(word))) continue;
      hits.push(file);
      for (let at = file[view]; at; at = at.parent) at.match += file.size;
    }
  }
  found.replaceChildren();
  document.getElementById("count").textContent = isPicked()
    ? `${hits.length} file${hits.length === 1 ? "" : "s"}, ${bytes(hits.reduce((sum, each) => sum + each.size, 0))}`
    : "";
  if (query) {
    hits.sort((a, b) => b.size - a.size);
    for (const hit of hits.slice(0, 10)) {
      const item = element("li");
      const link = element("a", "", hit.path);
      link.href = address(view, hit[view].parent);
      item.append(link, ` ${bytes(hit.size)}, ${data.owners[hit.owner][0]}`);
      found.append(item);
    }
  }
  draw();
}

function clear(at) {
  at.match = 0;
  at.children?.forEach(clear);
}

search.addEventListener("input", () => {
  query = search.value.trim().toLowerCase();
  pick();
});
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    chosen = chosen === button.value ? "" : button.value;
    for (const each of document.querySelectorAll(".legend button")) {
      each.setAttribute("aria-pressed", String(each.value === chosen));
    }
    pick();
  });
}
for (const button of document.querySelectorAll(".views button")) {
  button.addEventListener("click", () => go(`#${button.value}/`));
}

// --- pointer and keyboard ----------------------------------------------------------------------------------------------

/** Zoom into a group, if it has an inside. */
function enter(group) {
  const [only] = group.nodes;
  if (group.nodes.length > 1 || !only.children) return false;
  go(address(view, only));
  return true;
}

map.addEventListener("click", (event) => {
  const group = event.target.closest(".group");
  if (group && !enter(group)) describe(lines(event.target.closest(".tile")?.nodes ?? group.nodes));
});
map.addEventListener("pointermove", (event) => {
  const tile = event.target.closest(".tile");
  const group = event.target.closest(".group");
  if (!group || event.pointerType === "touch") return hideTip();
  const outer = lines(group.nodes);
  const inner = tile && tile.nodes[0] !== group.nodes[0] ? lines(tile.nodes).filter((line) => line !== outer[0]) : [];
  showTip(inner.length ? [...inner, `in ${outer[0]}, ${outer[1]}`] : outer, event.clientX, event.clientY);
});
map.addEventListener("pointerleave", hideTip);
map.addEventListener("focusin", (event) => {
  for (const group of map.children) group.tabIndex = group === event.target ? 0 : -1;
  if (event.target.nodes) describe(lines(event.target.nodes));
});
map.addEventListener("focusout", () => describe());

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The nearest group from `from` in a direction: distance along it, and twice that across. */
function neighbour(from, [dx, dy]) {
  const centre = (group) => {
    const box = group.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = centre(from);
  let best = null;
  let least = Infinity;
  for (const group of map.children) {
    const [gx, gy] = centre(group);
    const along = (gx - x) * dx + (gy - y) * dy;
    const across = Math.abs((gx - x) * dy) + Math.abs((gy - y) * dx);
    if (group !== from && along > 1 && along + 2 * across < least) [best, least] = [group, along + 2 * across];
  }
  return best;
}

map.addEventListener("keydown", (event) => {
  const group = event.target.closest(".group");
  if (!group) return;
  if (event.key in STEPS) neighbour(group, STEPS[event.key])?.focus({ preventScroll: true });
  else if (event.key === "Home") map.firstChild.focus({ preventScroll: true });
  else if (event.key === "End") map.lastChild.focus({ preventScroll: true });
  else if (event.key === "Enter" || event.key === " ") enter(group) && focusOn();
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target === search) {
    if (event.key !== "Escape") return;
    search.value = query = "";
    pick();
    focusOn();
  } else if (event.key === "Escape" || event.key === "Backspace") up();
  else if (event.key === "/") search.focus();
  else return;
  event.preventDefault();
});

addEventListener("hashchange", route);
document.getElementById("explorer").hidden = false;
new ResizeObserver(draw).observe(map);
route();
