// Every layer's score as a dip below the baseline, in execution order.
const NAMED_LAYERS = 70; // so many names of layers can be read beside each other

function watchDips(chart) {
  chart.addEventListener('keydown', (event) => onKey(chart, event));
  document.getElementById('recipe')?.addEventListener('change', (event) => {
    view.change({ recipe: Number(event.target.value), current: null, heights: null });
  });
  document.getElementById('clear').addEventListener('click', () => {
    view.change({ selected: null, range: null, heights: null, current: null });
  });
  for (const button of document.querySelectorAll('.legend [data-kind]')) {
    button.addEventListener('click', () => {
      const hidden = new Set(view.hidden);
      if (!hidden.delete(button.dataset.kind)) hidden.add(button.dataset.kind);
      button.setAttribute('aria-pressed', String(!hidden.has(button.dataset.kind)));
      view.change({ hidden });
    });
  }
  for (const button of document.querySelectorAll('[data-first]')) {
    button.addEventListener('click', () => {
      const [first, last] = [Number(button.dataset.first), Number(button.dataset.last)];
      view.change({ selected: new Set(places(first, last)), range: [first - 1, last + 1], current: null });
    });
  }
  hideOtherRecipes();
  view.watchers.push((changes) => {
    hideOtherRecipes();
    document.getElementById('clear').disabled = view.selected === null && view.range === null && view.heights === null;
    tellCurrent();
    if (!chart.data) return; // the library is not there yet, and draws what is to be seen then
    if (Object.keys(changes).every((name) => name === 'current' || name === 'from')) drawCurrent(chart);
    else drawDips(chart);
  });
}

// Tables and legend entries that belong to other recipes than the one shown.
function hideOtherRecipes() {
  for (const part of document.querySelectorAll('[data-only-recipe]')) {
    part.hidden = !part.dataset.onlyRecipe.split(' ').includes(String(view.recipe));
  }
}

async function drawDips(chart) {
  const first = !chart.data;
  await Plotly.react(chart, dipTraces(), dipLayout(), chartSettings);
  hideFromReaders(chart);
  if (!first) return;
  let pointer = ''; // where the mouse was: after each drawing the library tells again what lies under it
  chart.on('plotly_hover', (event) => {
    const layer = event.points[0].customdata;
    const moved = `${event.event.clientX} ${event.event.clientY}`;
    if (moved !== pointer && layer !== undefined) view.change({ current: layer, from: 'chart' });
    pointer = moved;
  });
  chart.on('plotly_selected', (event) => {
    if (!event || !event.range) return;
    const [left, right] = event.range.x;
    const chosen = places(0, facts.study.layers.length - 1).filter((layer) => layer >= left && layer <= right);
    if (chosen.length) view.change({ selected: new Set(chosen) });
  });
  chart.on('plotly_deselect', () => view.selected && view.change({ selected: null }));
  chart.on('plotly_relayout', (event) => {
    const changes = {};
    if ('xaxis.autorange' in event) changes.range = null;
    if ('xaxis.range[0]' in event) changes.range = partOf(event['xaxis.range[0]'], event['xaxis.range[1]']);
    if ('yaxis.autorange' in event) changes.heights = null;
    if ('yaxis.range[0]' in event) changes.heights = [event['yaxis.range[0]'], event['yaxis.range[1]']];
    if (Object.keys(changes).length) view.change(changes);
  });
}

// First and last place in sight; null for all layers.
function partOf(left, right) {
  return left > -0.69 || right < facts.study.layers.length - 0.31 ? [left, right] : null;
}

function dipTraces() {
  const recipe = facts.study.recipes[view.recipe];
  const traces = [];
  const drawn = places(0, facts.study.layers.length - 1).filter((layer) => recipe.dips[layer]);
  const scored = drawn.filter((layer) => recipe.dips[layer].score !== null);
  traces.push(lines(scored.filter((layer) => recipe.dips[layer].ends && isShown(layer)),
    (layer) => recipe.dips[layer].ends, { color: pageInk('interval'), width: 1.5 }, 1));
  for (const [kind, pair] of Object.entries(facts.study.kinds)) {
    if (view.hidden.has(kind)) continue;
    const colour = dataInk(pair);
    const ofKind = scored.filter((layer) => facts.study.layers[layer].kind === kind);
    for (const [wanted, alpha] of [[true, 0.75], [false, 0.15]]) {
      const some = ofKind.filter((layer) => isShown(layer) === wanted);
      traces.push(lines(some, (layer) => [recipe.dips[layer].score, recipe.hang], { color: colour, width: 1.6 }, alpha));
      traces.push(marks(some, colour, wanted ? 1 : 0.2));
    }
  }
  const [worst] = scoreRange();
  const failed = drawn.filter((layer) => recipe.dips[layer].score === null && !view.hidden.has(facts.study.layers[layer].kind));
  traces.push({
    ...hovered(failed), y: failed.map(() => worst), name: 'no result',
    marker: { symbol: 'x-thin', size: 8, line: { width: 2, color: pageInk('failed') } },
  });
  traces.push(currentTrace());
  return traces;
}

function lines(layers, ends, line, opacity) {
  return {
    type: 'scatter', mode: 'lines', hoverinfo: 'skip', line, opacity,
    x: layers.flatMap((layer) => [layer, layer, null]), y: layers.flatMap((layer) => [...ends(layer), null]),
  };
}

function hovered(layers) {
  const { dips } = facts.study.recipes[view.recipe];
  return {
    type: 'scatter', mode: 'markers', x: layers, customdata: layers, cliponaxis: false, hoverinfo: 'text',
    text: layers.map((layer) => {
      const lines = dips[layer].lines.map((line) => plain(line.length > 90 ? `${line.slice(0, 89)}\u2026` : line));
      return `<b>${plain(facts.study.layers[layer].name)}</b><br>${lines.join('<br>')}`;
    }),
  };
}

// A mark's shape tells the flag, its filling the verdict: filled for a dip, hollow for undecided, pale for harmless.
function marks(layers, colour, opacity) {
  const { dips } = facts.study.recipes[view.recipe];
  const verdict = (layer) => dips[layer].verdict;
  const size = facts.study.layers.length > 300 ? 6 : 8;
  return {
    ...hovered(layers), y: layers.map((layer) => dips[layer].score),
    marker: {
      size: layers.map((layer) => (facts.study.layers[layer].shape === 'triangle-down' ? size + 2 : size)), opacity,
      symbol: layers.map((layer) => facts.study.layers[layer].shape),
      color: layers.map((layer) => ({ undecided: pageInk('paper'), harmless: withAlpha(colour, 0.45) })[verdict(layer)] ?? colour),
      line: { width: layers.map((layer) => (verdict(layer) === 'undecided' ? 1.3 : 0.5)),
        color: layers.map((layer) => (verdict(layer) === 'undecided' ? colour : pageInk('paper'))) },
    },
    selected: { marker: { opacity } }, unselected: { marker: { opacity } },
  };
}

// A ring around the layer that is pointed out.
function currentTrace() {
  const dip = view.current === null ? null : facts.study.recipes[view.recipe].dips[view.current];
  return {
    type: 'scatter', mode: 'markers', hoverinfo: 'skip', cliponaxis: false, name: 'current',
    x: dip ? [view.current] : [], y: dip ? [dip.score ?? scoreRange()[0]] : [],
    marker: { symbol: 'circle-open', size: 16, line: { width: 2.5 }, color: pageInk('focus') },
  };
}

function drawCurrent(chart) {
  const trace = currentTrace();
  Plotly.restyle(chart, { x: [trace.x], y: [trace.y] }, [chart.data.length - 1]);
}

// The worst and the best score on the axis: chance is not blown up to look like dips, and intervals are inside.
function scoreRange() {
  const recipe = facts.study.recipes[view.recipe];
  const dips = recipe.dips.filter((dip) => dip && dip.score !== null);
  const heights = [...dips.map((dip) => dip.score), ...dips.flatMap((dip) => dip.ends ?? []), recipe.hang];
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const span = Math.max(high - low, 4 * (facts.study.tolerance ?? 0), 1e-9);
  if (facts.study.higherIsBetter) return [high - 1.12 * span, high + 0.06 * span];
  return [low + 1.12 * span, low - 0.06 * span];
}

function dipLayout() {
  const { layers, stages, baseline, metric, scoreUnit } = facts.study;
  const layout = baseLayout();
  const range = view.range ?? [-0.7, layers.length - 0.3];
  const ink = pageInk('quiet');
  Object.assign(layout.xaxis, { range, showgrid: false, ...layerTicks(range) });
  Object.assign(layout.yaxis, { range: view.heights ?? scoreRange(), title: { text: plain(`${metric}${scoreUnit ? ` (${scoreUnit.trim()})` : ''}`) } });
  layout.dragmode = window.matchMedia('(pointer: coarse)').matches ? false : 'select';
  layout.selectdirection = 'h';
  layout.selections = [];
  layout.shapes = stages.filter((_, number) => number % 2 === 0).map((stage) => ({
    type: 'rect', layer: 'below', line: { width: 0 }, fillcolor: withAlpha(pageInk('baseline'), 0.05),
    xref: 'x', x0: stage.first - 0.5, x1: stage.last + 0.5, yref: 'paper', y0: 0, y1: 1,
  }));
  layout.annotations = stageNames(range).map((stage) => ({
    text: plain(stage.name), x: (Math.max(stage.first, range[0]) + Math.min(stage.last, range[1])) / 2, xref: 'x', yref: 'paper', y: 1,
    yanchor: 'bottom', showarrow: false, font: { size: 11, color: ink },
  }));
  layout.annotations.push(...worstNames(range));
  if (baseline !== null) layout.shapes.push(level(baseline, { color: pageInk('baseline'), width: 1.2 }));
  if (baseline !== null && facts.study.tolerance !== null) {
    const sign = facts.study.higherIsBetter ? 1 : -1;
    layout.shapes.push(level(baseline - sign * facts.study.tolerance, { color: ink, width: 1, dash: 'dot' }));
  }
  return layout;
}

function level(height, line) {
  return { type: 'line', layer: 'below', xref: 'paper', x0: 0, x1: 1, yref: 'y', y0: height, y1: height, line };
}

// The layers' names where they can be read, else the middle of each stage.
function layerTicks([left, right]) {
  const { layers, stages } = facts.study;
  const inSight = places(Math.max(0, Math.ceil(left)), Math.min(layers.length - 1, Math.floor(right)));
  if (inSight.length <= NAMED_LAYERS) {
    return { tickvals: inSight, ticktext: inSight.map((layer) => plain(layers[layer].name)), tickfont: { size: 10 }, tickangle: -90 };
  }
  const wide = stages.filter((stage) => (stage.last - stage.first + 1) / inSight.length > 0.012);
  const letters = wide.reduce((sum, stage) => sum + stage.name.length + 2, 0);
  return {
    tickvals: wide.map((stage) => (stage.first + stage.last) / 2), ticktext: wide.map((stage) => plain(stage.name)),
    tickfont: { size: 11 }, tickangle: letters * 6.5 > chartWidth() ? -90 : 0,
  };
}

// Stages whose names have room above the layers.
function stageNames([left, right]) {
  const { layers, stages } = facts.study;
  if (Math.min(layers.length, right - left) > NAMED_LAYERS) return [];
  const pixels = chartWidth() / (right - left);
  return stages.filter((stage) => stage.last >= left && stage.first <= right).filter((stage) => {
    const count = Math.min(stage.last, right) - Math.max(stage.first, left) + 1;
    return count * pixels > 6.5 * stage.name.length;
  });
}

// Pixels that the layers share.
function chartWidth() {
  return (document.getElementById('dips').clientWidth || 800) - 70;
}

// Names below the deepest dips in sight, where two names do not meet.
function worstNames([left, right]) {
  const { layers, recipes, higherIsBetter, tolerance } = facts.study;
  const { dips, hang } = recipes[view.recipe];
  const sign = higherIsBetter ? 1 : -1;
  const pixels = chartWidth() / (right - left);
  const named = [];
  for (const layer of worstFirst().slice(0, 5)) {
    const { score } = dips[layer];
    const matters = tolerance === null || sign * (hang - score) > tolerance;
    const inSight = layer >= left && layer <= right && score !== null && matters;
    const room = (other) => Math.abs(other - layer) * pixels > 3.6 * (layers[other].name.length + layers[layer].name.length);
    if (inSight && named.every(room)) named.push(layer);
  }
  const anchor = (layer) => { // so that no name reaches over the axis, or out of the chart
    const half = 3.3 * layers[layer].name.length;
    if ((layer - left) * pixels < half) return 'left';
    return (right - layer) * pixels < half ? 'right' : 'center';
  };
  return named.map((layer) => ({
    text: plain(layers[layer].name), x: layer, y: dips[layer].score, xref: 'x', yref: 'y', yanchor: 'top', yshift: -8,
    xanchor: anchor(layer), showarrow: false, font: { size: 11, color: pageInk('text') },
  }));
}

function tellCurrent() {
  const said = document.getElementById('layer');
  const dip = view.current === null ? null : facts.study.recipes[view.recipe].dips[view.current];
  if (view.current === null) {
    said.textContent = view.selected === null ? 'Point at a layer to read about it.' : `${view.selected.size} layers selected.`;
    return;
  }
  said.textContent = [facts.study.layers[view.current].name, ...(dip ? dip.lines : ['not analysed'])].join('\n');
}

// Layers that can be reached with the keyboard, in execution order.
function reachable() {
  const { dips } = facts.study.recipes[view.recipe];
  return places(0, dips.length - 1).filter((layer) => dips[layer] && isShown(layer));
}

// The same, the one that hurts most first and those without a result last.
function worstFirst() {
  const { worst } = facts.study.recipes[view.recipe];
  return [...worst.filter(isShown), ...reachable().filter((layer) => !worst.includes(layer))];
}

function onKey(chart, event) {
  const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const through = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const layers = through ? worstFirst() : reachable();
  const place = layers.indexOf(view.current);
  const last = layers.length - 1;
  let next = null;
  if (along || through) next = place < 0 ? ((along ?? through) > 0 ? 0 : last) : Math.min(last, Math.max(0, place + (along ?? through)));
  else if (event.key === 'Home') next = 0;
  else if (event.key === 'End') next = last;
  if (next !== null && layers.length) view.change({ current: layers[next], from: 'chart' });
  else if (event.key === 'Enter' && view.current !== null) view.change({ selected: new Set([view.current]) });
  else if (event.key === 'Escape') view.change({ selected: null, range: null, heights: null, current: null });
  else if (event.key === '+' || event.key === '-') zoom(event.key === '+' ? 0.5 : 2);
  else return;
  event.preventDefault();
}

// Half or twice as many layers in sight, around the one that is pointed out.
function zoom(factor) {
  const whole = [-0.7, facts.study.layers.length - 0.3];
  const [left, right] = view.range ?? whole;
  const middle = view.current ?? (left + right) / 2;
  const half = Math.max(1.5, (factor * (right - left)) / 2);
  view.change({ range: partOf(Math.max(whole[0], middle - half), Math.min(whole[1], middle + half)) });
}
