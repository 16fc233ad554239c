"""The page in a real browser. Skipped with a reason if Chromium is not installed."""

from __future__ import annotations

import json
import platform
import re
import socket

import pytest
from browser import NAMES, Browser, executable
from proxy_support import unused_number
from serve_support import Command
from support import PATIENCE
from test_dashboard import Printed
from test_demo import FIRST, lost, sample, written

from minireactor.cli.commands import main

without = f"no Chromium here ({', '.join(NAMES)}): the page is NOT TESTED"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.newest,
    pytest.mark.skipif(executable() is None, reason=without),
]

MIB = 1 << 20


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    own = Browser(str(tmp_path_factory.mktemp("browser")))
    yield own
    own.close()


@pytest.fixture
def show(browser, tmp_path, closing):
    """Run a command and open its page. A console error fails the test, unless `errors` is true.

    The tour is skipped, unless `tour` is true: it would change what a test looks at."""
    pages = []

    def start(*arguments, **more):
        process = closing(Command(*arguments, cwd=str(tmp_path)))
        return load(Printed(process.line_with("http://")).url, process, **more)

    def load(url, process=None, errors=False, tour=False, **more):
        page = browser.open(url, **more)
        if not tour:
            page.ask("tour.skip()")
        page.process = process
        page.may_fail = errors
        pages.append(page)
        return page

    start.load = load
    yield start
    for page in pages:
        page.ask("1")  # reads the console's messages up to now
        page.close()
    assert [page.errors for page in pages if not page.may_fail] == [
        [] for page in pages if not page.may_fail
    ]


@pytest.fixture
def demo(show):
    """Return the page of a demo, after it has drawn its connections."""
    page = show("demo", "--no-browser")
    page.until("plots.size === 3 && [...plots.values()].every((plot) => plot.scale)")
    return page


FIRST_PLOT = "document.querySelector('.plot').plot"


def rows(page):
    """Return the latest sample's rows, in the order in which the page shows them."""
    return page.ask("[...document.querySelectorAll('.plot')].map(({plot}) => plot.row)")


def post(page, what):
    page.ask(f"send('/demo', {json.dumps(what)})")


# The demo.


def test_a_connection_appears_and_a_pause_is_seen(demo):
    assert demo.ask("document.querySelectorAll('#connections .chart canvas').length") == 3
    demo.until("[...document.querySelectorAll('.chip')].some((c) => c.textContent === 'paused')")
    demo.until("[...plots.values()].every((plot) => plot.columns.share.some((part) => part > 0.9))")
    assert "pause" in demo.ask("document.querySelector('.facts').textContent")


def test_something_is_drawn_in_the_colour_of_each_thing(demo):
    demo.until(f"{FIRST_PLOT}.columns.share.some((part) => part === 1)")
    drawn = """(() => {
        const canvas = document.querySelector('#connections .chart canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const has = (name) => {
            const [r, g, b] = colour[name].match(/[0-9a-f]{2}/g).map((hex) => parseInt(hex, 16));
            for (let i = 0; i < data.length; i += 4)
                if ([r, g, b].every((part, j) => Math.abs(data[i + j] - part) < 8)
                    && data[i + 3] > 200) return true;
            return false;
        };
        return ['pending', 'high', 'low', 'paused', 'kernel', 'rate'].filter((name) => !has(name));
    })()"""
    demo.until(f"{drawn}.length === 0")


def test_a_dragged_mark_takes_effect_at_the_server(demo):
    before = rows(demo)
    demo.drag("#connections .mark.high", -16)
    demo.until(f"{FIRST_PLOT}.wanted === null && {FIRST_PLOT}.row.high > {before[0]['high']}")
    after = rows(demo)
    assert after[0]["low"] == before[0]["low"]
    assert [row["high"] for row in after[1:]] == [row["high"] for row in before[1:]]
    # The page shows the marks in force.
    shown = demo.ask("document.querySelector('.mark.high b').textContent")
    assert shown == demo.ask(f"bytes({after[0]['high']})")
    demo.until("document.querySelector('[data-low=own]').hidden === false")


def test_the_marks_of_all_can_be_dragged_together(demo):
    demo.click("#together")
    demo.drag("#connections .mark.low", -10)
    demo.until("[...plots.values()].every((plot) => plot.row.low > 65536)")
    assert len({row["low"] for row in rows(demo)}) == 1


def test_a_mark_is_moved_with_the_keys_and_says_where_it_is(demo):
    before = rows(demo)[0]["low"]
    demo.ask("document.querySelector('#connections .mark.low').focus()")
    demo.key("ArrowUp")
    demo.until(f"{FIRST_PLOT}.row.low > {before}")
    demo.key("Home")
    demo.until(f"{FIRST_PLOT}.row.low === 0")
    demo.key("End")
    demo.until(f"{FIRST_PLOT}.row.low > 200000")
    row = rows(demo)[0]
    assert row["low"] < row["high"]
    mark = "document.querySelector('#connections .mark.low')"
    demo.until(f"{mark}.getAttribute('aria-valuenow') === '{row['low']}'")
    assert demo.ask(f"{mark}.getAttribute('aria-label')").startswith("low mark of connection")


def test_the_memory_climbs_with_flow_control_off_and_is_flat_with_it_on(demo):
    # Other interpreters collect garbage at any time, so there only pending is looked at.
    chart = "memory" if platform.python_implementation() == "CPython" else "pending"
    # Given clients that read slowly, and time to look.
    post(demo, {"made": 16 * MIB})
    demo.until("whole.t.length > 25")
    flat = demo.ask(f"[whole.{chart}[5], whole.{chart}[whole.t.length - 1]]")
    assert abs(flat[1] - flat[0]) < 4 * MIB
    # When flow control is switched off, the chart climbs, until the safe limit.
    demo.click("#flow")
    demo.until(f"whole.{chart}[whole.t.length - 1] > {flat[1] + 16 * MIB}")
    demo.until(f"whole.pending[whole.pending.length - 1] > {40 * MIB}")
    demo.until("!document.getElementById('notice').hidden")
    assert "safe" in demo.ask("document.querySelector('[data-flow=false]').textContent")
    # Switched on again, little is pending.
    demo.click("#flow")
    demo.until(f"whole.pending[whole.pending.length - 1] < {2 * MIB}")
    demo.until("[...plots.values()].some((plot) => plot.row.producer === 'paused')")


def test_the_switches_do_what_they_say(demo):
    def choose(value):
        demo.ask(f"document.querySelector('input[value={value}]').click()")

    choose("zero")
    demo.until("[...plots.values()].every((plot) => plot.row.low === 0)")
    demo.until("document.querySelector('[data-low=zero]').hidden === false")
    choose("near")
    demo.until("[...plots.values()].every((plot) => plot.row.low > 200000)")
    demo.until("[...plots.values()].some((plot) => plot.row.pauses > 5)")
    choose("quarter")
    choose("pull")
    demo.until("[...plots.values()].every((plot) => plot.row.producer === 'pull')")
    choose("push")
    choose("proxy")
    legs = "[...document.querySelectorAll('.plot:not(.over) .pick')].map((h) => h.textContent)"
    demo.until(f"{legs}.join() === '{','.join(3 * ['server to proxy', 'proxy to client'])}'")


def test_a_client_is_made_slow_and_vanishes(demo):
    slider = "document.querySelector('.client input')"
    demo.ask(f"{slider}.value = 0; {slider}.dispatchEvent(new Event('input'))")
    demo.until("latest.demo.clients[0].rate === 0")
    assert demo.ask("document.querySelector('.client output').textContent") == "nothing"
    demo.ask("document.querySelectorAll('.vanish')[1].click()")
    demo.until("latest.demo.clients[1].gone")
    demo.until("document.querySelectorAll('.vanish')[1].textContent === 'Come back'")
    demo.until("document.querySelectorAll('.absent')[1].textContent.includes('goodbye')")


def test_frozen_it_stands_still_and_then_it_has_missed_nothing(demo):
    demo.click("#freeze")
    before = demo.ask("whole.t.length")
    demo.until("held.length > 5")
    assert demo.ask("whole.t.length") == before
    demo.click("#freeze")
    demo.until(f"whole.t.length > {before + 5}")


# Returns the elements whose text is hard to read on its ground.
POOR_CONTRAST = """(() => {
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((part) => Number(part) / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const own = getComputedStyle(element).backgroundColor;
            if (!/, 0\\)$|transparent/.test(own)) return own;
        }
        return 'rgb(255, 255, 255)';
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!text || !element.getClientRects().length) continue;
        if (element.matches('.choice span')) continue; // its ground is a sibling's
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) poor.push(`${element.tagName}.${element.className} ${contrast}`);
    }
    return poor;
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read_at_any_width_light_and_dark(show, width, dark):
    page = show("demo", "--no-browser", width=width, height=844, dark=dark)
    page.until("plots.size === 3")
    page.until("document.querySelector('.mark.high b').textContent !== ''")
    assert page.ask("document.documentElement.scrollWidth") <= width
    assert page.ask(POOR_CONTRAST) == []


def test_everything_that_can_be_worked_has_a_name(demo):
    nodes = demo.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "switch", "radio", "checkbox", "combobox", "image"}
    found = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(found) > 15
    assert [node for node in found if not node.get("name", {}).get("value")] == []


def test_where_less_motion_is_wanted_there_is_less(show):
    page = show("demo", "--no-browser", calm=True)
    page.until("plots.size === 3")
    page.ask(
        "window.count = 0; const before = drawMemory; drawMemory = () => { count += 1; before(); }"
    )
    fed = page.ask("whole.t.length")
    page.until(f"whole.t.length > {fed + 20}")
    assert page.ask("count") < 6


# Access.


def test_an_address_without_the_token_shows_nothing(show, demo):
    url = demo.ask("location.origin")
    page = show.load(f"{url}/", errors=True)
    page.until("document.getElementById('status').textContent.includes('lacks the token')")
    page = show.load(f"{url}/#wrong", errors=True)
    page.until("document.getElementById('status').textContent.includes('refuses')")
    assert page.ask("plots.size") == 0


def test_the_page_asks_nobody_but_its_own_server(demo):
    demo.drag("#connections .mark.high", -5)
    names = demo.ask("performance.getEntriesByType('resource').map((entry) => entry.name)")
    origin = demo.ask("location.origin")
    assert names
    assert all(name.startswith((origin, "data:")) for name in names)


def test_a_page_from_elsewhere_can_neither_read_nor_change(show, demo):
    url, token = demo.ask("location.origin"), demo.ask("token")
    # A page of another origin, which even knows the token...
    other = show("demo", "--no-browser", errors=True)
    tries = {
        "read": f"fetch('{url}/events?token={token}').then((a) => a.status)",
        "change": f"""fetch('{url}/marks', {{method: 'POST',
            headers: {{'Content-Type': 'application/json', 'X-Token': '{token}'}},
            body: '{{"id": null, "high": 9, "low": 1}}'}}).then((a) => a.status)""",
        "change blindly": f"""fetch('{url}/marks?token={token}', {{method: 'POST', mode: 'no-cors',
            body: '{{"id": null, "high": 9, "low": 1}}'}}).then((a) => a.type)""",
        "listen": f"""new Promise((done) => {{
            const source = new EventSource('{url}/events?token={token}');
            source.onmessage = () => done('read');
            source.onerror = () => done('nothing'); }})""",
    }
    # ... and which ignores its own policy.
    other.call("Page.setBypassCSP", {"enabled": True})
    other.call("Page.reload")
    other.until("plots.size === 3")
    answers = {what: other.ask(f"({how}).catch(() => 'no')") for what, how in tries.items()}
    assert answers == {
        "read": "no",
        "change": "no",
        "change blindly": "opaque",
        "listen": "nothing",
    }
    demo.ask("new Promise((resolve) => setTimeout(resolve, 300))")
    assert all(row["high"] > 9 for row in rows(demo))


# The living pipe.

FIRST_PIPE = "document.querySelector('.plot').plot.pipe"


def test_each_client_has_a_pipe_whose_tap_a_pause_closes(demo):
    assert demo.ask("document.querySelectorAll('#connections .plot > .pipe').length") == 3
    label = "document.querySelector('#connections .pipe').getAttribute('aria-label')"
    demo.until(f"{FIRST_PIPE}.tap() === 'closed' && {label}.endsWith('the tap is closed')")
    demo.until(f"{FIRST_PIPE}.tap() === 'open' && {label}.endsWith('the tap is open')")
    post(demo, {"flow": False})
    demo.until(f"{FIRST_PIPE}.tap() === 'none'")


def test_the_drops_move_as_the_bytes_do(demo):
    post(demo, {"client": "A", "rate": 0})
    demo.until(f"{FIRST_PIPE}.flows().every((flow) => flow === 0)")
    still = demo.ask(f"{FIRST_PIPE}.phases.join()")
    demo.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert demo.ask(f"{FIRST_PIPE}.phases.join()") == still
    post(demo, {"client": "A", "rate": 1 << 20})
    demo.until(f"{FIRST_PIPE}.flows().every((flow) => flow > 100000)")
    demo.until(f"{FIRST_PIPE}.phases.join() !== '{still}'")


def test_with_the_proxy_each_leg_has_a_pipe_that_names_its_ends(demo):
    post(demo, {"way": "proxy"})
    demo.until("document.querySelectorAll('.plot:not(.over)').length === 6")
    names = "[...document.querySelectorAll('.plot:not(.over)')].map(({plot}) => plot.pipe.names())"
    first, last = demo.ask(names)[:2]
    assert first == ["producer", "pending", "our kernel", "proxy kernel", "proxy"]
    assert last == ["proxy", "pending", "our kernel", "client kernel", "client"]


def test_elsewhere_there_is_one_pipe_for_the_connection_that_is_picked(show, closing):
    page = show("serve", "echo", "--port", "0", "--dashboard", "0")
    page.until("document.getElementById('empty').textContent.includes('nc 127.0.0.1 ')")
    port = int(page.ask("document.getElementById('empty').textContent").split()[-1])
    for _ in range(2):
        closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
    page.until("plots.size === 2 && picked && picked.row.id === 1")
    page.until("document.getElementById('pipe-name').textContent.startsWith('The pipe of 1 ')")
    page.ask("document.querySelectorAll('.pick')[1].click()")
    page.until("document.getElementById('pipe-name').textContent.startsWith('The pipe of 2 ')")
    pressed = "[...document.querySelectorAll('.pick')].map((b) => b.getAttribute('aria-pressed'))"
    page.until(f"{pressed}.join() === 'false,true'")
    assert page.ask("document.querySelectorAll('.plot > .pipe')[0].clientWidth") == 0


def test_the_pointer_on_an_address_says_why_a_connection_does_not_move(show, closing):
    page = show("serve", "echo", "--port", "0", "--dashboard", "0")
    page.until("document.getElementById('empty').textContent.includes('nc 127.0.0.1 ')")
    port = int(page.ask("document.getElementById('empty').textContent").split()[-1])
    closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
    why = "waits for input: its peer sends nothing"
    page.until(f"plots.size === 1 && document.querySelector('.plot .peer').title === '{why}'")


# The tour.


def test_the_tour_guides_through_a_pause_and_to_memory_and_leaves_nothing_changed(show):
    page = show("demo", "--no-browser", tour=True)
    page.until("plots.size === 3 && tour.number === 0")
    page.click("#tour-next")
    page.until("tour.number === 1 && latest.demo.clients[0].rate === FAST_READER")
    page.until("rowOfA(latest).pending === 0")
    page.click("#tour-next")
    page.until("tour.number === 2")
    assert page.ask("clients.get('A').slider.matches('.hint')")
    page.click("#tour-do")
    # The tanks fill from the client on. When the last one has, the producer is paused.
    page.until("tour.number === 3")
    page.ask(
        "window.filled = []; const go = tour.go; tour.go = function (number) {"
        "if (number === 4) filled = [...this.ticked]; go.call(this, number); }"
    )
    page.until("tour.number === 4")
    assert page.ask("filled.join()") == "fill.theirs,fill.ours,fill.pending"
    assert page.ask("rowOfA(latest).producer") == "paused"
    page.click("#tour-next")
    page.until("tour.number === 5")
    page.click("#flow")
    page.until("tour.number === 6 && latest.demo.made === FAST_PRODUCER")
    page.click("#tour-next")
    page.until("tour.number === 7")
    page.click("#tour-do")
    page.until("tour.number === 8")
    page.until("latest.demo.flow && latest.demo.clients[0].rate === 120 * 1024")
    page.click("#tour-next")
    page.until("document.getElementById('tour').hidden")
    assert page.ask("document.querySelectorAll('.hint').length") == 0


def test_the_tour_takes_a_minute_at_most():
    from minireactor.view.web.document import packaged

    times = re.findall(r"seconds: (\d+)", packaged("tour.js"))
    hello, fast, slow, fill, paused, *others = map(int, times)
    assert hello + fast + slow + fill < 45  # the pause
    # The tanks are full after 5 s, and the low mark is reached after 6 s.
    assert hello + fast + slow + 5 + 7 + sum(others) <= 65


def test_the_tour_can_be_skipped_and_does_not_come_again(show):
    page = show("demo", "--no-browser", tour=True)
    page.until("plots.size === 3 && tour.number === 0")
    page.click("#tour-next")
    page.until("latest.demo.made === SLOW_PRODUCER")
    page.click("#tour-skip")
    page.until("latest.demo.made === 768 * 1024")
    page.call("Page.reload")
    page.until("plots.size === 3 && tour.number === null")
    page.click("#tour-start")
    page.until("tour.number === 0")


def test_whoever_begins_to_play_is_not_interrupted_by_the_tour(show):
    page = show("demo", "--no-browser", tour=True)
    page.until("plots.size === 3 && tour.number === 0")
    page.click("input[value=pull]")
    page.until("tour.number === null && latest.demo.producer === 'pull'")


# Languages.


def test_the_page_speaks_the_language_of_the_browser_and_can_be_switched(show):
    page = show("demo", "--no-browser", languages="zh-CN,en")
    page.until("plots.size === 3")
    assert page.ask("document.documentElement.lang") == "zh-CN"
    page.until("document.title.startsWith('一个服务器和三个客户端')")
    page.until("document.querySelector('.caption').textContent.includes('水位线')")
    page.click("#language")
    page.until("document.title.startsWith('A server and three clients')")
    page.until("document.querySelector('.caption').textContent.includes('mark')")
    page.call("Page.reload")
    page.until("plots.size === 3")
    assert page.ask("document.documentElement.lang") == "en"


@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_no_text_is_left_in_the_other_language(show, way):
    page = show("demo", "--no-browser", languages="zh-CN")
    post(page, {"way": way})
    page.until(f"latest && latest.demo.way === '{way}' && plots.size >= 3")
    page.ask("tour.go(3)")
    page.until("document.querySelector('.facts').textContent !== ''")
    foreign = page.ask("""[...document.querySelectorAll('body *')].flatMap((e) =>
        [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data))
        .filter((text) => /[a-z]{4}/i.test(
                text.replace(/[a-z]+Producing|minireactor.*|English/g, ''))
            && !/[\u4e00-\u9fff]/.test(text))
        .filter((text) => !text.includes('function '))""")
    assert [text for text in foreign if "--" not in text] == []


# Room on the screen.


def bottom(page, selector):
    return page.ask(f"document.querySelector('{selector}').getBoundingClientRect().bottom")


@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_all_clients_the_switches_and_the_memory_share_a_screen(show, way):
    page = show("demo", "--no-browser")
    page.until("plots.size === 3")
    if way == "proxy":
        post(page, {"way": way})  # the direct connections are shown for a while, as closed
    legs = 3 if way == "direct" else 6
    page.until(f"document.querySelectorAll('.plot:not(.over)').length === {legs}")
    page.until("document.querySelectorAll('.plot.over').length === 0")
    page.until("document.querySelector('.facts').textContent !== ''")
    assert page.ask("scrollY") == 0
    for part in ("#flow", "#memory", "input[name=way]", ".client:last-child"):
        assert bottom(page, part) <= 800


def test_on_a_phone_the_switch_and_the_memory_share_a_screen(show):
    page = show("demo", "--no-browser", width=390, height=844)
    page.until("plots.size === 3")
    assert bottom(page, "#memory") <= 844
    assert bottom(page, "#flow") < bottom(page, "#memory")


def test_charts_begin_with_ten_seconds_and_grow_to_what_is_chosen(demo):
    assert demo.ask("span") == 10
    # In one expression: the next sample of the server itself has an earlier time.
    assert 15 <= demo.ask("(feed({...latest, time: now + 15}), span)") <= 30
    demo.ask("feed({...latest, time: now + 60})")
    assert demo.ask("span") == 30


def test_a_chart_off_screen_is_drawn_for_a_print(demo):
    demo.ask("""(() => {
        for (const plot of plots.values()) {
            plot.visible = false;
            plot.due = Infinity;
            plot.canvas.width = 1;
        }
        dispatchEvent(new Event('beforeprint'));
    })()""")
    assert demo.ask("[...plots.values()].every(({canvas}) => canvas.width > 100)")


def test_marks_that_were_dragged_are_set_back_by_a_reset(demo):
    before = rows(demo)[0]
    demo.drag("#connections .mark.high", -16)
    demo.until(f"{FIRST_PLOT}.wanted === null && {FIRST_PLOT}.row.high > {before['high']}")
    demo.click("#reset")
    demo.until(f"{FIRST_PLOT}.row.high === {before['high']}")


# Other servers.


def test_the_dashboard_of_a_server_with_nobody_says_what_to_do(show):
    page = show("serve", "echo", "--port", "0", "--dashboard", "0")
    page.until("document.getElementById('empty').textContent.includes('nc 127.0.0.1 ')")
    page.until("document.title.startsWith('echo listening on 127.0.0.1:')")


def table(page):
    """Return the texts of the cells of the targets' table."""
    page.until("document.querySelectorAll('#targets tr').length > 0")
    return page.ask(
        "[...document.querySelectorAll('#targets tr')].map((row) => [...row.children]"
        ".map((cell) => cell.textContent))"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_dashboard_of_a_proxy_shows_its_targets(show, closing, width, dark):
    up, down = closing(socket.create_server(("127.0.0.1", 0))), unused_number()
    place = f"127.0.0.1:{up.getsockname()[1]}"
    arguments = ("--check", "0.1", "--dashboard", "0")
    size = {"width": width, "height": 844, "dark": dark}
    page = show("proxy", "0", place, f"127.0.0.1:{down}", *arguments, **size)
    page.until("latest && latest.targets[1].state === 'down' && latest.targets[0].connect")
    page.until("document.querySelector('#targets .chip.down') !== null")
    (name, *first, _), (other, *second) = table(page)
    assert [name, *first] == [place, "up", "0", "0"]
    assert [other, second[0], second[3]] == [f"127.0.0.1:{down}", "down", "\u2013"]
    assert page.ask("document.documentElement.scrollWidth") <= width
    assert page.ask(POOR_CONTRAST) == []
    page.click("#language")
    page.until("document.querySelector('#targets .chip').textContent === '可用'")


def test_a_server_without_targets_shows_no_table(show):
    page = show("serve", "echo", "--port", "0", "--dashboard", "0")
    page.until("latest")
    assert page.ask("document.getElementById('targets-panel').hidden")


def test_of_a_thousand_connections_the_busiest_are_shown_and_the_rest_is_summed(
    browser, show, tmp_path, closing
):
    server = closing(Command("serve", "echo", "--port", "0", "--dashboard", "0", cwd=str(tmp_path)))
    server.listening()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        clients = [closing(server.connect()) for _ in range(1000)]
        page = show.load(Printed(server.line_with("http://")).url)
        busy = clients[700]
        busy.sendall(b"x" * 1000)
        page.until("document.getElementById('rest').textContent.startsWith('and 988 more')")
        page.until("document.querySelectorAll('.plot').length >= 12")
        peer = "{}:{}".format(*busy.getsockname())
        reads = 0
        while True:
            busy.sendall(b"x" * 10_000)
            while reads < 10_000:
                reads += len(busy.recv(10_000))
            reads = 0
            if page.ask(f"document.querySelector('.peer').textContent === '{peer}'"):
                break
        # The marks can still be moved.
        page.drag("#connections .mark.high", -10)
        page.until("[...plots.values()].some((plot) => plot.row.high > 65536)")
        for client in clients:
            client.close()
        page.until("latest.totals.open === 0")
        page.until("document.querySelectorAll('.plot').length === 0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_when_the_server_goes_the_page_says_so_and_keeps_the_last_picture(show):
    page = show("demo", "--no-browser", errors=True)
    page.until("plots.size === 3")
    page.process.interrupt()
    page.until("document.getElementById('status').textContent.includes('gone')")
    assert page.ask("plots.size") == 3
    page.until("!timePasses()")  # the drops of its last picture stand still


def hide(page, hidden):
    page.ask(f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}})")
    page.ask("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_page_that_is_hidden_for_long_lets_go_of_its_connection(demo):
    demo.ask("patience = 0")
    hide(demo, "true")
    demo.until("source === null")
    hide(demo, "false")
    demo.until("source && source.readyState === EventSource.OPEN")
    demo.until("document.getElementById('status').textContent === 'live' && plots.size === 3")


def test_a_page_that_is_frozen_or_hidden_for_a_moment_keeps_its_connection(demo):
    hide(demo, "true")
    hide(demo, "false")
    demo.ask("patience = 0")
    demo.click("#freeze")
    hide(demo, "true")
    demo.ask("new Promise((done) => setTimeout(done))")
    assert demo.ask("source.readyState === EventSource.OPEN")
    hide(demo, "false")


def test_names_from_outside_are_text(show, tmp_path):
    row = {**sample(0)["connections"][0], "label": "<img src=x onerror=alert(1)>"}
    lines = [{**sample(time / 4), "connections": [row]} for time in range(40)]
    first = {**FIRST, "command": "<script>alert(1)</script>"}
    page = show("replay", written(tmp_path / "odd", first, *lines), "--no-browser")
    page.until("plots.size === 1")
    assert page.ask("document.querySelectorAll('main img, h1 script').length") == 0
    assert page.ask("document.querySelector('.plot h4').textContent").endswith("onerror=alert(1)>")


# Recordings.


def test_the_targets_of_a_recording_are_shown_as_text(show, tmp_path):
    target = {"target": "<b>:1", "state": "draining", "weight": 1, "backup": True, "clients": 2}
    target.update(failures=3, connect=0.25, reason="<i>")
    lines = [{**sample(time / 4), "targets": [target]} for time in range(40)]
    page = show("replay", written(tmp_path / "file", FIRST, *lines), "--no-browser")
    assert table(page) == [["<b>:1", "draining, backup", "2", "3", "250 ms"]]


@pytest.fixture
def replay(show, tmp_path):
    """The page of a recording of 100 s, with a connection from 20 to 60 s."""

    def at(time):
        found = sample(time)
        if not 20 <= time < 60:
            found["connections"] = []
        elif time == 59.75:
            found["connections"] = [{**found["connections"][0], "state": "closed"}]
        return found

    lines = [at(index / 4) for index in range(401)]
    return show("replay", written(tmp_path / "file", FIRST, *lines, lost(59.6)), "--no-browser")


def go(page, time):
    page.ask(
        f"(() => {{ const slider = document.getElementById('position'); slider.value = {time};"
        "slider.dispatchEvent(new Event('input')); })()"
    )


def test_a_recording_is_moved_about_in_with_a_slider(replay):
    replay.until("document.title.startsWith('minireactor serve echo')")
    replay.until("!document.getElementById('tape').hidden")
    go(replay, 40)
    replay.until("document.getElementById('clock').textContent === '0:40 of 1:40'")
    replay.until("plots.size === 1 && plots.get(1).row.pending === 70000")
    go(replay, 10)
    replay.until("plots.size === 0")
    go(replay, 61)
    replay.until("document.querySelector('.caption').textContent === 'Lost. it fell over'")
    go(replay, 100)
    replay.until("plots.size === 0")


def test_a_recording_plays_to_its_end(replay):
    go(replay, 95)
    replay.ask("document.getElementById('speed').value = '16'")
    replay.click("#play")
    replay.until("document.getElementById('clock').textContent === '1:40 of 1:40'")
    replay.until("document.getElementById('play').textContent === 'Play'")


def test_a_recording_has_the_pipe_of_a_connection(replay):
    go(replay, 40)
    replay.until("bigPipe && bigPipe.plot.row.pending === 70000")
    label = "document.getElementById('pipe').getAttribute('aria-label')"
    replay.until(f"{label}.includes(' in our kernel, ') && {label}.endsWith('is closed')")
    # Drops stand still while the recording does.
    assert replay.ask("timePasses()") is False
    replay.click("#play")
    replay.until("timePasses()")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_exported_page_plays_from_a_file_without_any_request(browser, show, tmp_path, language):
    odd = {**sample(0)["connections"][0], "label": "</script><script>alert(1)</script>"}
    lines = [{**sample(index / 4), "connections": [odd]} for index in range(401)]
    path = written(tmp_path / "file", {**FIRST, "command": "<!-- <script>"}, *lines)
    assert main(["replay", path, "--export", str(tmp_path / "page.html")]) == 0
    page = show.load((tmp_path / "page.html").as_uri(), languages=language)
    page.until("document.title.startsWith('<!-- <script>')")
    page.until("plots.size === 1 && plots.get(1).scale")
    assert page.ask("document.documentElement.lang") == {"en": "en", "zh": "zh-CN"}[language]
    assert "script" in page.ask("document.querySelector('.pick').textContent")
    go(page, 95)
    page.ask("document.getElementById('speed').value = '16'")
    page.click("#play")
    end = {"en": "1:40 of 1:40", "zh": "1:40 / 1:40"}[language]
    page.until(f"document.getElementById('clock').textContent === '{end}'")
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert page.requests[0].endswith("/page.html")
    # The policy in the page forbids any request.
    page.may_fail = True
    assert page.ask("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    page.until("true")
    assert any("Content Security Policy" in error for error in page.errors)


def test_the_marks_of_a_recording_cannot_be_moved(replay):
    go(replay, 40)
    replay.until("plots.size === 1")
    replay.drag("#connections .mark.high", -20)
    assert rows(replay)[0]["high"] == 65536
    assert replay.ask("document.querySelector('.mark').getAttribute('aria-disabled')") == "true"
