"""The commands of the views: trace, demo and replay, and the options of `serve` and `proxy`."""

from __future__ import annotations

import json
import re
import socket
import urllib.request

import pytest
from serve_support import Command, read_line
from test_record import HEAD, sample, written

from minireactor.cli.commands import main
from minireactor.view.record import read


@pytest.fixture
def command(tmp_path, closing):
    """command(*arguments) starts a Command in an empty directory. It ends with the test."""
    return lambda *arguments: closing(Command(*arguments, cwd=tmp_path))


@pytest.fixture
def recording(tmp_path):
    return written(str(tmp_path / "some.jsonl"), HEAD, sample())


# Usage errors.


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        ("serve --metrics", "argument --metrics: expected one argument"),
        ("serve --metrics http", "argument --metrics: 'http' is not valid: give PORT, HOST:PORT"),
        ("serve --metrics 65536", "argument --metrics: '65536' is not valid"),
        ("proxy 0 1 --metrics http://x:1/", "argument --metrics: 'http://x:1/' is not valid"),
        ("serve --port 0 --metrics 192.0.2.1:0", "--metrics: Cannot listen on 192.0.2.1:0"),
        ("serve --record", "argument --record: expected one argument"),
        ("serve --port 0 --record no/such", "--record no/such: No such file or directory"),
        ("proxy 0 1 --record .", "minireactor proxy: --record .: Is a directory"),
        ("serve --port 0 --record=", "--record : No such file or directory"),
        ("trace", "minireactor trace: the following arguments are required: FILE"),
        ("trace no-such", "minireactor trace: no-such: No such file or directory"),
        ("trace .", "minireactor trace: .: Is a directory"),
        ("trace /dev/null", "/dev/null, line 1: no JSON object"),
        ("trace a -x", "unrecognized arguments: -x"),
    ],
)
def test_a_usage_error_is_one_line_with_status_2(command, arguments, message):
    status, output, errors = command(*arguments.split()).end()

    assert status == 2
    assert output == ""
    assert errors.startswith("minireactor")
    assert errors.count("\n") == 1
    assert message in errors


# Metrics and recordings.


def test_metrics_are_served_at_the_printed_address(command, closing):
    process = command("serve", "echo", "--port", "0", "--metrics", "0")
    process.listening()
    line = process.line()
    address = re.fullmatch(r"minireactor: metrics on (http://127\.0\.0\.1:\d+/metrics)", line)[1]
    client = closing(process.connect())
    client.sendall(b"hello\n")
    assert read_line(client) == b"hello\n"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    assert "\nminireactor_connections_total 1\n" in text
    assert "\nminireactor_received_bytes_total 6\n" in text
    process.terminate()
    client.close()
    status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert output.startswith("minireactor: connections 1, bytes in 6, bytes out 6")


@pytest.mark.slow
def test_metrics_listen_on_the_given_host(command):
    process = command("serve", "--port", "0", "--metrics", "[::1]:0")
    if not _has_ipv6():
        assert process.end()[0] == 2
        return
    process.listening()
    assert re.search(r"http://\[::1\]:\d+/metrics", process.line())


def _has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.slow
def test_a_recording_of_a_proxy_labels_each_connection_with_its_other_end(
    command, closing, tmp_path
):
    target = closing(socket.create_server(("127.0.0.1", 0)))
    number = target.getsockname()[1]
    process = command("proxy", "0", str(number), "--record", "it's.jsonl")
    process.port = int(re.search(r"127.0.0.1:(\d+), to", process.line())[1])
    assert process.line() == "minireactor: recording to it's.jsonl"
    client = closing(process.connect())
    other = closing(target.accept()[0])
    client.sendall(b"hello\n")
    assert read_line(other) == b"hello\n"
    client.close()
    other.close()
    process.line_with("6 bytes up")
    process.terminate()
    assert process.end()[0] == 0
    first, *lines = read(str(tmp_path / "it's.jsonl"))
    assert first["command"] == f"""minireactor proxy 0 {number} --record 'it'"'"'s.jsonl'"""
    events = [line["event"] for line in lines if line["type"] == "event"]
    assert sorted(events) == ["connect", "connect", "lost", "lost"]
    labels = {
        row["label"] for line in lines if line["type"] == "sample" for row in line["connections"]
    }
    assert labels & {f"-> 127.0.0.1:{number}", f"<- 127.0.0.1:{client_port(lines)}"}
    assert lines[-1]["type"] == "sample"
    assert lines[-1]["totals"]["in"] == 6


def client_port(lines):
    event = next(line for line in lines if line.get("event") == "connect")
    return event["peer"].rpartition(":")[2]


@pytest.mark.slow
def test_a_recording_that_ends_early_does_not_end_the_server(command, closing):
    process = command("serve", "echo", "--port", "0", "--record", "/dev/full")
    process.listening()
    assert "/dev/full ends here" in process.error_line()
    client = closing(process.connect())
    client.sendall(b"hello\n")
    assert read_line(client) == b"hello\n"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--metrics", "--dashboard"])
def test_an_error_of_another_option_does_not_empty_the_recording(command, recording, option):
    lines = list(read(recording))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = command("serve", "--port", "0", "--record", recording, option, port)
        status, _, errors = process.end()
    assert status == 2
    assert f"{option}: Cannot listen on 127.0.0.1:{port}" in errors
    assert errors.endswith("; give another port, or stop what listens there\n")
    assert list(read(recording)) == lines


# Traces.


def test_a_trace_is_written_beside_its_recording(recording, tmp_path, capsys):
    assert main(["trace", recording]) == 0
    trace = tmp_path / "some.trace.json"
    found = json.loads(trace.read_text())
    output, errors = capsys.readouterr()
    assert errors == ""
    count = len(found["traceEvents"])
    assert output == (
        f"minireactor: wrote {count} events to {trace}; open it at https://ui.perfetto.dev\n"
    )


def test_a_trace_is_written_to_the_given_file_or_stdout(recording, tmp_path, capsys):
    assert main(["trace", recording, "-o", str(tmp_path / "other")]) == 0
    assert json.loads((tmp_path / "other").read_text())["traceEvents"]
    capsys.readouterr()
    assert main(["trace", recording, "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["traceEvents"]


def test_a_recording_is_exported_as_one_page(recording, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["replay", recording, "--export", str(page)]) == 0
    output, errors = capsys.readouterr()
    assert (output, errors) == (
        f"minireactor: wrote {page}; open it in a browser, it needs no server\n",
        "",
    )
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', text, re.S)
    assert [json.loads(line)["type"] for line in found[1].splitlines()] == ["recording", "sample"]
    assert "default-src 'none'" in text
    assert "connect-src" not in text


@pytest.mark.parametrize(
    "out, message", [(None, "is the recording itself"), ("no/such", "no/such: No such file")]
)
def test_an_export_that_cannot_be_written_is_an_error_of_one_line(recording, out, message, capsys):
    before = list(read(recording))
    assert main(["replay", recording, "--export", out or recording]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert list(read(recording)) == before


def test_a_damaged_recording_leaves_the_file_of_an_export_as_it_was(recording, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("before")
    with open(recording, "a") as file:
        file.write("damage\n")
    assert main(["replay", recording, "--export", str(page)]) == 2
    assert "line 3: no JSON object" in capsys.readouterr().err
    assert page.read_text() == "before"


def test_a_trace_does_not_overwrite_its_recording(recording, capsys):
    assert main(["trace", recording, "-o", recording]) == 2
    assert "is the recording itself" in capsys.readouterr().err
    assert len(list(read(recording))) == 2


def test_a_damaged_recording_leaves_no_trace_file(recording, tmp_path, capsys):
    with open(recording, "a") as file:
        file.write("damage\n")
    assert main(["trace", recording]) == 2
    assert capsys.readouterr().err == (
        f"minireactor trace: {recording}, line 3: no JSON object: 'damage'\n"
    )
    assert not (tmp_path / "some.trace.json").exists()


def test_a_trace_that_cannot_be_written_is_an_error_of_one_line(recording, capsys):
    assert main(["trace", recording, "-o", "/no/such"]) == 2
    assert capsys.readouterr().err == "minireactor trace: /no/such: No such file or directory\n"


def test_a_trace_with_an_empty_name_is_an_error(recording, tmp_path, capsys):
    assert main(["trace", recording, "-o", ""]) == 2
    assert capsys.readouterr().err == "minireactor trace: : No such file or directory\n"
    assert [path.name for path in tmp_path.iterdir()] == ["some.jsonl"]


def test_a_trace_for_a_closed_standard_output_is_no_error(recording, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["trace", recording, "-o", "-"]) == 0
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_an_error_of_one_line(recording, capsys):
    assert main(["trace", recording, "-o", "/dev/full"]) == 2
    assert capsys.readouterr().err.startswith("minireactor trace: /dev/full: No space left")


@pytest.mark.slow
def test_a_reader_that_closes_its_pipe_early_is_no_error(command, tmp_path):
    lines = [sample(time=float(n)) for n in range(20_000)]
    written(str(tmp_path / "long.jsonl"), HEAD, *lines)
    process = command("trace", "long.jsonl", "-o", "-")
    process.line()
    process.close_stdout()
    assert process.end_without_output() == (0, "")
