// What the reader looks at, shared by charts and tables: whoever changes it tells all others.
const facts = JSON.parse(document.getElementById('data').textContent);

const view = {
  recipe: 0, // place of the recipe that is shown
  selected: null, // Set of places of layers, or null for all
  hidden: new Set(), // kinds of layers that are not shown
  text: '', // what rows are searched for
  current: null, // place of the layer that is pointed out, or null
  range: null, // first and last place in sight, or null for all
  heights: null, // lowest and highest score in sight, or null for those that fit the dips
  watchers: [],
  change(changes) {
    Object.assign(this, changes);
    for (const watcher of this.watchers) watcher(changes);
  },
};

const darkness = window.matchMedia('(prefers-color-scheme: dark)');

// A colour of the style sheet by its name.
function pageInk(name) {
  return getComputedStyle(document.querySelector('main')).getPropertyValue('--' + name).trim();
}

// A colour that comes with the data, for a light and for a dark page.
function dataInk(pair) {
  return darkness.matches ? pair.dark : pair.light;
}

function withAlpha(hex, alpha) {
  const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  return `rgba(${parts.join(',')},${alpha})`;
}

// Text as the plotting library shows it: it would read tags in it.
function plain(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function isShown(layer) {
  return (view.selected === null || view.selected.has(layer)) && !view.hidden.has(facts.study.layers[layer].kind);
}

function places(first, last) {
  return Array.from({ length: last - first + 1 }, (_, step) => first + step);
}

// What every chart shares: the page's colours and text size, no margins beyond what labels need.
function baseLayout() {
  const axis = {
    color: pageInk('text'), gridcolor: pageInk('line'), linecolor: pageInk('line'), zeroline: false, automargin: true,
  };
  return {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false,
    font: { family: 'system-ui, sans-serif', size: 12, color: pageInk('text') },
    margin: { l: 50, r: 12, t: 56, b: 30 },
    hoverlabel: {
      align: 'left', bgcolor: pageInk('raised'), bordercolor: pageInk('line'), font: { color: pageInk('text'), size: 12 },
    },
    modebar: { bgcolor: 'rgba(0,0,0,0)', color: pageInk('quiet'), activecolor: pageInk('focus') },
    xaxis: { ...axis }, yaxis: { ...axis },
  };
}

// showSendToCloud is true by default: its button would send the study to another company's server.
const chartSettings = {
  responsive: true, displaylogo: false, displayModeBar: true, showSendToCloud: false,
  modeBarButtonsToRemove: ['lasso2d', 'autoScale2d'],
};

// The texts and marks of a chart are told by its label and its live region; a screen reader need not meet each of them.
function hideFromReaders(chart) {
  for (const drawing of chart.querySelectorAll('svg')) drawing.setAttribute('aria-hidden', 'true');
}
