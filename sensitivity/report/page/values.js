// How often values occur in the inputs and weights of one layer, in float and quantized.
function watchValues(chart) {
  const chooser = document.getElementById('values-layer');
  if (chart.dataset.values === 'inputs') {
    chooser.value = String(valuesLayer());
    chooser.addEventListener('change', () => view.change({ current: Number(chooser.value), from: 'values' }));
  }
  tellValues(chart);
  view.watchers.push((changes) => {
    if (!('current' in changes) || !facts.study.values.layers[view.current]) return;
    chooser.value = String(view.current);
    tellValues(chart);
    if (chart.data) drawValues(chart);
  });
}

// The layer that is shown: the one that was pointed out last, at first the one that is hurt most.
function valuesLayer() {
  const { layers, first } = facts.study.values;
  if (layers[view.current]) valuesLayer.shown = view.current;
  return valuesLayer.shown ?? first;
}

function valuesOf(chart) {
  return facts.study.values.layers[valuesLayer()][chart.dataset.values];
}

function tellValues(chart) {
  const name = facts.study.layers[valuesLayer()].name;
  const values = valuesOf(chart);
  const what = chart.dataset.values;
  document.getElementById(`${chart.id}-said`).textContent = values
    ? `${what} of ${name}\n${values.said}` : `${what} of ${name} were not counted`;
  const shown = Object.values(facts.study.values.layers[valuesLayer()]);
  for (const entry of document.querySelectorAll('[data-drawn]')) {
    entry.hidden = !shown.some((counts) => counts?.[entry.dataset.drawn]?.length);
  }
}

async function drawValues(chart) {
  const values = valuesOf(chart);
  await Plotly.react(chart, values ? valueTraces(values) : [], valueLayout(chart, values), { ...chartSettings, displayModeBar: false });
  hideFromReaders(chart);
}

const LEAST_COUNT = 0.6; // what stands for no value at all where counts are drawn as powers of ten

function valueTraces({ first, width, before, after }) {
  const inks = facts.study.values.inks;
  const middles = before.map((_, bin) => first + width * (bin + 0.5));
  const text = before.map((count, bin) => {
    const [from, to] = [first + width * bin, first + width * (bin + 1)].map((edge) => shortNumber(edge));
    const quantized = after.length ? `<br>${after[bin].toLocaleString('en')} quantized` : '';
    return `${from} to ${to}<br>${count.toLocaleString('en')} in float${quantized}`;
  });
  const bars = {
    type: 'bar', x: middles, y: before.map((count) => count || null), width, marker: { color: dataInk(inks.before), line: { width: 0 } },
    hoverinfo: 'text', hovertext: text, textposition: 'none',
  };
  if (!after.length) return [bars];
  const edges = [first, ...middles, first + width * before.length];
  const heights = [0, ...after, 0].map((count) => Math.max(count, LEAST_COUNT));
  return [bars, {
    type: 'scatter', mode: 'lines', hoverinfo: 'skip', x: edges, y: heights, line: { shape: 'hvh', width: 1.6, color: dataInk(inks.after) },
  }];
}

function valueLayout(chart, values) {
  const layout = baseLayout();
  Object.assign(layout.margin, { t: 12, b: 36 });
  layout.bargap = 0;
  layout.xaxis.title = { text: `value of ${chart.dataset.values}` };
  if (!values) return layout;
  const { inks } = facts.study.values;
  const most = Math.max(...values.before, ...values.after);
  const ends = [values.first, values.first + values.width * values.before.length, ...(values.covered ?? []), ...(values.cured ?? [])];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  layout.xaxis.range = [low - 0.02 * (high - low), high + 0.02 * (high - low)];
  Object.assign(layout.yaxis, {
    type: 'log', range: [Math.log10(LEAST_COUNT), Math.log10(most) + 0.15], title: { text: 'values in a bin' }, dtick: most > 1e4 ? 2 : 1,
    exponentformat: 'power',
  });
  layout.dragmode = false;
  const upright = (at, dash, ink) => ({
    type: 'line', x0: at, x1: at, yref: 'paper', y0: 0, y1: 1, line: { color: dataInk(ink), width: 1.8, dash },
  });
  layout.shapes = [
    ...(values.covered ?? []).map((at) => upright(at, 'dash', inks.covered)),
    ...(values.cured ?? []).map((at) => upright(at, 'dot', inks.cured)),
  ];
  return layout;
}

function shortNumber(number) {
  return String(Number(number.toPrecision(3)));
}
