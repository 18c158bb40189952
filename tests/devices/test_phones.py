"""The phones' page in a real browser: it takes part in real rounds, and says what is wrong."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices"),
]
PRIVATE = (
    "model.name=mlp", "model.arguments={}", "spiking.enabled=false", 'export.presets=["int8"]', "export.tolerance=0.9",
    "data.clients=4", "privacy.unit=example", "privacy.noise=client", "federation.average_last=0.0",
)  # fmt: skip


def _draw(page, pad, points):
    box = page.locator(pad).bounding_box()
    page.mouse.move(box["x"] + points[0][0] * box["width"], box["y"] + points[0][1] * box["height"])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
    page.mouse.up()


STROKE = [(0.5, 0.15), (0.45, 0.5), (0.5, 0.85)]


def _updates(page):
    return page.locator("#sent-list li", has_text="what was learnt").count()


def _kept(page):
    return page.evaluate(
        """async () => {
  const store = await import('/phone/store.js');
  const [examples, ledger] = [await store.count('examples'), await store.count('ledger')];
  return {examples, ledger, files: await store.keys('files')};
}"""
    )


def test_pages_take_part_are_reloaded_pause_leave_and_delete_everything(federation, phone):
    one = federation("federation.rounds=400", "serve.nodes=1", "serve.deadline_seconds=20", base=PRIVATE)
    one.serve_phones()
    link = one.phone_link()
    first = phone()
    first.come_in(link)
    assert "#t=" not in first.url  # the ticket is used up, and not left lying about
    assert first.stumbles() == []
    said = first.inner_text("#about")
    for words in ("drawings. They are never sent", "noise", "a round, there and back"):
        assert words in said
    first.begin()
    one.wait_for_round(3)
    assert first.stumbles() == []
    assert "Privacy spent: epsilon" in first.inner_text("#spent")

    # Another phone draws its own examples; the first scan's code is not for it.
    late = phone()
    late.goto(link)
    late.wait_for_selector("#notice:visible")
    assert "used already" in late.inner_text("#notice")
    lost = phone()
    lost.goto(link.partition("#")[0])
    lost.wait_for_selector("#notice:visible")
    assert "Scan to join" in lost.inner_text("#notice")
    second = phone(color_scheme="dark", viewport={"width": 1100, "height": 900})
    second.come_in(one.phone_link())
    second.click("#consent")
    for number in range(10):
        second.wait_for_selector(f"#examples-task:has-text('Draw a {number}.')")
        _draw(second, "#maker canvas", STROKE)
        second.click("#maker button:has-text('Keep this one')")
    second.wait_for_selector("#examples-count:has-text('10 examples')")
    second.click("#start")
    second.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")
    _draw(second, "#tester canvas", STROKE)
    second.click("#tester button:has-text('Guess')")
    second.wait_for_selector("#guess:visible")
    assert "The network sees" in second.inner_text("#guess")
    assert second.locator("#guess tbody tr").count() == 5
    assert second.stumbles() == []

    # A keyboard draws too.
    before = _kept(second)["examples"]
    second.focus("#maker canvas")
    for key in ("Space", "ArrowDown", "ArrowDown", "ArrowRight", "Space", "Enter"):
        second.keyboard.press(key)
    second.wait_for_selector("#examples-count:has-text('11 examples')")
    assert _kept(second)["examples"] == before + 1

    # Reloaded in the middle of things, it goes on by itself, with its ledger.
    spent = _kept(first)["ledger"]
    assert spent >= 3
    first.reload()
    first.wait_for_selector("#line:has-text('connected')")
    had = _updates(first)  # the list is kept too
    assert had >= 3
    one.wait(lambda: _updates(first) > had, 60, "an update after the reload")
    assert _kept(first)["ledger"] > spent
    assert _kept(first)["ledger"] <= len(one.rounds()) + 2  # no round was charged twice

    # A second tab of the same phone does not spend the same budget.
    tab = first.context.new_page()
    tab.goto(first.url)
    tab.wait_for_selector("#notice:visible")
    assert "another tab" in tab.inner_text("#notice")
    tab.close()

    # Paused, it is asked in vain; the others go on.
    second.click("#pause")
    second.wait_for_timeout(500)
    had = _updates(second)
    rounds = len(one.rounds())
    one.wait_for_round(rounds + 3, 60)
    assert _updates(second) == had
    second.click("#leave")
    second.click("#sure-yes")
    second.wait_for_selector("#notice:has-text('You have left')")
    assert _kept(second)["examples"] == 11  # its drawings are still its own
    first.click("#delete")
    first.click("#sure-yes")
    first.wait_for_selector("#notice:has-text('Everything is deleted')")
    first.wait_for_timeout(500)
    kept = _kept(first)
    assert (kept["examples"], kept["ledger"], kept["files"]) == (0, 0, [])
    members = json.loads((one.folder / "home" / "coordinator" / "members.json").read_text())
    assert not any(member["kind"] == "phone" for member in members.values())
    assert first.errors + second.errors == []


def test_a_page_that_sleeps_or_is_closed_costs_no_round(federation, phone):
    one = federation("federation.rounds=2000", "serve.nodes=1", "serve.deadline_seconds=6", base=PRIVATE)
    one.serve_phones()
    pages = []
    for _ in range(3):
        page = phone()
        page.come_in(one.phone_link())
        page.begin()
        pages.append(page)
    steady, sleeper, closed = pages
    for page in pages:
        page.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")
    devtools = sleeper.context.new_cdp_session(sleeper)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    closed.context.close()
    rounds = len(one.rounds())
    one.wait_for_round(rounds + 4, 90)
    lines = one.rounds()[rounds:]
    assert all(line["replies"] >= 1 for line in lines)
    assert max(line["seconds"] for line in lines) < 25
    assert steady.errors == []


@pytest.mark.long  # two minutes
def test_a_pages_memory_stays_flat_over_200_rounds(federation, phone, chromium):
    one = federation("federation.rounds=2000", "serve.nodes=1", "serve.deadline_seconds=6", base=PRIVATE)
    one.serve_phones()
    steady = phone()
    steady.come_in(one.phone_link())
    steady.begin()
    steady.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")
    measure = steady.context.new_cdp_session(steady)
    measure.send("Performance.enable")

    def heap():
        steady.evaluate("() => globalThis.gc?.()")
        measure.send("HeapProfiler.collectGarbage")
        found = {m["name"]: m["value"] for m in measure.send("Performance.getMetrics")["metrics"]}
        return found["JSHeapUsedSize"], found["Nodes"], _renderers()

    one.wait_for_round(len(one.rounds()) + 30, 120)
    before = heap()
    one.wait_for_round(len(one.rounds()) + 200, 300)
    after = heap()
    assert after[0] < 1.2 * before[0] + 1e6
    assert after[2] < before[2] + 25e6, (before, after)
    assert steady.errors == []


def _renderers():
    """Return what all of Chromium's renderer processes hold in memory, in bytes."""
    total = 0
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if b"--type=renderer" in (place / "cmdline").read_bytes():
                    total += int((place / "statm").read_text().split()[1]) * 4096
            except OSError:
                continue
    return total


def test_what_a_browser_lacks_is_said_in_plain_words(federation, phone):
    one = federation("federation.rounds=1000", "serve.nodes=1", base=PRIVATE)
    one.serve_phones()
    link = one.phone_link()
    for script, words in (
        ("delete globalThis.WebAssembly", "This browser cannot learn"),
        ("Object.defineProperty(globalThis, 'isSecureContext', {value: false})", "This address is not secure"),
        ("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); }", "Nothing can be kept"),
    ):
        page = phone()
        page.add_init_script(script)
        page.goto(link)
        page.wait_for_selector("#notice:visible")
        assert words in page.inner_text("#notice")
        assert page.stumbles() == []

    # Storage that is full, and a runtime that cannot be loaded; the ticket is still good, and both can be mended.
    page = phone(service_workers="block")
    devtools = page.context.new_cdp_session(page)
    origin = link.partition("/phone/")[0]
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 1000})
    page.goto(link)
    page.wait_for_selector("#notice:has-text('storage is full')")
    assert page.stumbles() == []
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin})
    page.context.route("**/*.wasm", lambda route: route.abort())
    page.click("#notice button")
    page.wait_for_selector("#consent:visible")
    page.click("#consent")
    page.click("#practise")
    page.wait_for_selector("#examples-count:has-text('80 practice examples')")
    page.click("#start")
    page.wait_for_selector("#notice:has-text('cannot run the network')")
    page.context.unroute("**/*.wasm")
    page.reload()
    page.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")

    # The coordinator goes, and comes back; the page says so, and goes on.
    one.coordinator.terminate()
    one.coordinator.wait(60)
    page.wait_for_selector("#line:has-text('offline')")
    page.wait_for_selector("#state:has-text('tries again by itself')")
    rounds = len(one.rounds())
    one.serve_phones()
    page.wait_for_selector("#line:has-text('connected')")
    one.wait_for_round(rounds + 1, 90)


def test_the_dashboard_shows_how_the_group_is_doing(federation, phone, scripted_phone):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve_phones()
    other = scripted_phone.ScriptedPhone(one.phone_link())
    other.take_part()
    one.wait_for_round(4)
    page = phone()
    page.goto(f"https://127.0.0.1:{one.phones_port}/dashboard")
    page.wait_for_selector("#round:has-text('of 1000')")
    page.wait_for_selector("#kinds tr:has-text('Phones')")
    assert "%" in page.inner_text("#accuracy")
    assert page.stumbles() == []
    page.set_viewport_size({"width": 1200, "height": 800})
    assert page.stumbles() == []
    assert page.errors == []
    other.close()


@pytest.mark.long
def test_the_tutorial_of_phones_can_be_followed(federation, phone, tmp_path):
    """docs/tutorials/phones.md: its experiment, its command, and what it says people see."""
    page = (Path(__file__).parents[2] / "docs/tutorials/phones.md").read_text()
    (experiment,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "phones.toml").write_text(experiment)
    assert "\nedgekit serve phones.toml --phones\n" in page
    one = federation(base=(str(tmp_path / "phones.toml"),))
    one.serve_phones("--once")
    phones = [phone(), phone()]
    for each in phones:
        each.come_in(one.phone_link())
        assert "drawings. They are never sent" in each.inner_text("#about")
        each.begin()
    one.wait_for_end(180)
    for each in phones:
        assert "Privacy spent: epsilon" in each.inner_text("#spent")
        assert _updates(each) >= 1
