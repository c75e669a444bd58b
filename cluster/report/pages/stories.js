/* What a bar or a point says, beside the pointer; the tables below say the same in words. */

for (const each of document.querySelectorAll("svg [data-tip]")) {
  const lines = each.dataset.tip.split("\n");
  each.addEventListener("pointermove", (event) => showTip(lines, event.clientX, event.clientY));
  each.addEventListener("pointerleave", hideTip);
  each.addEventListener("focus", () => {
    const box = each.getBoundingClientRect();
    showTip(lines, box.left, box.bottom);
  });
  each.addEventListener("blur", hideTip);
}
