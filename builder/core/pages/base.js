"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

/** An element with a class and a text; never markup: names come from packages. */
function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** What shows beside the pointer: a first line, and more lines. */
const tip = element("div", "tip");
tip.hidden = true;
tip.setAttribute("role", "tooltip");
document.body.append(tip);

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.map((line, index) => element(index ? "span" : "b", "", line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "");
