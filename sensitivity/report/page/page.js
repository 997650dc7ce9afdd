// Starts the page: tables at once, charts when the plotting library is there.
function startPage() {
  document.querySelectorAll('table.sortable').forEach(watchTable);
  const present = [...document.querySelectorAll('.chart')].map((chart) => {
    if (chart.id === 'dips') return [chart, watchDips, drawDips];
    return chart.dataset.values ? [chart, watchValues, drawValues] : [chart, watchPoints, drawPoints];
  });
  if (!present.length) { // a page without charts has no plotting library
    document.body.dataset.charts = 'none';
    return;
  }
  for (const [chart, watch] of present) watch(chart);
  const drawAll = () => Promise.all(present.map(([chart, , draw]) => draw(chart)));
  loadLibrary().then(drawAll).then(
    () => { document.body.dataset.charts = 'drawn'; },
    (error) => {
      document.body.dataset.charts = 'failed';
      for (const [chart] of present) chart.textContent = `This browser cannot draw the chart (${error.message}); all numbers are in the tables.`;
    },
  );
  darkness.addEventListener('change', drawAll);
}

// The plotting library is in the page in compressed form; nothing is fetched.
async function loadLibrary() {
  const packed = Uint8Array.from(atob(document.getElementById('library').textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

startPage();
