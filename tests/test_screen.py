"""The picture of `--watch`: lines of text, made from samples."""

from __future__ import annotations

import random
import re

import pytest

from minireactor.view.terminal.screen import HISTORY, INTERVAL, Options, amount, draw, plain


def row(number=1, **changes):
    return {
        "id": number,
        "peer": f"127.0.0.1:{40_000 + number}",
        "label": "Random",
        "state": "open",
        "producer": "flowing",
        "pending": 0,
        "high": 60_000,
        "low": 15_000,
        "in": 0,
        "out": 0,
        "pauses": 0,
        "paused": 0.0,
        "sendq": 0,
        "recvq": 0,
        **changes,
    }


def sample(*rows, time=0.0, rest=None, connections=None, **totals):
    count = len(rows) if connections is None else connections
    return {
        "type": "sample",
        "time": time,
        "lag": 0.0,
        "memory": None,
        "totals": {
            "connections": count,
            "open": len(rows),
            "in": 0,
            "out": 0,
            "pauses": 0,
            "highest_pending": 0,
            "paused": 0.0,
            "paused_now": 0,
            **totals,
        },
        "connections": list(rows),
        "rest": rest,
    }


def series(*moments, **changes):
    """Return samples at the usual interval, one for each list of rows."""
    return [sample(*rows, time=n * INTERVAL, **changes) for n, rows in enumerate(moments)]


def drawn(samples, size=(120, 24), **options):
    chosen = Options("serve echo", "no connection yet")
    for name, value in options.items():
        setattr(chosen, name, value)
    return draw(samples, size, chosen)


def line_with(lines, text):
    (found,) = [line for line in lines if text in line]
    return found


def cells_under(lines, heading, of):
    """Return the text of the row with `of` below a heading, which must be aligned to the left."""
    head = next(line for line in lines if "PEER" in line)
    start = head.index(heading)
    width = len(re.match(r"\S+(?: \S+)* *", head[start:])[0])
    return line_with(lines, of)[start : start + width].strip()


def bar(pending, low=15_000, high=60_000, size=(120, 24), **options):
    one = row(pending=pending, low=low, high=high)
    line = line_with(drawn([sample(one)], size, **options), "127.0.0.1")
    return re.search(r"\[(.*)\]", line)[1]


# Numbers.


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (1024, "1.0K"),
        (65536, "64.0K"),
        (131072, "128K"),
        (1023 * 1024, "1.0M"),
        (5 * 1024**3, "5.0G"),
        (12.7, "13"),
        (5 * 1024**6, "5.0E"),
        (5 * 1024**7, "5120E"),
    ],
)
def test_an_amount_has_at_most_five_characters(number, text):
    assert amount(number) == text


# The picture as a whole.


def test_the_picture_has_title_summary_headings_rows_and_keys():
    now = sample(row(), row(2), **{"in": 2048, "out": 4096, "pauses": 7, "highest_pending": 999})
    lines = drawn([now])
    assert lines[0].startswith("serve echo  ")
    assert lines[0].endswith("lag 0.0 ms  0:00:00")
    assert lines[1] == "open 2 of 2  paused 0  in 2.0K  out 4.0K  pauses 7  highest pending 999"
    assert lines[2].split()[:3] == ["#", "PEER", "STATE"]
    assert lines[3].startswith("1  127.0.0.1:40001  flowing")
    assert lines[4].startswith("2  127.0.0.1:40002  flowing")
    assert lines[-1] == "q quit  f freeze  s order: busiest"


def test_memory_is_shown_where_it_is_known():
    assert "memory" not in drawn([sample()])[0]
    assert " 18.0M memory " in drawn([{**sample(), "memory": 18 << 20}])[0]


def test_the_hint_is_shown_while_there_is_no_connection():
    assert "no connection yet" in drawn([sample()])
    assert "no connection yet" not in drawn([sample(row())])


def test_the_total_rate_is_measured_over_the_last_second():
    samples = [sample(time=n / 4, out=n * 256, **{"in": n * 256}) for n in range(9)]
    assert "(2.0K/s)" in drawn(samples)[1]


def test_the_last_line_shows_the_order_and_frozen_and_stopping():
    assert drawn([sample()], order="rate")[-1].endswith("order: rate")
    assert drawn([sample()], frozen=True)[-1].startswith("FROZEN  q quit  f go on")
    assert drawn([sample()], stopping=True)[-1].startswith("stopping: ")


def test_the_latest_notes_are_at_the_bottom():
    lines = drawn([sample()], notes=[f"note {n}" for n in range(100)])
    assert lines[-5:-1] == ["note 96", "note 97", "note 98", "note 99"]


@pytest.mark.parametrize("size", [(120, 30), (80, 24), (60, 10), (40, 8), (20, 5), (9, 3), (1, 1)])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_picture_has_the_size_of_the_window(size, unicode):
    rows = [row(n, pending=n * 10_000, label=f"-> {n}") for n in range(1, 41)]
    rows.append(row(99, state="closed"))
    lines = drawn(
        series(rows, rows, rows), size, unicode=unicode, notes=["a very long note " * 20] * 10
    )
    assert len(lines) == size[1]
    assert max(map(len, lines)) <= size[0]
    assert unicode or all(line.isascii() for line in lines)


@pytest.mark.slow
def test_random_samples_give_printable_pictures_of_the_right_size():
    chance = random.Random(1)

    def any_row(number):
        high = chance.choice([1, 2, 100, 65536, 1 << 40])
        return row(
            number,
            peer=chance.choice(["[2001:db8::1234:5678]:65535", "1.2.3.4:1", ""]),
            label=chance.choice(["", "Echo", "名前" * 20, "a\x1b[31mb\nc"]),
            state=chance.choice(["open", "closing", "ending", "closed"]),
            producer=chance.choice(["none", "flowing", "paused", "pull", "closed"]),
            pending=chance.choice([0, 1, high, 10 * high]),
            high=high,
            low=chance.randrange(high),
            out=chance.choice([0, 1, 1 << 50]),
            sendq=chance.choice([None, 0, 1 << 30]),
        )

    for _ in range(300):
        samples = [
            sample(*(any_row(n) for n in chance.sample(range(1, 50), chance.randrange(12))), time=t)
            for t in range(chance.randrange(1, HISTORY))
        ]
        size = chance.randrange(1, 150), chance.randrange(1, 40)
        lines = drawn(samples, size, colours=chance.random() < 0.5)
        assert len(lines) == size[1]
        for line in lines:
            text = re.sub("\x1b\\[[0-9;]*m", "", line)
            assert text.isprintable()
            assert len(text) + sum(character in "名前" for character in text) <= size[0]


def test_wide_characters_count_as_two_columns():
    lines = drawn([sample(row(label="名前" * 4), row(2))], (120, 10))
    one, other = (line_with(lines, peer) for peer in (":40001", ":40002"))
    assert other.index("flowing") - one.index("flowing") == 8


def test_combining_characters_count_as_no_column():
    lines = drawn([sample(row(label="e\u0301" * 8), row(2, label="e" * 8))], (120, 10))
    one, other = (line_with(lines, peer) for peer in (":40001", ":40002"))
    assert one.index("flowing") - other.index("flowing") == 8


def test_unprintable_characters_are_shown_as_escapes():
    lines = drawn([sample(row(label="\x1b]0;x\x07"), row(2))], notes=["\x1b[2Jbang\t\x00"])
    assert "\\x1b]0;x\\x07" in line_with(lines, ":40001")
    assert "\\x1b[2Jbang\\t\\x00" in lines


# Colours.


def test_without_colours_there_is_no_escape_sequence():
    samples = series([row(producer="paused", pending=70_000)], [row(), row(2, state="closed")])
    assert "\x1b" not in "".join(drawn(samples))


def test_colours_change_nothing_but_the_colour():
    samples = series([row(producer="paused", pending=70_000)], [row(), row(2, state="closed")])
    coloured = drawn(samples, colours=True)
    assert "\x1b[" in "".join(coloured)
    bare = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in coloured]
    assert bare == drawn(samples)
    assert all(line.endswith("\x1b[0m") or "\x1b" not in line[-4:] for line in coloured)


def test_a_paused_producer_is_bold_and_red():
    assert "\x1b[1;31mpaused" in "".join(drawn([sample(row(producer="paused"))], colours=True))


# Rows.


@pytest.mark.parametrize(
    "state, producer, word",
    [
        ("open", "none", "open"),
        ("open", "flowing", "flowing"),
        ("open", "paused", "paused"),
        ("open", "pull", "pull"),
        ("open", "closed", "open"),
        ("closing", "flowing", "closing"),
        ("ending", "paused", "ending"),
        ("closed", "closed", "closed"),
    ],
)
def test_the_state_is_one_word(state, producer, word):
    lines = drawn([sample(row(state=state, producer=producer))])
    assert cells_under(lines, "STATE", "127.0.0.1").split()[0] == word


def test_a_bar_is_filled_by_pending_against_a_scale_of_one_and_a_half_times_high():
    assert bar(0).replace("┊", " ").replace("│", " ").strip() == ""
    width = len(bar(0))
    assert bar(45_000).count("█") == width // 2 - 1  # the low mark stands in it
    assert bar(90_000).count("█") == width - 2


def test_both_marks_are_visible_wherever_pending_is():
    for pending in range(0, 200_000, 1000):
        found = bar(pending)
        assert found.index("┊") == len(found) * 15 // 90
        assert found.index("│") == len(found) * 60 // 90


@pytest.mark.parametrize("low, high", [(0, 1), (0, 65536), (65535, 65536), (1, 1 << 40)])
def test_marks_that_are_close_do_not_hide_each_other(low, high):
    found = bar(0, low=low, high=high)
    assert found.index("┊") < found.index("│")


def test_a_bar_that_is_exceeded_ends_with_an_arrow():
    assert bar(90_000)[-1] == "█"
    assert bar(90_001)[-1] == "»"
    assert bar(90_001, unicode=False)[-1] == ">"


def test_a_part_of_a_cell_is_drawn_with_unicode_only():
    cell = 90_000 / len(bar(0))
    assert bar(cell * 1.5)[1] == "▌"
    assert bar(cell * 1.5, unicode=False)[1] == " "


def test_a_row_shows_its_figures():
    one = row(pending=20_480, sendq=3 << 20, pauses=12)
    lines = drawn([sample(one)])
    assert line_with(lines, "127.0.0.1").split("]")[1].split() == ["20.0K", "3.0M", "-", "12"]


def test_an_unknown_kernel_queue_is_a_dash():
    lines = drawn([sample(row(sendq=None))])
    assert line_with(lines, "127.0.0.1").split("]")[1].split()[1] == "-"


def rate(samples):
    return line_with(drawn(samples), "127.0.0.1").split()[-2]


def test_the_rate_of_a_row_is_measured_over_the_last_second():
    moments = [[row(out=n * 128, **{"in": n * 128})] for n in range(9)]
    assert rate(series(*moments)) == "1.0K"
    moments += [[row(out=8 * 128, **{"in": 8 * 128})]] * 4
    assert rate(series(*moments)) == "0"


def test_a_new_connection_has_a_rate_and_an_old_one_without_an_earlier_row_has_none():
    new = [sample(time=0.0), sample(row(out=256), time=0.25)]
    assert rate(new) == "1.0K"
    old = [sample(time=0.0, connections=1), sample(row(out=256), time=0.25)]
    assert rate(old) == "-"


def spark(*moved):
    total, moments = 0, []
    for number in moved:
        total += number
        moments.append([row(out=total)])
    line = line_with(drawn(series(*moments)), "127.0.0.1")
    return re.search("[▁▂▃▄▅▆▇█ ]*[▁▂▃▄▅▆▇█]", line.split("]")[1])[0].strip()


def test_a_sparkline_shows_the_bytes_moved_between_samples():
    assert spark(0, 1, 4, 7, 0) == "▂▅█▁"


def test_a_sparkline_is_blank_until_the_first_byte_has_moved():
    assert spark(0, 0, 0, 7, 0, 7) == "█▁█"


def test_the_heading_of_the_sparklines_names_their_duration():
    lines = drawn(series([row()], [row()]))
    heading = re.search(r"LAST (\d+) s *", next(line for line in lines if "PEER" in line))
    assert len(heading[0].rstrip()) >= 8
    assert int(heading[1]) in (2, 3, 4, 5, 6, 7, 8, 9, 10)


def test_labels_are_shown_only_if_they_differ():
    assert "LABEL" not in "".join(drawn([sample(row(), row(2))]))
    lines = drawn([sample(row(label="-> a"), row(2, label="<- b"))])
    assert "LABEL" in "".join(lines)
    assert "-> a" in line_with(lines, ":40001")


def test_what_matters_least_is_left_out_first_in_a_narrow_window():
    found = {}
    rows = [row(label="one"), row(2, label="two")]
    for width in range(130, 10, -1):
        for name in ("#", "LAST", "PAUSES", "LABEL", "KERNEL", "RATE", "PENDING", "low", "STATE"):
            if name in drawn([sample(*rows)], (width, 10))[2]:
                found[name] = width
    assert sorted(found, key=found.get, reverse=True) == [
        *("#", "LAST", "PAUSES", "LABEL", "KERNEL", "RATE", "PENDING", "low", "STATE")
    ]
    assert "127.0.0.1:4" in drawn([sample(*rows)], (12, 10))[3]


def test_on_eighty_columns_nothing_is_missing_but_a_label():
    lines = drawn(series([row()], [row()]), (80, 24))
    for name in ("#", "PEER", "STATE", "low", "high", "PENDING", "KERNEL", "LAST", "RATE/s"):
        assert name in lines[2]
    assert lines[2].endswith("PAUSES")


# Many connections, and ended ones.


def test_the_rest_is_one_line():
    rest = {"count": 950, "pending": 1 << 20, "in": 2 << 20, "out": 3 << 30, "pauses": 12_345}
    lines = drawn([sample(row(), rest=rest)])
    assert "and 950 more: pending 1.0M, in 2.0M, out 3.0G, pauses 12345" in lines


def test_rows_that_do_not_fit_count_in_the_rest():
    rest = {"count": 950, "pending": 5, "in": 0, "out": 0, "pauses": 0}
    rows = [row(n, pending=10, pauses=1) for n in range(1, 51)]
    lines = drawn([sample(*rows, rest=rest)], (120, 10))
    shown = sum("127.0.0.1" in line for line in lines)
    assert shown == 5
    left_out = 50 - shown
    expected = f"and {950 + left_out} more: pending {5 + 10 * left_out}, in 0, out 0, "
    assert line_with(lines, "more").startswith(f"{expected}pauses {left_out}")


def test_there_is_no_rest_if_all_rows_fit():
    lines = drawn([sample(*(row(n) for n in range(1, 7)))], (120, 10))
    assert sum("127.0.0.1" in line for line in lines) == 6
    assert "more" not in "".join(lines)


def test_an_ended_connection_is_shown_for_a_moment_after_the_others():
    ended = row(1, state="closed", producer="closed")
    samples = series([row(1)], [ended], [row(2)], [row(2)])
    lines = drawn(samples)
    assert [line.split()[2] for line in lines if "127.0.0.1" in line] == ["flowing", "closed"]
    later = [*samples, *series(*[[row(2)]] * 20)[5:]]
    assert "closed" not in "".join(drawn(later))


def test_ended_connections_get_only_the_lines_that_open_ones_leave():
    ended = [row(n, state="closed") for n in range(1, 20)]
    lines = drawn(series(ended, [row(n) for n in range(21, 26)]), (120, 10))
    assert sum("closed" in line for line in lines) == 1
    assert sum("flowing" in line for line in lines) == 5


# The line without a terminal.


def test_a_plain_line():
    samples = [
        sample(time=0.0),
        sample(row(producer="paused", pending=70_000), time=12.2, out=12_493, paused_now=1),
    ]
    assert plain(samples) == (
        "12 s: open 1 of 1, paused 1, in 0, out 12.2K (1.0K/s), pauses 0, highest pending 0, "
        "lag 0.0 ms; busiest 127.0.0.1:40001: paused, pending 68.4K"
    )


def test_a_plain_line_without_connections():
    assert plain([sample(time=3.0)]).endswith("highest pending 0, lag 0.0 ms")


# Narrow terminals.

BUSY = {
    "in": 33,
    "out": 826 << 20,
    "pauses": 13139,
    "highest_pending": 71_782,
    "paused_now": 3,
}


def busy(width):
    """The lines of a picture whose fields together take more than 80 columns."""
    rest = {"count": 988, "pending": 71_782, "in": 70_000, "out": 70_000_000, "pauses": 1234}
    last = sample(row(unsent=131072), time=11.0, rest=rest, connections=4, **BUSY)
    last["memory"] = 20_761_805
    first = {**last, "time": 10.0, "totals": {**last["totals"], "out": 742 << 20}}
    title = "random listening on 127.0.0.1:1234"
    return draw([first, last], (width, 10), Options(title))


def test_whole_fields_are_left_out_the_least_important_first():
    assert busy(110)[1].endswith("  highest pending 70.1K  kernel limit 128K")
    assert busy(80)[1] == (
        "open 1 of 4  paused 3  in 33  out 826M (84.0M/s)  highest pending 70.1K"
    )
    assert busy(60)[1] == "open 1 of 4  paused 3  highest pending 70.1K"
    assert busy(20)[1] == "open 1 of 4"


def test_the_title_keeps_what_fits_of_the_clock_the_lag_and_the_memory():
    assert busy(80)[0].endswith("  19.8M memory  lag 0.0 ms  0:00:11")
    assert busy(56)[0].endswith("  lag 0.0 ms  0:00:11")
    assert busy(45)[0].endswith("  0:00:11")
    assert busy(40)[0].endswith("1234")


def test_no_field_is_cut_at_any_width():
    def fields(lines):
        totals = lines[1]
        sums = next(line for line in lines if line.startswith("and 988"))
        return {*totals.split("  "), *sums.split(", ")}

    every = fields(busy(200))
    assert len(every) == 11
    for width in range(30, 121):
        assert fields(busy(width)) <= every


# The targets of a proxy.


def target(place="10.0.0.1:80", state="up", **changes):
    row = {"target": place, "state": state, "weight": 1, "backup": False, "clients": 0}
    return {**row, "failures": 0, "connect": None, "reason": "", **changes}


def with_targets(*rows):
    return {**sample(row()), "targets": list(rows)}


def test_each_target_has_a_line_above_the_connections():
    up = target(clients=3, failures=1, connect=0.0012, reason="The peer refused")
    down = target("[::1]:81", "down", backup=True, failures=7, reason="The peer refused")
    lines = drawn([with_targets(up, down)])
    assert lines[2] == "10.0.0.1:80  up  clients 3  failures 1  connect 1.2 ms"
    assert lines[3] == "[::1]:81  down, backup  clients 0  failures 7  The peer refused"
    assert "PEER" in lines[4]


def test_of_many_targets_those_that_are_not_up_are_shown():
    rows = [target(f"a:{number}") for number in range(1, 20)]
    rows[11]["state"], rows[15]["state"] = "draining", "down"
    lines = drawn([with_targets(*rows)], (80, 16))
    assert [line.split()[0] for line in lines[2:5]] == ["a:16", "a:12", "a:1"]
    assert lines[5] == "targets 17 of 19 up"


def test_a_low_window_shows_no_targets():
    assert "10.0.0.1" not in "".join(drawn([with_targets(target())], (80, 9)))


def test_the_line_without_a_terminal_counts_targets():
    assert ", targets 1 of 2 up;" in plain([with_targets(target(), target("a:1", "down"))])
