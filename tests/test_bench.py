"""The comparison of engines: its arithmetic, its tables and picture, and small runs of it."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("resource")

from bench import __main__ as command
from bench import load, measure, network, page, report, workers, workloads
from bench.engines import ENGINES, from_checkout, minireactor_source, programs

ROOT = Path(__file__).resolve().parent.parent


def results(workload: str = "lines", **mains: list[float]) -> report.Results:
    """Return results: the cost of a workload for each engine, round by round.

    `_` in an engine's name stands for a dash."""
    mains = {name.replace("_", "-"): values for name, values in mains.items()}
    header = {
        "machine": "A processor, 2 cores, Linux 6.1",
        "python": "CPython 3.13.0",
        "engines": {
            name: {"title": name.title(), "version": "1.0", "nodelay": name != "twisted"}
            for name in mains
        },
        "network": "loopback",
        "mtu": None,
        "absent": {"uvloop": "not installed"},
        "high": 65536,
        "low": 16384,
        "backlog": 1024,
        "pinned": True,
        "quick": False,
        "unfinished": False,
        "rounds": max(len(values) for values in mains.values()),
    }
    runs = [
        {
            "round": n,
            "workload": workload,
            "engine": name,
            "figures": {"main": value, "rate": 1e6, "peak": 15.0, "bytes": 6e6},
        }
        for name, values in mains.items()
        for n, value in enumerate(values, 1)
    ]
    return report.Results(header, runs)


def test_a_spread_is_the_median_with_the_minimum_and_the_maximum():
    assert report.spread([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0)
    with pytest.raises(ValueError, match="no round"):
        report.spread([])


def test_a_ratio_is_the_median_of_ratios_taken_round_by_round():
    # given a machine that was twice as slow in the second round, for both
    found = results(minireactor=[1.0, 2.0, 1.0], twisted=[2.0, 4.0, 4.0])

    # then drift cancels out
    assert found.ratio("lines", "twisted") == (0.5, 0.25, 0.5)


def test_a_ratio_takes_only_rounds_that_both_have():
    found = results(minireactor=[1.0, 2.0], twisted=[4.0, 1.0])
    del found.runs[3]["figures"]
    found.runs[3]["error"] = "lost a byte"

    assert found.ratio("lines", "twisted") == (0.25, 0.25, 0.25)
    assert found.failures() == ["lines, twisted, round 2: lost a byte"]


def test_without_minireactor_there_are_no_ratios():
    found = results(twisted=[1.0], asyncio=[2.0])

    assert found.peers() == []
    assert "ratio" not in report.text(found)
    assert parsed(page.chart(found)) is not None


def test_the_text_has_the_first_line_a_table_and_the_summary():
    text = report.text(results(minireactor=[1.0], twisted=[2.0]))

    assert text.splitlines()[0] == (
        "A processor, 2 cores, Linux 6.1; CPython 3.13.0; Minireactor 1.0, Twisted 1.0; "
        "loopback; marks 64 and 16 KiB (Twisted has only the high one); 1 round"
    )
    assert re.search(r"^CPU +µs of CPU a line +min +max +ratio +min +max ", text, re.M)
    assert re.search(r"^Twisted +2\.00 +2\.00 +2\.00 +0\.50 +0\.50 +0\.50", text, re.M)
    assert re.search(r"^lines +0\.50$", text, re.M)
    assert "uvloop was left out: not installed" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0734, "0.073"), (1.234, "1.23"), (45.67, "45.7"), (71234.0, "71,234")],
)
def test_numbers_are_shown_with_three_digits(value, shown):
    assert report.number(value) == shown


def test_json_can_be_read_again(tmp_path):
    found = results(minireactor=[1.0], twisted=[2.0])
    path = tmp_path / "figures.json"
    path.write_text(report.as_json(found))

    assert report.load(path) == found
    assert json.loads(path.read_text())["ratios"]["lines"]["twisted"]["median"] == 0.5


def test_the_readme_block_is_replaced_and_nothing_else():
    begin, end = (mark.format("loopback") for mark in report.MARKS)
    other = "{}\nother\n{}\n".format(*(mark.format("veth") for mark in report.MARKS))
    readme = f"before\n{other}{begin}\nold\n{end}\nafter\n"
    found = results(minireactor=[1.0], twisted=[2.0])

    new = report.with_summary(readme, found)

    assert new.startswith(f"before\n{other}{begin}\nA processor")
    assert "| lines | 0.50 |\n\nA ratio is" in new
    assert new.endswith(f"\n{end}\nafter\n")
    assert "old" not in new
    assert report.with_summary(new, found) == new


@pytest.mark.parametrize("name", ["loopback", "veth"])
def test_our_own_readme_has_a_block_for_each_network(name):
    before, after = report.block((ROOT / "bench" / "README.md").read_text(encoding="utf-8"), name)
    assert before.rpartition("\n## ")[2].startswith(f"Results on {name}\n")
    assert after


def test_a_readme_without_a_block_is_refused():
    with pytest.raises(ValueError, match="no block from <!-- bench on veth: begin -->"):
        report.block("<!-- bench on loopback: begin --><!-- bench on loopback: end -->", "veth")


def test_an_earlier_run_needs_the_block_of_its_own_network(tmp_path, capsys):
    found = results(minireactor=[1.0], twisted=[2.0])
    found.header.update(network="veth", mtu=1500)
    path, readme = tmp_path / "figures.json", tmp_path / "README.md"
    path.write_text(report.as_json(found))
    readme.write_text("<!-- bench on loopback: begin -->\n<!-- bench on loopback: end -->\n")

    with pytest.raises(SystemExit):
        command.main(["--from", str(path), "--readme", str(readme)])

    assert "no block from <!-- bench on veth: begin -->" in capsys.readouterr().err


def test_a_file_that_json_has_not_written_is_refused(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text('{"header": {}, "runs": []}')

    with pytest.raises(ValueError, match="was not written by --json of this version"):
        report.load(path)


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)


def test_the_picture_is_well_formed_and_needs_nothing_from_elsewhere():
    document = page.chart(results(minireactor=[1.0, 1.5], twisted=[2.0, 90.0], raw=[0.1, 0.1]))

    for element in parsed(document).iter():
        assert not element.tag.endswith(("script", "link", "img", "iframe"))
        assert not {"src", "href"} & set(element.attrib)
    assert not re.search(r"url\(|@import", document)
    assert set(re.findall(r"https?://[^\"' <]+", document)) <= {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme" in document


def test_the_picture_escapes_what_it_shows():
    found = results(minireactor=[1.0], twisted=[2.0])
    found.header["machine"] = "<b>&"

    assert "&lt;b&gt;&amp;" in page.chart(found)


def test_a_scale_holds_its_ratios_and_1():
    scale = page.scale_of([report.Spread(0.07, 0.07, 0.07), report.Spread(3.0, 3.0, 3.0)])

    assert scale.ticks == (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    assert scale.at(0.05) == 0.0
    assert scale.at(500.0) == 1.0


def test_a_load_is_divided_without_loss():
    shares = workloads.shared({"connections": 10, "amount": 11, "size": 64}, 3)

    assert [share["connections"] for share in shares] == [4, 3, 3]
    assert sum(share["amount"] for share in shares) == 11
    assert {share["size"] for share in shares} == {64}


def test_every_workload_has_a_generator_that_takes_its_numbers():
    for workload in workloads.WORKLOADS:
        if workload.load:
            code = load.GENERATORS[workload.load.removeprefix(load.TLS)].__code__
            expected = set(code.co_varnames[: code.co_argcount]) - {"port", "listener"}
            assert set(workload.full) == set(workload.quick) == expected


def test_the_twisted_servers_become_minireactor_servers():
    source = (ROOT / "bench" / "engines" / "twisted_style.py").read_text()

    changed = minireactor_source(source)

    assert "from minireactor import reactor" in changed
    assert not re.search(r"^\s*(from|import) (twisted|zope)", changed, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "linse"], "no workload 'linse'; there are: integers, lines, "),
        (["--engines", "minireactor,nginx"], "no engine 'nginx'; there are: minireactor, "),
        (["--engines", ","], "no engine is named"),
        (
            ["--workload", "proxy", "--engines", "raw"],
            "proxy-churn: not for raw; --list shows the roles",
        ),
        (["--rounds", "0"], "'0' is not possible; give 1 or more"),
        (["--veth", "--workload", "proxy"], "--workload proxy: --veth measures servers, not"),
        (["--json", "/nowhere/at/all"], "cannot write '/nowhere/at/all'"),
        (["--against", "/nowhere"], "'/nowhere' has no package 'minireactor'; name a checkout's"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)

    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in printed
    assert printed.count("\n") == 1


def test_list_shows_workloads_and_engines(capsys):
    assert command.main(["--list"]) == 0

    printed = capsys.readouterr().out
    assert all(each.name in printed for each in (*workloads.WORKLOADS, *ENGINES))


def test_an_engine_that_is_not_installed_says_so():
    absent = ENGINES[0]._replace(package="no_such_package")
    command = ENGINES[0]._replace(program="no-such-program")

    assert measure.installed(absent) == "not installed"
    assert measure.installed(command).startswith("no ")


def test_the_beginning_of_names_selects_all_of_them_and_a_name_only_itself():
    found = command.chosen("workload", "proxy,timer", workloads.WORKLOADS)
    assert [workload.name for workload in found] == [
        *("timer", "proxy-1", "proxy-100", "proxy-echo", "proxy-churn")
    ]
    found = command.chosen("engine", "haproxy", ENGINES)
    assert [engine.name for engine in found] == ["haproxy"]


def test_proxies_and_servers_do_their_own_workloads_only():
    def doers(name):
        return {engine.name for engine in ENGINES if named(name).is_done_by(engine.name)}

    assert doers("echo-1") & {"socat", "haproxy", "haproxy-tuned", "minireactor-copy"} == set()
    assert doers("proxy-1") == {
        *("minireactor", "minireactor-copy", "twisted", "streams"),
        *("socat", "haproxy", "haproxy-tuned"),
    }


def test_proxies_have_a_table_of_their_own_and_a_row_for_copying():
    found = results(minireactor=[1.0], twisted=[2.0])
    proxies = results("proxy-1", minireactor=[1.0], minireactor_copy=[3.0], haproxy=[4.0])
    found.header["engines"].update(proxies.header["engines"])
    found.runs.extend(proxies.runs)

    assert (
        "| CPU, minireactor to | Twisted |\n"
        "|-|-:|\n"
        "| lines | 0.50 |\n"
        "\n"
        "| CPU, minireactor's proxy to | Minireactor-Copy | Haproxy |\n"
        "|-|-:|-:|\n"
        "| proxy-1 | 0.33 | 0.25 |\n"
        "| proxy-1, --copy | - | 0.75 |\n"
    ) in report.markdown(found)
    assert json.loads(report.as_json(found))["ratios"]["proxy-1, --copy"]["haproxy"]["low"] == 0.75
    assert parsed(page.chart(found)) is not None


def test_another_checkout_has_a_table_of_before_and_after():
    # given a round that was disturbed
    found = results(minireactor=[1.0, 1.1, 1.2], minireactor__base=[2.0, 2.2, 9.0])
    found = json.loads(json.dumps(found).replace("minireactor--base", "minireactor@base"))
    found = report.Results(*found)

    text = report.text(found)

    # then there are the medians, and the quartiles of the rounds' ratios
    assert re.search(r"^lines +1\.10 +2\.20 +0\.317 +0\.500 +0\.500$", text, re.M)
    assert parsed(page.chart(found)) is not None


def test_one_round_against_another_checkout_has_a_table_too():
    found = results(minireactor=[1.0], minireactor__base=[2.0])
    found = report.Results(
        *json.loads(json.dumps(found).replace("minireactor--base", "minireactor@base"))
    )

    assert re.search(r"^lines( +[0-9.]+){2}( +0\.500){3}$", report.text(found), re.M)


def merged(*parts: report.Results) -> report.Results:
    """Return the runs of several results in one, with the header of the first."""
    return report.Results(parts[0].header, [run for part in parts for run in part.runs])


def test_a_ratio_is_undecided_if_its_rounds_lie_on_both_sides_of_1():
    assert report.Spread(0.98, 0.90, 1.05).undecided
    assert report.Spread(1.03, 1.004, 1.08).undecided  # shown as 1.00
    assert not report.Spread(0.98, 0.90, 0.99).undecided
    assert not report.Spread(1.2, 1.1, 1.3).undecided


def test_one_round_is_not_undecided_but_the_text_says_that_it_has_no_spread():
    text = report.text(results(minireactor=[1.0], twisted=[1.0]))

    assert not report.Spread(1.0, 1.0, 1.0).undecided
    assert "One round has no spread" in text
    assert report.UNDECIDED not in text


def test_a_summary_shows_the_spread_and_marks_what_is_undecided():
    found = results(minireactor=[1.0, 1.0], twisted=[2.0, 4.0], asyncio=[0.8, 1.25])

    assert "| lines | 0.38 (0.25-0.50) | ~1.02 (0.80-1.25) |" in report.markdown(found)
    assert "With ~, the ratios of the rounds lie on both sides of 1" in report.markdown(found)


def test_undecided_ratios_are_grey_on_a_terminal_only():
    found = results(minireactor=[1.0, 1.0], twisted=[2.0, 4.0], asyncio=[0.8, 1.25])

    grey = report.text(found, grey=True)

    assert "\x1b" not in report.text(found)
    assert f"{report.GREY}~1.02 (0.80-1.25){report.PLAIN}" in grey
    assert grey.replace(report.GREY, "").replace(report.PLAIN, "") == report.text(found)
    assert all("~" in each for each in re.findall(r"\x1b\[90m(.*?)\x1b\[m", grey))


def test_undecided_ratios_are_grey_in_the_picture():
    decided = page.chart(results(minireactor=[1.0, 1.0], twisted=[2.0, 4.0]))
    undecided = page.chart(results(minireactor=[1.0, 1.0], twisted=[0.5, 4.0]))

    assert decided.count('class="undecided"') == 0
    assert undecided.count('class="undecided"') == 2  # the mark and its spread


def test_cpu_latency_and_memory_have_tables_of_their_own():
    found = merged(
        results("lines", minireactor=[1.0], twisted=[2.0]),
        results("timer", minireactor=[1.0], twisted=[4.0]),
        results("stalled", minireactor=[1.0], twisted=[8.0]),
    )

    heads = re.findall(
        r"^\| (\w+), minireactor to \|.*\n.*\n\| ([\w-]+) \|", report.markdown(found), re.M
    )

    assert heads == [("CPU", "lines"), ("latency", "timer"), ("memory", "stalled")]


def test_a_workload_has_a_table_for_each_kind_of_its_figures():
    found = results("echo-1", minireactor=[1.0], twisted=[2.0])
    for run in found.runs:
        run["figures"]["p99"] = 3.0
    workload = named("echo-1")

    tables = report.workload_tables(found, workload)

    assert [table[0][:2] for table in tables] == [
        ["CPU", "µs of CPU a message"],
        ["latency", "p99 ms"],
        ["memory", "peak MB"],
    ]
    assert tables[1][1] == ["Minireactor", "3.000", "3.000", "3.000"]


def test_a_quick_timer_shows_p50_because_it_fires_too_seldom_for_p99():
    assert named("timer").unit_in(quick=True) == "ms late, p50"
    assert named("timer").unit_in(quick=False) == "ms late, p99"
    assert named("timer").app_quick["firings"] < workloads.FEWEST_FOR_P99
    assert named("timer").app_full["firings"] >= workloads.FEWEST_FOR_P99
    assert named("lines").unit_in(quick=True) == named("lines").unit


def test_the_tables_say_which_engines_leave_tcp_nodelay_off():
    found = results(minireactor=[1.0], twisted=[2.0], raw=[1.0])

    for text in (report.text(found), report.markdown(found)):
        assert "TCP_NODELAY is off in Twisted by default, and on in the others" in text
    assert "TCP_NODELAY" not in report.text(results(minireactor=[1.0], raw=[1.0]))


def test_a_folder_without_the_package_is_no_checkout(tmp_path):
    with pytest.raises(ValueError, match="has no package 'minireactor'; name a checkout's folder"):
        from_checkout(tmp_path)


@pytest.mark.slow
def test_another_checkout_runs_its_own_package_with_the_same_programs(tmp_path, session):
    # given a checkout whose package says so, and has no bench
    package = tmp_path / "other" / "minireactor"
    shutil.copytree(ROOT / "minireactor", package)
    with (package / "__init__.py").open("a") as file:
        file.write("\nimport sys\nsys.stderr.write('the other one\\n')\n")
    other = from_checkout(package.parent)

    figures = named("lines").run(session, other, True)

    assert other.name == "minireactor@other"
    assert figures["cpu"] > 0
    assert session.complaints == ["the other one"]
    assert named("proxy-1").is_done_by(other.name)
    assert not named("bulk-out-pull").is_done_by("streams@other")


def test_haproxy_splices_only_when_it_is_tuned(tmp_path):
    plain = Path(programs.haproxy(tmp_path, 7000, 8000)[-1]).read_text()
    tuned = Path(programs.haproxy_tuned(tmp_path, 7001, 8000)[-1]).read_text()

    assert "splice" not in plain and "tune." not in plain
    added = set(tuned.splitlines()) - set(plain.splitlines())
    assert added == {"bind 127.0.0.1:7001 backlog 1024", *programs.TUNING}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def processes_of(pid: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(path.parent.name))
    return found


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="raw needs epoll")


@pytest.mark.slow
@needs_epoll
def test_a_small_run_counts_every_byte(tmp_path):
    path = tmp_path / "figures.json"
    with start(
        *("--quick", "--rounds", "1", "--workload", "lines", "--engines", "minireactor,raw"),
        *("--json", str(path)),
    ) as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert re.search(r"^lines +[0-9.]+$", out, re.M)
    figures = [run["figures"] for run in json.loads(path.read_text())["runs"]]
    greeting = len("how many random integers do you want?\r\n")
    assert [each["bytes"] for each in figures] == [50_000 * 6 + greeting] * 2
    assert all(each["main"] > 0 for each in figures)


@pytest.mark.slow
@needs_epoll
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
def test_ctrl_c_leaves_no_process():
    with start("--workload", "echo-100", "--engines", "minireactor") as process:
        children: set[int] = set()
        while len(children) < 2:  # a server and a load
            assert process.poll() is None
            children = processes_of(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert err.endswith("stopped\n")
    assert "Traceback" not in err + out
    assert not any(exists(pid) for pid in children)


def session_members(pid: int) -> set[int]:
    """Return the living processes of the sessions that children of `pid` have started."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            parent = Path(f"/proc/{fields[3]}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == pid and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("socat"), reason="socat is what forks")
def test_ctrl_c_leaves_no_process_that_a_proxy_has_forked():
    with start("--workload", "proxy-100", "--engines", "socat") as process:
        forked: set[int] = set()
        while len(forked) < 50:
            assert process.poll() is None
            forked = session_members(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in err + out
    deadline = time.monotonic() + 10
    while any(map(lives, forked)):
        assert time.monotonic() < deadline


# A veth pair between servers and clients.


def test_veth_without_the_program_ip_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(network.shutil, "which", lambda program: None)

    with pytest.raises(SystemExit) as ended:
        command.main(["--veth", "--workload", "lines", "--engines", "minireactor"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "python -m bench: --veth needs the program ip; install iproute2\n"
    )


def test_veth_without_root_is_one_line(monkeypatch, capsys):
    def refuse(name, *arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(network.shutil, "which", lambda program: program)
    monkeypatch.setattr(network.sys, "platform", "linux")
    monkeypatch.setattr(network, "THIS_NAMESPACE", os.devnull)
    monkeypatch.setattr(network, "_call", refuse)

    with pytest.raises(SystemExit) as ended:
        command.main(["--veth", "--workload", "lines", "--engines", "minireactor"])

    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "python -m bench: --veth needs root to make network namespaces (Operation not permitted)\n"
    )


def namespace_of(pid: int | str) -> str:
    """Return what names the network namespace of a process; "" if the process has gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


@pytest.fixture
def can_make_veth():
    try:
        with network.veth():
            pass
    except network.Unavailable as error:
        pytest.skip(str(error))


needs_veth = pytest.mark.usefixtures("can_make_veth")


@needs_veth
def test_a_veth_pair_joins_two_namespaces_with_ethernets_mtu():
    home = namespace_of("self")
    descriptors = os.listdir("/proc/self/fd")

    with network.veth() as net:
        with network.inside(net.server):
            server = namespace_of("thread-self")
            listener = socket.create_server((net.host, 0))
        with network.inside(net.clients), socket.socket() as client, listener:
            assert len({home, server, namespace_of("thread-self")}) == 3
            client.settimeout(10)
            client.bind((f"{net.sources}.77", 0))
            client.connect(listener.getsockname())
            segment = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    # then a segment fits into a packet, and nothing keeps the namespaces
    assert network.MTU - 100 < segment < network.MTU
    assert namespace_of("thread-self") == home
    assert os.listdir("/proc/self/fd") == descriptors


@needs_veth
def test_an_ip_that_fails_is_named_and_leaves_no_namespace(monkeypatch):
    descriptors = os.listdir("/proc/self/fd")
    monkeypatch.setattr(network, "CLIENT_COMMANDS", "link set no-such-link up")

    failure = pytest.raises(network.Unavailable, match="cannot make the veth pair: .*no-such-link")
    with failure, network.veth():
        pass

    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.slow
@needs_veth
def test_ctrl_c_with_veth_leaves_no_process_and_so_no_namespace():
    with start("--veth", "--workload", "echo-100", "--engines", "minireactor") as process:
        children: set[int] = set()
        while len({namespace_of(pid) for pid in children} - {namespace_of("self"), ""}) < 2:
            assert process.poll() is None
            children = processes_of(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert err.endswith("stopped\n")
    assert "Traceback" not in err + out
    assert not any(exists(pid) for pid in children)


@pytest.mark.slow
@needs_veth
def test_a_small_run_over_veth_says_so(tmp_path):
    path = tmp_path / "figures.json"
    with start(
        *("--veth", "--quick", "--rounds", "1", "--workload", "lines,start-up"),
        *("--engines", "minireactor,raw", "--json", str(path)),
    ) as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "; veth (MTU 1,500); " in out.splitlines()[0]
    assert len(json.loads(path.read_text())["runs"]) == 4


@pytest.fixture
def session():
    session = measure.Session(timeout=20)
    yield session
    session.close()


def named(name: str) -> workloads.Workload:
    return next(workload for workload in workloads.WORKLOADS if workload.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["proxy-echo", "proxy-churn"])
def test_a_proxy_between_a_load_and_itself(name, session):
    figures = named(name).run(session, ENGINES[0], True)

    assert figures["bytes"] == 64 * named(name).quick["amount"]
    assert figures["cpu"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("socat"), reason="socat is what forks")
def test_a_forked_process_counts_also_when_it_has_ended(session):
    socat = next(engine for engine in ENGINES if engine.name == "socat")
    with measure.proxy(session, socat) as proxy:
        # given a process that has passed on a lot
        before = proxy.cpu()
        way = load.way(proxy.port, proxy.target)
        load._pass([way], load._pattern(), 100_000_000, 1)
        while_it_lives = proxy.cpu()
        forked = max(proxy.pids())

        # when it has ended
        for end in way:
            end.close()
        while forked in proxy.pids():
            assert time.monotonic() < proxy.deadline

        # then its CPU is still there, to the tick
        assert while_it_lives > before
        assert proxy.cpu() - before > (while_it_lives - before) / 2


PROXY_THAT_FAILS = """
import socket, time
from bench.engines import serving

def main():
    _, numbers = serving.arguments()
    listener = socket.create_server(("127.0.0.1", numbers["port"]))
    serving.ready(numbers["port"])
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", numbers["target"]))
    near.recv(64)
    far.send(b"something else")
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_proxy_that_passes_on_something_else_fails(session):
    (session.folder / "failing.py").write_text(PROXY_THAT_FAILS)
    failing = ENGINES[0]._replace(proxy="import failing; failing.main()")

    with pytest.raises(measure.RunFailed, match="passes on other bytes than it receives"):
        named("proxy-1").run(session, failing, True)
    assert not session.children


@pytest.mark.skipif(not shutil.which("timeout"), reason="programs are started by timeout")
def test_a_program_that_does_not_start_fails(session):
    failing = ENGINES[0]._replace(command=lambda folder, port, target: ["false"])

    with pytest.raises(measure.RunFailed, match="ended too early"):
        named("proxy-1").run(session, failing, True)
    assert not session.children


def test_a_reserved_port_is_given_only_to_a_socket_that_asks_for_it():
    with measure._reserved_port() as port:
        with pytest.raises(OSError), socket.socket() as other:
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)) as wanted:
            assert wanted.getsockname()[1] == port


# A load notices when a proxy passes on other bytes.


@contextmanager
def way_through(alter: Callable[[bytes], bytes]) -> Iterator[load.Way]:
    """Yield a Way on which all bytes pass through `alter`."""
    near, out = socket.socketpair()
    into, far = socket.socketpair()

    def pass_on() -> None:
        with out, into:
            try:
                while data := into.recv(65_536):
                    out.sendall(alter(data))
            except OSError:
                pass  # the load has noticed, and closed its end

    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        with near, far:
            yield load.Way(near, far)
    finally:
        thread.join()


AMOUNT = 5_000_000


def test_all_that_is_passed_on_is_counted():
    with way_through(bytes) as way:
        assert load._pass([way], load._pattern(), AMOUNT, 1) == AMOUNT


def altered_once(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a function that applies `change` to the one chunk in the middle of AMOUNT."""
    seen = 0

    def alter(data: bytes) -> bytes:
        nonlocal seen
        before, seen = seen, seen + len(data)
        return change(data) if before < AMOUNT // 2 <= seen else data

    return alter


def test_a_warm_up_finds_a_byte_that_is_changed():
    changed = altered_once(lambda data: bytes([data[0] ^ 1]) + data[1:])
    with way_through(changed) as way, pytest.raises(load.Wrong, match="not what was sent"):
        load._pass([way], load._pattern(), AMOUNT, 1)


def test_the_reads_that_are_compared_find_a_byte_that_was_repeated_before_them():
    repeated = altered_once(lambda data: data[:1] + data)
    with way_through(repeated) as way, pytest.raises(load.Wrong, match="not what was sent"):
        load._pass([way], load._pattern(), AMOUNT, 4)


def greedily(session, engine, **numbers):
    """Return the figures of a small run of the workload `greedy`."""
    wanted = {"connections": 1, "clients": 2, "amount": 100, "limit": 20, **numbers}
    return named("greedy")._replace(quick=wanted).run(session, engine, True)


@pytest.mark.parametrize(
    "name",
    [
        "minireactor",
        "raw",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("asyncio", "streams", "twisted", "uvloop")
        ),
    ],
)
def test_new_clients_are_served_beside_greedy_ones_and_the_timers_lateness_is_known(name, session):
    engine = next(engine for engine in ENGINES if engine.name == name)
    if measure.installed(engine):
        pytest.skip(f"{name}: {measure.installed(engine)}")

    figures = greedily(session, engine)

    assert figures["unserved"] == 0
    assert figures["bytes"] > 2 * (100 * 3 + len(b"how many random integers do you want?\r\n"))
    assert 0 < figures["p50"] <= figures["main"] < 20e3
    assert 0 < figures["late"] < 20e3
    assert not session.complaints


@pytest.mark.slow
def test_a_new_client_that_is_never_served_counts_as_waiting_until_the_limit(session):
    # given a server that does nothing, and whose timer never fires
    (session.folder / "hanging.py").write_text(
        "import socket, time\n"
        "from bench.engines import serving\n"
        "def main():\n"
        "    serving.arguments()\n"
        "    listener = socket.create_server(('127.0.0.1', 0))\n"
        "    lateness = serving.Lateness()\n"
        "    serving.ready(listener.getsockname()[1])\n"
        "    while True:\n"
        "        time.sleep(60)\n"
    )
    hanging = ENGINES[0]._replace(server="import hanging; hanging.main()")

    figures = greedily(session, hanging, limit=0.1)

    assert figures["unserved"] == 2
    assert figures["bytes"] == 0
    assert figures["main"] >= 99
    assert figures["late"] >= 99 - 10


@pytest.mark.slow
def test_without_a_cpu_clock_the_cpu_is_taken_at_the_servers_end(monkeypatch, session):
    monkeypatch.setattr(measure, "cpu_clock", lambda pid: None)

    figures = named("lines").run(session, ENGINES[0], True)

    assert 0 < figures["cpu"] < 20


@pytest.mark.slow
def test_a_run_that_loses_a_byte_fails(session):
    # given a server that sends back less than it gets
    short = ENGINES[0]._replace(server="import short; short.main()")
    (session.folder / "short.py").write_text(
        "import socket\n"
        "from bench.engines import serving\n"
        "def main():\n"
        "    serving.arguments()\n"
        "    listener = socket.create_server(('127.0.0.1', 0))\n"
        "    serving.ready(listener.getsockname()[1])\n"
        "    sock, _ = listener.accept()\n"
        "    sock.send(sock.recv(64)[:-1])\n"
    )

    # then the run does not count, and nobody is left
    with pytest.raises(measure.RunFailed, match="sent 64 bytes, 63 other"):
        named("echo-1").run(session, short, True)
    assert not session.children


def test_a_run_gives_the_signals_back():
    before = signal.getsignal(signal.SIGTERM)
    with measure.signals.taken():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_capacity_of_workers_counts_the_busiest_one():
    one = workers.Result(800, 1.0, [0.8])
    two = workers.Result(800, 0.8, [0.5, 0.3, 0.1])
    assert workers.row("echo", [(one, two)]) == (
        "echo",
        "1.60 (1.60-1.60)",
        "1.25 (1.25-1.25)",
        "1,000",
        "62%",
        "1.12 (1.12-1.12)",
    )


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.skipif(sys.platform != "linux", reason="needs the CPU clock of other processes")
def test_a_small_run_of_the_workers_prints_a_row_for_each_load(capsys):
    workers.main(["--rounds", "1", "--bursts", "1"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split(" | ")[0].lstrip("| ") for line in lines[3:]]
    assert titles == [title for title, *_ in workers.LOADS]
