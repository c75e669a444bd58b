/* The flame chart: a row for each depth of each thread, time from left to right. */

const [PATH, DETAIL, BEGIN, END, LANE, DEPTH] = [0, 1, 2, 3, 4, 5];
const chart = document.getElementById("chart");
const axis = document.getElementById("axis");
const trail = document.getElementById("trail");
const description = document.getElementById("description");
const ROW = 24;
const SHOWN = 0.4; // pixels below which a span is not drawn; zooming in brings it back

const phases = [...new Set(data.spans.map((span) => span[PATH][0]))];
let range = [0, data.total];
let focus = null; // the span that fills the chart; null shows all

const seconds = (value) => (value < 0.1 ? `${(1000 * value).toFixed(1)} ms` : `${value.toFixed(2)} s`);
const name = (span) => [span[PATH].at(-1), span[DETAIL]].filter(Boolean).join(" ");

function lines(span) {
  const long = span[END] - span[BEGIN];
  const when = `${seconds(long)}, ${share(long, data.total)} of all, from ${seconds(span[BEGIN])} on`;
  const inside = span[PATH].slice(0, -1).join(" › ");
  return [name(span), when, ...(inside ? [`in ${inside}`] : [])];
}

function describe(text) {
  description.replaceChildren(element("b", "", text[0]), " ", element("span", "", text.slice(1).join(" · ")));
}

/** A round number of seconds, so that at most `most` of them fit into `length`. */
function tick(length, most) {
  let unit = 10 ** Math.floor(Math.log10(length / most));
  for (const times of [1, 2, 5, 10]) if (length / (unit * times) <= most) return unit * times;
  return unit * 10;
}

function drawAxis(scale) {
  const unit = tick(range[1] - range[0], Math.max(2, chart.clientWidth / 90));
  const digits = Math.max(0, -Math.floor(Math.log10(unit) + 1e-9));
  axis.replaceChildren();
  for (let at = Math.ceil(range[0] / unit - 1e-9); at * unit <= range[1]; at += 1) {
    const mark = element("span", "", `${(at * unit).toFixed(digits)} s`);
    mark.style.left = `${(at * unit - range[0]) * scale}px`;
    axis.append(mark);
  }
}

function draw() {
  const focused = document.activeElement?.span;
  const scale = chart.clientWidth / (range[1] - range[0] || 1);
  drawAxis(scale);
  chart.replaceChildren();
  for (const lane of [...new Set(data.spans.map((span) => span[LANE]))].sort((a, b) => a - b)) {
    const spans = data.spans.filter((span) => span[LANE] === lane);
    const box = element("div", "lane");
    if (lane) box.append(element("h3", "", `thread ${lane}`));
    const rows = element("div", "rows");
    rows.style.height = `${ROW * (1 + Math.max(...spans.map((span) => span[DEPTH])))}px`;
    for (const span of spans) {
      const left = Math.max(0, (span[BEGIN] - range[0]) * scale);
      const right = Math.min(chart.clientWidth, (span[END] - range[0]) * scale);
      if (right - left < SHOWN) continue;
      const hue = phases.indexOf(span[PATH][0]) % 8;
      const made = element("button", `span h${hue}${span[PATH].length % 2 ? "" : " deep"}`);
      made.type = "button";
      made.tabIndex = -1;
      made.span = span;
      made.dataset.name = name(span);
      made.dataset.seconds = span[END] - span[BEGIN];
      made.setAttribute("aria-label", lines(span).join(", "));
      made.style.left = `${left}px`;
      made.style.width = `${right - left}px`;
      made.style.top = `${span[DEPTH] * ROW}px`;
      if (right - left >= 34) made.append(element("i", "", `${name(span)} ${seconds(span[END] - span[BEGIN])}`));
      rows.append(made);
    }
    box.append(rows);
    chart.append(box);
  }
  const shown = [...chart.querySelectorAll(".span")];
  const target = shown.find((each) => each.span === focused) ?? shown.find((each) => each.span === focus) ?? shown[0];
  if (target) target.tabIndex = 0;
  if (focused && target) target.focus({ preventScroll: true });
}

function zoom(span) {
  focus = span;
  range = span ? [span[BEGIN], span[END]] : [0, data.total];
  hideTip();
  const all = element("li");
  const back = element("a", "", "the whole build");
  back.href = "#";
  back.addEventListener("click", (event) => {
    event.preventDefault();
    zoom(null);
  });
  all.append(back);
  trail.replaceChildren(all, ...(span ? [element("li", "", name(span))] : []));
  draw();
  describe(span ? lines(span) : [data.title, `${seconds(data.total)} in all`]);
}

chart.addEventListener("click", (event) => {
  const span = event.target.closest(".span")?.span;
  if (span) zoom(span === focus || span[END] <= span[BEGIN] ? null : span);
});
chart.addEventListener("pointermove", (event) => {
  const span = event.target.closest(".span")?.span;
  if (!span || event.pointerType === "touch") return hideTip();
  showTip(lines(span), event.clientX, event.clientY);
});
chart.addEventListener("pointerleave", hideTip);
chart.addEventListener("focusin", (event) => {
  for (const each of chart.querySelectorAll(".span")) each.tabIndex = each === event.target ? 0 : -1;
  if (event.target.span) describe(lines(event.target.span));
});

/** The span to go to from `from`: beside it in its row, or the nearest in the row below or above, of the next thread if need be. */
function neighbour(from, key) {
  const place = from.getBoundingClientRect();
  const middle = (box) => box.x + box.width / 2;
  const others = [...chart.querySelectorAll(".span")].map((each) => [each, each.getBoundingClientRect()]);
  const sideways = key === "ArrowLeft" || key === "ArrowRight";
  const sign = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  const distance = (box) =>
    sideways
      ? Math.abs(box.y - place.y) < 1 ? sign * (box.x - place.x) : -1
      : sign * (box.y - place.y) * 1e6 + (box.y === place.y ? 0 : Math.abs(middle(box) - middle(place)));
  const ahead = others.filter(([each, box]) => each !== from && distance(box) > (sideways ? 0 : 1e5));
  return ahead.sort(([, a], [, b]) => distance(a) - distance(b))[0]?.[0];
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const at = event.target.closest?.(".span");
  if (at && event.key.startsWith("Arrow")) neighbour(at, event.key)?.focus({ preventScroll: true });
  else if (event.key === "Escape" || event.key === "Backspace") zoom(null);
  else return;
  event.preventDefault();
});

document.getElementById("explorer").hidden = false;
new ResizeObserver(draw).observe(chart);
zoom(null);
