// Points on a canvas, by d3fc's WebGL series. d3 and fc are there when plot() is called.
const POINT = [2.2, 5]; // pixels across: of 100,000 points and more, and of few
const MARK = 8; // of marked points, and with a rim; of many of these:
const RIM = 12;
const FEW = 200;
const MANY = 5.5;
const EDGE = 0.94; // of the plane, that the whole map takes
const SLOW = 14; // milliseconds: more, and a picture is not drawn for each frame
const REST = 120; // milliseconds without movement, then it is drawn again
const MARGIN = 0.5; // of the plane, on each side, that is drawn besides
const BLURRED = 3; // times, that a picture is enlarged at most

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

// Draws points on a canvas in a plane. Where that takes long, without a graphics card for
// example, the picture is drawn larger than the plane, moved as it is, and drawn again when
// the movement has ended.
export function plot(plane, canvas) {
  const context = canvas.getContext("webgl", { antialias: false });
  let layers = [];
  let extent = [[0, 0], [1, 1]]; // of the points
  let zoomed = d3.zoomIdentity;
  let drawn = null; // the transform of the picture
  let known = null; // the points
  let isSlow = null; // not known yet
  let isHeld = false;
  let waiting = 0;

  function begin() {
    layers = context ? [layer(context), layer(context), layer(context)] : [];
    drawn = null;
  }

  const size = () => [plane.clientWidth, plane.clientHeight];
  const margins = () => size().map((one) => (isSlow ? Math.round(one * MARGIN) : 0));

  // From the map to pixels and back: equally much across and up, the whole map at first.
  function scales() {
    const [width, height] = size();
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
    if (!context || !known) return;
    clearTimeout(waiting);
    if (isSlow === false || !drawn || !shift()) render();
    else if (!isHeld) waiting = setTimeout(render, REST);
  }

  // Begins or ends a movement, during which a picture is moved as long as it is large enough.
  function hold(on) {
    isHeld = on;
    draw();
  }

  // Moves the picture; false: it no longer covers the plane.
  function shift() {
    const [width, height] = size();
    const [beside, above] = margins();
    const k = zoomed.k / drawn.k;
    const [x, y] = [zoomed.x - k * drawn.x, zoomed.y - k * drawn.y];
    canvas.style.transformOrigin = `${beside}px ${above}px`;
    canvas.style.transform = `translate(${x}px, ${y}px) scale(${k})`;
    return x - k * beside <= 0 && y - k * above <= 0
      && x + k * (width + beside) >= width && y + k * (height + above) >= height && k < BLURRED;
  }

  function render() {
    const started = performance.now();
    const [width, height] = size();
    const [beside, above] = margins();
    const place = [[-beside, -above], [width + 2 * beside, height + 2 * above]];
    const [[left, top], [wide, high]] = place;
    Object.assign(canvas.style, {
      left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px`, transform: "none",
    });
    const pixels = [wide, high].map((one) => Math.round(one * devicePixelRatio));
    if (canvas.width !== pixels[0]) [canvas.width] = pixels;
    if (canvas.height !== pixels[1]) [, canvas.height] = pixels;
    context.viewport(0, 0, ...pixels);
    context.clearColor(0, 0, 0, 0);
    context.clear(context.COLOR_BUFFER_BIT);
    context.enable(context.BLEND);
    context.blendFunc(context.ONE, context.ONE_MINUS_SRC_ALPHA);
    const [x, y] = scales();
    const across = fc.webglScaleLinear().domain([left, left + wide].map(x.invert));
    const up = fc.webglScaleLinear().domain([top + high, top].map(y.invert));
    for (const one of layers) one.draw(across, up);
    const isFirst = drawn === null;
    drawn = zoomed;
    // The first time the shaders are compiled, and somebody waits for the picture.
    if (isSlow !== null) return;
    if (isFirst) waiting = setTimeout(render, REST);
    else measure(started);
  }

  // How long it took: until a pixel can be read.
  function measure(started) {
    context.readPixels(0, 0, 1, 1, context.RGBA, context.UNSIGNED_BYTE, new Uint8Array(4));
    isSlow = performance.now() - started > SLOW;
    if (isSlow) render(); // with its margins
  }

  // Takes points, the names of their colours, which of these are hidden, which points lit up.
  function style(points, names, hidden, marked) {
    const [x0, x1] = d3.extent(points.x);
    const [y0, y1] = d3.extent(points.y);
    extent = [[x0 ?? 0, y0 ?? 0], [x1 ?? 1, y1 ?? 1]];
    if (!context) return;
    if (points !== known) isSlow = null;
    known = points;
    const [all, rims, marks] = layers;
    const ratio = devicePixelRatio;
    const across = d3.scaleLog([100, 100_000], POINT.toReversed()).clamp(true)(points.x.length || 1);
    const sizes = Float32Array.from(points.colour, (one) => (hidden.has(one) ? 0 : across * ratio));
    const alpha = marked.length ? 0.25 : 0.85;
    all.set(points.x, points.y, sizes, points.colour, names.map((name) => colour(name, alpha)));
    const shown = marked.filter((one) => !hidden.has(points.colour[one]));
    const of = (values) => shown.map((one) => values[one]);
    const [x, y] = [of(points.x), of(points.y)];
    const wide = (pixels) => shown.map(() => pixels * ratio);
    const few = shown.length <= FEW;
    rims.set(x, y, wide(few ? RIM : 0), shown.map(() => 0), [colour("text", 1)]);
    marks.set(x, y, wide(few ? MARK : MANY), of(points.colour), names.map((name) => colour(name, 1)));
    drawn = null;
    draw();
  }

  begin();
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", begin);
  return { draw, hold, style, scales, isDrawn: context !== null };
}
