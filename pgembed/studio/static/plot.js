// Points on a canvas, by d3fc's WebGL series.
const { d3, fc } = window;
const POINT = 4; // pixels across
const MARK = 8; // of marked points, and with a rim; of many of these:
const RIM = 12;
const FEW = 200;
const MANY = 5.5;
const EDGE = 0.94; // of the canvas, that the whole map takes

// A disc. Numbers have 32 bits here; in d3fc's own shaders they may have 16 on phones.
function disc() {
  const vertex = fc.webglShaderBuilder((header, body) => `precision highp float;
    attribute float aCrossValue;
    attribute float aMainValue;
    attribute float aSize;
    ${header}
    void main() {
      gl_PointSize = aSize;
      gl_Position = vec4(aCrossValue, aMainValue, aSize > 0.0 ? 0.0 : 2.0, 1.0);
      ${body}
    }`);
  const fragment = fc.webglShaderBuilder((header, body) => `precision mediump float;
    ${header}
    void main() {
      float canFill = 1.0;
      if (length(2.0 * gl_PointCoord - 1.0) > 1.0) discard;
      ${body}
      gl_FragColor.rgb *= gl_FragColor.a;
    }`);
  return { vertex: () => vertex, fragment: () => fragment };
}

function layer(context) {
  const [x, y, size] = [fc.webglAttribute(), fc.webglAttribute(), fc.webglAttribute()];
  const fill = fc.webglFillColor();
  const series = fc.webglSeriesPoint().context(context).crossValueAttribute(x)
    .mainValueAttribute(y).sizeAttribute(size).decorate((program) => fill(program));
  let many = 0;
  return {
    set(xs, ys, sizes, colours, palette) {
      many = xs.length;
      x.data(xs);
      y.data(ys);
      size.data(sizes);
      fill.value((colour) => palette[colour]).data(colours);
    },
    draw(across, up) {
      // A shader each time, because d3fc adds to it; it is compiled if it is another.
      if (many > 0) series.type(disc()).xScale(across).yScale(up)(many);
    },
  };
}

function colour(name, alpha) {
  const style = getComputedStyle(document.documentElement);
  const { r, g, b } = d3.rgb(style.getPropertyValue(`--${name}`).trim());
  return [r / 255, g / 255, b / 255, alpha];
}

// Draws on a canvas what style() was told, as draw() says where.
export function plot(canvas) {
  const context = canvas.getContext("webgl", { antialias: false });
  let layers = [];
  let extent = [[0, 0], [1, 1]]; // of the points
  let zoomed = d3.zoomIdentity;

  function begin() {
    layers = context ? [layer(context), layer(context), layer(context)] : [];
  }

  // From the map to pixels and back: equally much across and up, the whole map at first.
  function scales() {
    const { clientWidth: width, clientHeight: height } = canvas;
    const [[left, bottom], [right, top]] = extent;
    const unit = Math.max((right - left) / width, (top - bottom) / height) / EDGE || 1 / width;
    const around = (middle, pixels) => [middle - unit * pixels / 2, middle + unit * pixels / 2];
    return [
      zoomed.rescaleX(d3.scaleLinear(around((left + right) / 2, width), [0, width])),
      zoomed.rescaleY(d3.scaleLinear(around((bottom + top) / 2, height), [height, 0])),
    ];
  }

  function draw(transform = zoomed) {
    zoomed = transform;
    if (!context) return;
    const ratio = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((one) => Math.round(one * ratio));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    context.viewport(0, 0, width, height);
    context.clearColor(0, 0, 0, 0);
    context.clear(context.COLOR_BUFFER_BIT);
    context.enable(context.BLEND);
    context.blendFunc(context.ONE, context.ONE_MINUS_SRC_ALPHA);
    const [across, up] = scales().map((one) => fc.webglScaleLinear().domain(one.domain()));
    for (const one of layers) one.draw(across, up);
  }

  // Takes points, the names of their colours, which of these are hidden, which points lit up.
  function style(points, names, hidden, marked) {
    extent = [d3.min(points.x) ?? 0, d3.max(points.x) ?? 1].map((x, place) =>
      [x, (place ? d3.max(points.y) : d3.min(points.y)) ?? place]);
    if (!context) return;
    const [all, rims, marks] = layers;
    const ratio = devicePixelRatio;
    const sizes = Float32Array.from(points.colour, (one) => (hidden.has(one) ? 0 : POINT * ratio));
    const alpha = marked.length ? 0.25 : 0.85;
    all.set(points.x, points.y, sizes, points.colour, names.map((name) => colour(name, alpha)));
    const shown = marked.filter((one) => !hidden.has(points.colour[one]));
    const of = (values) => shown.map((one) => values[one]);
    const [x, y] = [of(points.x), of(points.y)];
    const wide = (pixels) => shown.map(() => pixels * ratio);
    const few = shown.length <= FEW;
    rims.set(x, y, wide(few ? RIM : 0), shown.map(() => 0), [colour("text", 1)]);
    marks.set(x, y, wide(few ? MARK : MANY), of(points.colour), names.map((name) => colour(name, 1)));
    draw();
  }

  begin();
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", begin);
  return { draw, style, scales, isDrawn: context !== null };
}
