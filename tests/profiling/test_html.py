import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from deepseek_edge.artifacts import Accuracy, LayerError, ParityFloat, ParityGraph, Rung, Step
from deepseek_edge.profiling.html import Chapter, render
from deepseek_edge.profiling.roofline import with_limits
from deepseek_edge.report import (
    CompileReport,
    Latency,
    LayerTime,
    ProfileReport,
    ProgramReport,
    RunConditions,
)
from deepseek_edge.target import Qdq, Target
from tests.test_report import PROGRAM

STEPS = (
    Step("/conv<1>/Conv", "Conv+Clip", 2_000_000, 400_000, 100_000, 8, 4_025_000),
    Step("/out/Transpose", "Transpose", 0, 1000, 1000, 1),
)
TARGET = Target(
    id="board",
    name="Board",
    kind="cpu",
    arch="aarch64",
    os="linux",
    mcpu="cortex-a72",
    features=(),
    vector_bits=128,
    vector_registers=32,
    cores=4,
    l1d_bytes=32768,
    l2_bytes=1 << 20,
    l3_bytes=0,
    peak_fma_per_cycle=4,
    precisions=("float32",),
    qdq=Qdq(zero_point=True),
    glibc="2.36",
    clock_hz=1_500_000_000,
    memory_bandwidth_bytes_s=4_000_000_000,
)
COMPILED = CompileReport(
    bundle=Path("m.dse"),
    target="board",
    size_bytes=9_000_000,
    time_s={"total": 12.0},
    programs=(
        ProgramReport(
            PROGRAM, "qemu", ParityGraph(1, None, 2e-6, 1.0), ParityFloat(1, 1.0, 120.0, 1.0)
        ),
    ),
    accuracy=Accuracy("top1", 20, 90.0, 85.0, 5.0, 14.9),
    notes=("a note & more",),
)
PROFILE = ProfileReport(
    device="host",
    emulated=False,
    bundle="m.dse",
    program="cpu-float32",
    threads=2,
    reasons=("other processes used 1.0 cores",),
    latency_ms=Latency(1.0, 1.1, 1.1, 1.2, 1.3, 100),
    open_ms=0.4,
    peak_rss_bytes=5_000_000,
    layers=(LayerTime(*("/conv<1>/Conv", "Conv+Clip"), 1.0, 0.9), LayerTime("t", "T", 0.1, 0.1)),
    samples_ms=tuple(1 + i / 1000 for i in range(100)),
)


LIMITED = with_limits(PROFILE, STEPS, TARGET)


def page() -> str:
    return render("m: compile report", [Chapter(TARGET, STEPS, COMPILED, LIMITED)])


class Balance(HTMLParser):
    """Fails on a tag that is not closed in order."""

    VOID = frozenset({"meta", "br", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_balanced_and_loads_nothing() -> None:
    text = page()
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text.replace("xlink:href", "href")) == []
    assert "<script" not in text
    assert text.count("<svg ") == 4


def test_the_same_chapters_give_the_same_bytes() -> None:
    assert page() == page()


def test_pictures_take_the_colours_of_a_light_or_dark_page() -> None:
    text = page()
    assert "prefers-color-scheme: dark" in text
    assert "fill: var(--series-1)" in text
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]\b", text)


def test_the_page_says_what_was_found() -> None:
    text = page()
    for said in (
        "2.0e-06 of the output range", "checked on", "qemu", "120.0 dB", "85.00 %", "+5.00 pp",
        "14.90 pp", "a note &amp; more", "1.10 ms", "other processes used 1.0 cores",
        "/conv&lt;1&gt;/Conv", "All 2 steps",
    ):  # fmt: skip
        assert said in text, said


def test_without_a_profile_no_time_is_shown() -> None:
    text = render("m", [Chapter(TARGET, STEPS, COMPILED, None)])
    assert "No time was measured" in text
    assert " ms" not in text


def test_a_program_that_did_not_run_is_shown_as_such() -> None:
    unverified = replace(COMPILED, programs=(ProgramReport(PROGRAM, None, None, None),))
    assert "NOT RUN" in render("m", [Chapter(TARGET, STEPS, unverified, None)])


def test_the_page_shows_where_the_error_enters() -> None:
    errors = (LayerError("/a<1>/Conv", 40.0, 40.0), LayerError("/b/Conv", 21.5, 25.0))
    checked = replace(COMPILED.programs[0], layer_errors=errors)
    text = render("m", [Chapter(TARGET, STEPS, replace(COMPILED, programs=(checked,)), None)])
    table = text[text.index("All 2 layers, worst first") :]
    assert table.index("<td>/b/Conv</td><td>25.0 dB</td><td>21.5 dB</td>") < table.index("/a&lt;1")
    assert "Signal to noise at the output of 2 layers" in text
    assert "Where does the error enter" not in page()


def test_the_page_shows_the_devices_state_as_far_as_it_is_known() -> None:
    unknown = RunConditions(*[None] * 15)
    hot = replace(unknown, temperature_before_c=52.0, temperature_after_c=61.0, power_mode="<15W>")
    for conditions, said in ((None, False), (unknown, False), (hot, True)):
        profile = replace(LIMITED, conditions=conditions)
        text = render("m", [Chapter(TARGET, STEPS, COMPILED, profile)])
        assert ("The device meanwhile" in text) is said
    assert "<dt>temperature</dt><dd>52 to 61 C</dd>" in text
    assert "&lt;15W&gt;" in text


def test_an_unknown_clock_means_no_roofline() -> None:
    text = render("m", [Chapter(TARGET, STEPS, COMPILED, replace(PROFILE, roof=None))])
    assert "no roofline" in text
    assert text.count("<svg ") == 3


def test_the_table_says_what_limits_each_step() -> None:
    text = page()
    for cell in ("4.03", "500.0", "8.1", "4.0", "0.167 (arithmetic)", "17%", "0.001 (memory)"):
        assert f"<td>{cell}</td>" in text, cell


def test_a_page_shows_what_a_gate_tried_if_it_tried_several_ways() -> None:
    lost = Accuracy("top1", 20, 90.0, 85.0, 5.0, 14.9)
    first = Rung("minmax", "<photos>", "host", lost, 1.0, (), False)
    second = replace(first, name="mse", is_kept=True)
    head = "Ways to quantize that were tried"
    one = replace(COMPILED, ladder=(second,))
    both = replace(COMPILED, ladder=(first, second))
    assert head not in render("t", [Chapter(TARGET, STEPS, one, None)])
    page = render("t", [Chapter(TARGET, STEPS, both, None)])
    assert head in page
    assert "<td>minmax</td><td>+5.00 pp</td>" in page
    assert "host, &lt;photos&gt;" in page
