// A click on the map, or an arrow key, moves the mark at once; the server then decodes the code there.
const move = (map, right, down) => {
  const svg = map.querySelector("svg");
  const side = Number(svg.dataset.side);
  right = Math.min(1, Math.max(0, right));
  down = Math.min(1, Math.max(0, down));
  svg.querySelector(".lrp-mark").setAttribute("transform", `translate(${right * side} ${down * side})`);
  trigger("select");
};
element.addEventListener("click", (event) => {
  const map = event.target.closest(".lrp-map");
  if (!map) return;
  const box = map.querySelector("svg").getBoundingClientRect();
  move(map, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
});
element.addEventListener("keydown", (event) => {
  const map = event.target.closest(".lrp-map");
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!map || !step) return;
  event.preventDefault();
  const side = Number(map.querySelector("svg").dataset.side);
  const place = map.querySelector(".lrp-mark").transform.baseVal.consolidate().matrix;
  move(map, place.e / side + 0.02 * step[0], place.f / side + 0.02 * step[1]);
});
