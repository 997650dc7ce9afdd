"""A page in headless Chromium: what its script makes of it, with nothing but the browser itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

_HELPERS = """
const chart = (name = 'dips') => document.getElementById(name);
const pause = (ms = 60) => new Promise((done) => setTimeout(done, ms));
const rows = () => [...document.querySelectorAll('#layer-table tbody tr')].filter((row) => !row.hidden)
  .map((row) => row.cells[0].textContent);
const said = () => document.getElementById('layer').textContent;
const press = async (key, at = chart()) => {
  at.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true })); await pause();
};
const pixel = (layer, score, at = chart()) => {
  const box = at.getBoundingClientRect(), { xaxis, yaxis, _size } = at._fullLayout;
  return { clientX: box.left + _size.l + xaxis.l2p(layer), clientY: box.top + _size.t + yaxis.l2p(score) };
};
const mouse = (target, kind, place) => target.dispatchEvent(
  new MouseEvent(kind, { ...place, view: window, bubbles: true, cancelable: true, button: 0,
    buttons: kind === 'mouseup' ? 0 : 1 }));
const hover = async (layer, score, at = chart()) => {
  const place = pixel(layer, score, at);
  at.querySelector('.nsewdrag').dispatchEvent(new MouseEvent('mousemove', { ...place, bubbles: true, view: window }));
  await pause(200);
  return [...at.querySelectorAll('.hoverlayer .hovertext')].map((text) => text.textContent).join('');
};
const drag = async (first, last, score) => {
  const area = chart().querySelector('.nsewdrag');
  mouse(area, 'mousedown', pixel(first, score)); await pause();
  for (const at of [first + (last - first) / 2, last]) {
    mouse(document, 'mousemove', pixel(at, score - 1)); await pause();
  }
  mouse(document, 'mouseup', pixel(last, score - 1)); await pause(200);
};
const sortBy = async (name) => {
  const heads = [...document.querySelectorAll('th button')];
  heads.find((button) => button.textContent.startsWith(name)).click();
  await pause();
};
const search = async (text) => {
  const field = document.querySelector('.search'); field.value = text;
  field.dispatchEvent(new Event('input')); await pause();
};
"""

_AFTER = """
<script>
(async () => {
  const kept = {};
  const errors = [];
  window.addEventListener('error', (event) => errors.push(event.message));
  window.addEventListener('unhandledrejection', (event) => errors.push(String(event.reason)));
  document.addEventListener('securitypolicyviolation', (event) => errors.push(`refused: ${event.blockedURI}`));
  HELPERS
  try {
    for (let waited = 0; !document.body.dataset.charts && waited < 400; waited += 1) await pause(50);
    kept.charts = document.body.dataset.charts;
    STEPS
  } catch (error) { errors.push(`${error}\\n${error.stack}`); }
  kept.errors = errors;
  const out = document.createElement('pre');
  out.id = 'kept-by-test';
  out.textContent = JSON.stringify(kept);
  document.body.append(out);
})();
</script>
</body>
"""


def browser() -> str:
    """The browser of this machine. Without one a test is skipped; where all checks run, only if none can be had."""
    name = next(filter(None, map(shutil.which, _NAMES)), None)
    if name is None:
        if os.environ.get("CI") and not os.environ.get("SENSITIVITY_NO_BROWSER"):
            pytest.fail("no Chromium: install one, or set SENSITIVITY_NO_BROWSER=1 to skip what needs it")
        pytest.skip("no Chromium on this machine: pages cannot be looked at")
    return name


def run_in_page(text: str, steps: str, folder: Path, *flags: str, width: int = 1200) -> dict[str, Any]:
    """What JavaScript steps kept in ``kept`` after the page's charts were drawn, with the errors of the page.

    Args:
        text: The page.
        steps: JavaScript; the functions of ``_HELPERS`` are at hand.
        folder: Where the page and the browser's profile are written.
        flags: More of the browser's command line.
        width: Of the window, in pixels.
    """
    page = folder / "page.html"
    after = _AFTER.replace("HELPERS", _HELPERS).replace("STEPS", steps)
    page.write_text(text.replace("</body>", "").replace("</html>", f"{after}</html>"), encoding="utf-8")
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1400", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="kept-by-test">(.*?)</pre>', answer.stdout, re.DOTALL)
    assert match, f"the page's script never ended: {answer.stderr[-2000:]}"
    facts: dict[str, Any] = json.loads(unescape(match.group(1)))
    return facts
