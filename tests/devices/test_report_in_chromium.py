"""The report in a real browser: it renders in light and dark, fits a phone, and asks for nothing from the network."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

import edgekit
from edgekit import experiment as experiments
from edgekit.cli.new import TEMPLATE
from edgekit.pipeline import job
from edgekit.report.live import LivePage
from edgekit.server.loop.metrics import RoundMetrics

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices"),
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory, new_listener):
    out = tmp_path_factory.mktemp("report") / "run"
    quick = ["data.clients=5", "federation.rounds=3", "privacy.sample_rate=0.5", "export.tolerance=0.5"]
    job.run(experiments.load(TEMPLATE, quick), out, new_listener())
    return out / "report.html"


def _chromium(tmp_path, *arguments):
    command = ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _screenshot(report, tmp_path, width, *more):
    picture = tmp_path / "picture.png"
    _chromium(tmp_path, f"--window-size={width},1400", f"--screenshot={picture}", *more, f"file://{report}")
    return Image.open(picture).convert("L")


def test_the_page_is_light_on_a_light_system_and_dark_on_a_dark_one(report, tmp_path):
    light = _screenshot(report, tmp_path, 1100)
    dark = _screenshot(report, tmp_path, 1100, "--blink-settings=preferredColorScheme=0")
    assert light.getpixel((5, 5)) > 230
    assert dark.getpixel((5, 5)) < 40
    # Something is drawn on both: text and pictures, not an empty page.
    assert min(light.getextrema()) < 80
    assert max(dark.getextrema()) > 180


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_sticks_out_of_the_page(report, tmp_path, width):
    probe = "<script>document.title = 'wide ' + document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    page = tmp_path / "probe.html"
    frame = f"<iframe id=f style='width:{width}px;height:2000px;border:0' src='inner.html'></iframe>"
    (tmp_path / "inner.html").write_text(report.read_text().replace("</body>", f"{probe}</body>"))
    page.write_text(f"<body>{frame}<script>f.onload = () => document.title = f.contentDocument.title</script></body>")
    done = _chromium(
        tmp_path, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom", f"file://{page}"
    )
    found = re.search(r"<title>wide (\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[:400]
    assert (int(found[2]), int(found[1]) <= width) == (width, True)


@pytest.mark.parametrize(
    ("page", "width", "scheme"),
    [("report", 360, "dark"), ("report", 1600, "light"), ("comparison", 360, "light"), ("comparison", 1600, "dark")],
)
def test_screen_readers_and_keyboards_find_their_way(report, phone, tmp_path, page, width, scheme):
    shown = report
    if page == "comparison":
        edgekit.compare(report.parent, report.parent, html=tmp_path / "c.html")
        shown = tmp_path / "c.html"
    opened = phone(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(f"file://{shown}")
    assert opened.stumbles() == []
    assert opened.errors == []


def test_a_run_is_watched_until_its_report_is_there(report, phone):
    live = LivePage("tried", report.parent)
    page = phone(viewport={"width": 360, "height": 800}, color_scheme="dark")
    page.goto(live.address)
    live.stage("training")
    for number in range(1, 6):
        told = RoundMetrics(number, 0.5, 0.1 * number, 4, 4, 0, 10_000, 10_000, 0.1, 0.5 * number)
        live.round(told, 10)
    live.notice("<b>bold</b>")
    live.nodes([{"name": "pi", "kind": "litert", "online": True, "rounds": 5, "failures": 0, "problem": ""}])
    page.wait_for_selector("#round:has-text('5 of 10')")
    page.wait_for_selector("#rows:has-text('pi')")
    assert page.inner_text("#score") == "0.5000"
    assert "<b>bold</b>" in page.inner_text("#notices")
    assert len(page.get_attribute("#line", "points").split()) == 5
    assert page.stumbles() == []
    live.finished({})
    page.wait_for_selector("h2:has-text('How to use it')")  # the report, in the same page
    live.close()
    assert [error for error in page.errors if not error.endswith("/events: net::ERR_ABORTED")] == []  # it closed that


def test_the_page_asks_for_nothing_from_the_network(report, tmp_path):
    log = tmp_path / "net.json"
    _chromium(tmp_path, f"--log-net-log={log}", "--dump-dom", f"file://{report}")
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    assert not any("report" in url or "edgekit" in url for url in asked)
    assert "http" not in re.sub(r"http://www.w3.org/[^\"]*", "", report.read_text())
