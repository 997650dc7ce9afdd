// Charts of points that tell about themselves; their tables' rows point them out and are chosen by dragging.
function watchPoints(chart) {
  const state = { current: null, chosen: null };
  const name = chart.id;
  const marks = facts.charts[name].groups.flatMap((group) => group.marks);
  const table = document.querySelector(`table[data-points="${name}"]`);
  chart.pointState = state;
  chart.pointOut = (mark) => {
    state.current = mark;
    document.getElementById(`${name}-help`).textContent = mark.lines.join('\n');
    if (chart.data) Plotly.restyle(chart, { x: [[mark.x]], y: [[mark.y]] }, [chart.data.length - 1]);
    for (const row of table ? table.tBodies[0].rows : []) {
      row.classList.toggle('current', mark.row !== null && Number(row.dataset.row) === mark.row);
    }
  };
  chart.choose = (chosen) => {
    state.chosen = chosen;
    if (table) table.filterRows();
  };
  chart.addEventListener('keydown', (event) => onPointKey(chart, marks, event));
  if (!table) return;
  table.rowIsChosen = (row) => state.chosen === null || state.chosen.has(Number(row.dataset.row));
  for (const row of table.tBodies[0].rows) {
    const mark = marks.find((other) => other.row !== null && other.row === Number(row.dataset.row ?? -1));
    row.pointOut = mark ? () => chart.pointOut(mark) : null;
  }
}

function onPointKey(chart, marks, event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const place = marks.indexOf(chart.pointState.current);
  if (event.key === 'Escape') chart.choose(null);
  else if (event.key === 'Enter' && place >= 0) chart.choose(new Set([marks[place].row]));
  else if (step && marks.length) chart.pointOut(marks[Math.min(marks.length - 1, Math.max(0, place + (place < 0 ? Math.max(step, 0) : step)))]);
  else if (event.key === 'Home' && marks.length) chart.pointOut(marks[0]);
  else if (event.key === 'End' && marks.length) chart.pointOut(marks.at(-1));
  else return;
  event.preventDefault();
}

async function drawPoints(chart) {
  const first = !chart.data;
  const content = facts.charts[chart.id];
  await Plotly.react(chart, pointTraces(chart, content), pointLayout(content), chartSettings);
  hideFromReaders(chart);
  if (!first) return;
  let pointer = '';
  chart.on('plotly_hover', (event) => {
    const moved = `${event.event.clientX} ${event.event.clientY}`;
    if (moved !== pointer && event.points[0].customdata) chart.pointOut(event.points[0].customdata);
    pointer = moved;
  });
  chart.on('plotly_selected', (event) => {
    if (event?.points?.length) chart.choose(new Set(event.points.map((point) => point.customdata?.row)));
  });
  chart.on('plotly_deselect', () => chart.choose(null));
}

function pointTraces(chart, content) {
  const traces = content.groups.map((group) => {
    const colour = dataInk(group.ink);
    const intervals = group.marks.some((mark) => mark.ends);
    return {
      type: 'scatter', mode: group.joined ? 'lines+markers' : 'markers', cliponaxis: false, hoverinfo: 'text', name: group.words,
      x: group.marks.map((mark) => mark.x), y: group.marks.map((mark) => mark.y), customdata: group.marks,
      text: group.marks.map(pointText), line: { shape: 'hv', width: 1.6, color: colour },
      marker: { symbol: group.shape, size: group.joined ? 4 : group.large ? 14 : 9, color: colour,
        line: { width: group.shape.endsWith('-thin') ? 2 : 0.5, color: group.shape.endsWith('-thin') ? colour : pageInk('paper') } },
      ...(intervals && { error_x: {
        type: 'data', symmetric: false, thickness: 1.4, width: 0, color: withAlpha(colour, 0.6),
        array: group.marks.map((mark) => (mark.ends ? Math.max(...mark.ends) - mark.x : 0)),
        arrayminus: group.marks.map((mark) => (mark.ends ? mark.x - Math.min(...mark.ends) : 0)),
      } }),
    };
  });
  const { current } = chart.pointState;
  traces.push({
    type: 'scatter', mode: 'markers', hoverinfo: 'skip', cliponaxis: false, name: 'current',
    x: current ? [current.x] : [], y: current ? [current.y] : [],
    marker: { symbol: 'circle-open', size: 18, line: { width: 2.5 }, color: pageInk('focus') },
  });
  return traces;
}

function pointText(mark) {
  const [name, ...lines] = mark.lines.map((line) => plain(line.length > 90 ? `${line.slice(0, 89)}\u2026` : line));
  return [`<b>${name}</b>`, ...lines].join('<br>');
}

function pointLayout(content) {
  const layout = baseLayout();
  for (const axis of ['x', 'y']) {
    const { title, ticks, reversed, logarithmic } = content[axis];
    const target = layout[`${axis}axis`];
    target.title = { text: plain(title) };
    if (logarithmic) target.type = 'log';
    if (reversed) target.autorange = 'reversed';
    if (ticks.length) {
      const long = axis === 'x' && ticks.length > 8;
      Object.assign(target, { tickvals: ticks.map(([at]) => at), ticktext: ticks.map(([, name]) => plain(name)), ...(long && { tickangle: -90, tickfont: { size: 10 } }) });
    }
  }
  layout.dragmode = window.matchMedia('(pointer: coarse)').matches ? false : 'select';
  layout.shapes = content.levels.map((level) => crossing(level));
  layout.annotations = content.levels.map((level, number) => levelName(level, content[level.axis].logarithmic, 14 * number));
  if (content.diagonal) layout.shapes.push(diagonal(content));
  return layout;
}

function crossing({ axis, at, dashed }) {
  const other = axis === 'x' ? 'y' : 'x';
  return {
    type: 'line', layer: 'below', line: { color: pageInk('baseline'), width: 1.2, dash: dashed ? 'dash' : 'solid' },
    [`${axis}ref`]: axis, [`${axis}0`]: at, [`${axis}1`]: at, [`${other}ref`]: 'paper', [`${other}0`]: 0, [`${other}1`]: 1,
  };
}

// The library counts places of texts on a logarithmic axis in powers of ten.
function levelName({ axis, at: stored, words }, logarithmic, shift) {
  const at = logarithmic ? Math.log10(stored) : stored;
  const place = axis === 'y' ? { xref: 'paper', x: 1, xanchor: 'right', yref: 'y', y: at, yanchor: 'bottom' }
    : { yref: 'paper', y: 1, yanchor: 'bottom', yshift: shift, xref: 'x', x: at };
  return { text: plain(words), showarrow: false, font: { size: 11, color: pageInk('quiet') }, ...place };
}

function diagonal(content) {
  const marks = content.groups.flatMap((group) => group.marks);
  const ends = [Math.max(Math.min(...marks.map((mark) => mark.x)), Math.min(...marks.map((mark) => mark.y))),
    Math.min(Math.max(...marks.map((mark) => mark.x)), Math.max(...marks.map((mark) => mark.y)))];
  return { type: 'line', layer: 'below', x0: ends[0], y0: ends[0], x1: ends[1], y1: ends[1], line: { color: pageInk('quiet'), width: 1, dash: 'dot' } };
}
