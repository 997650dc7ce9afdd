// Tables that sort and search, and whose rows point out layers in the chart.
function watchTable(table) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const contents = rows.map((row) => row.textContent.toLowerCase());
  const controls = table.closest('.wide').previousElementSibling;
  const search = controls.querySelector('.search');
  const count = controls.querySelector('.count');

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let all = 0;
    rows.forEach((row, place) => {
      const inView = isRowInView(table, row);
      const visible = inView.always && inView.now && words.every((word) => contents[place].includes(word));
      row.hidden = !visible;
      shown += visible;
      all += inView.always;
    });
    count.textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
  }

  table.filterRows = filter;
  search.addEventListener('input', filter);
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    head.querySelector('button').addEventListener('click', () => sortRows(table, rows, head, column));
  });
  rows.forEach(watchRow);
  const first = rows.find((row) => row.querySelector('.pick'));
  if (first) first.querySelector('.pick').tabIndex = 0;
  view.watchers.push((changes) => {
    if ('current' in changes) showCurrent(table, rows);
    if ('recipe' in changes || 'selected' in changes || 'hidden' in changes) filter();
  });
  filter();
}

// Whether a row is about the recipe that is shown, and its layer among those in sight.
function isRowInView(table, row) {
  if (table.dataset.points) return { always: true, now: table.rowIsChosen?.(row) ?? true };
  if (row.dataset.layer === undefined) return { always: true, now: view.selected === null };
  return { always: Number(row.dataset.recipe) === view.recipe, now: isShown(Number(row.dataset.layer)) };
}

// Numbers by size, what is absent always last; text as readers expect it, stage2 before stage10.
function sortRows(table, rows, head, column) {
  const numeric = head.classList.contains('number');
  const [usual, turned] = numeric ? ['descending', 'ascending'] : ['ascending', 'descending'];
  const order = head.getAttribute('aria-sort') === usual ? turned : usual;
  for (const other of table.tHead.rows[0].cells) other.setAttribute('aria-sort', 'none');
  head.setAttribute('aria-sort', order);
  const sign = order === 'ascending' ? 1 : -1;
  const keys = new Map(rows.map((row) => [row, sortKey(row.cells[column].textContent, numeric)]));
  const sorted = [...rows].sort((one, other) => {
    const [left, right] = [keys.get(one), keys.get(other)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (numeric ? left - right : left.localeCompare(right, undefined, { numeric: true }));
  });
  table.tBodies[0].append(...sorted);
}

function sortKey(text, numeric) {
  if (text === '\u2013' || text === '') return null;
  if (!numeric) return text;
  const number = parseFloat(text.replace(/[[,]/g, ''));
  return Number.isNaN(number) ? null : number;
}

// Tells the chart which of its points the row is about.
function pointOut(row) {
  if (row.dataset.layer !== undefined) view.change({ current: Number(row.dataset.layer), from: 'table' });
  else row.pointOut?.();
}

function watchRow(row) {
  const pick = row.querySelector('.pick');
  if (!pick) return;
  pick.addEventListener('click', () => pointOut(row));
  row.addEventListener('mouseenter', () => pointOut(row));
  pick.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const visible = Array.from(row.parentNode.rows).filter((other) => !other.hidden && other.querySelector('.pick'));
    const next = visible[visible.indexOf(row) + step];
    if (!next) return;
    pick.tabIndex = -1;
    next.querySelector('.pick').tabIndex = 0;
    next.querySelector('.pick').focus();
    pointOut(next);
  });
}

function showCurrent(table, rows) {
  for (const row of rows) {
    const matches = row.dataset.layer !== undefined && Number(row.dataset.layer) === view.current
      && Number(row.dataset.recipe) === view.recipe;
    row.classList.toggle('current', matches);
    if (!matches || view.from === 'table' || row.hidden) continue;
    const box = table.closest('.wide');
    box.scrollTop = row.offsetTop - box.clientHeight / 2; // scrolls the table and never the page
  }
}
