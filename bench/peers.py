"""Trivet and the systems a user would pick instead, side by side: the same model file, in turn, in one run.

    python -m bench.peers [smollm2-360m llama-3.2-1b | FILE.gguf ...] [--formats Q4_0,Q8_0,...] [--peers llamacpp,...]
    python -m bench.peers --quick

Peers come from PyPI, each into a virtual environment of its own (building llama.cpp takes long);
one that cannot be installed or cannot run on this processor is named in the report, with the reason. Each case is
warmed up, then measured --rounds times by one system after the other; medians are reported, and those of the rounds'
ratios, beside the least time that this machine's arithmetic, measured in the same run, and its memory, measured before
and after each case, would allow.

Writes OUTPUT.json (every sample), OUTPUT.md and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import models, report
from bench.harness.environments import DEFAULT_FOLDER, PEERS, CannotRun
from bench.harness.machine import Limits, describe, measure_limits, read_speed
from bench.harness.process import Case, Sample, System
from trivet.runtime.machine import usable_cores
from trivet.weights.mixes import MIXES

SHAPES = ("smollm2-360m", "llama-3.2-1b")
FORMATS = "Q4_0,Q8_0,Q4_K_M,Q6_K,BF16"
CASES = [
    Case("prefill 512", 1, 512),
    Case("decode 1", 1, 128, 32),
    Case("decode 8", 8, 128, 16),
    Case("decode 32", 32, 128, 8),
]
LONG_CASES = [Case("prefill 8192", 1, 8191), Case("decode at 8000", 1, 8000, 16)]
LONG_FORMATS = ("Q4_0",)
LONG_ROUNDS = 3
QUICK = {"models": ["smollm2-360m"], "formats": "Q4_0,Q8_0,Q4_K_M", "rounds": 3, "peers": "llamacpp", "long": False}
ONLY = {"vllm": "BF16", "openvino": "Q4_0"}
"""Peers that read the Hugging Face folder, in a format of their own: the one that they are measured beside."""
TITLES = {"trivet": "Trivet", "fast": "Trivet, fast numerics"} | {name: peer.title for name, peer in PEERS.items()}
UNSTABLE, DISTURBED = 0.15, 0.05

Results = dict[str, list[Sample]]
"""By system."""


class Comparison:
    """One model in one format: the systems that run it, and what they did."""

    def __init__(self, args: argparse.Namespace, name: str, mix: str, pythons: dict[str, Path]) -> None:
        source, folder = models.source_model(name, args.models_folder)
        path = source if mix == "BF16" else models.quantised(source, mix, args.models_folder)
        self.name, self.mix, self.rounds = models.plain_name(source), mix, args.rounds
        self.work = models.work(path)
        self.bytes = path.stat().st_size
        cases = [*CASES, *(LONG_CASES if args.long and mix in LONG_FORMATS else [])]
        wanted = args.cases and args.cases.split(",")
        self.cases = [case for case in cases if not wanted or case.name in wanted]
        self.pythons, self.threads, self.folder = pythons, args.threads, args.environments
        self.cpu_time = args.cpu_time
        self.paths: dict[str, Path] = {"trivet": path} | ({"fast": path} if args.fast else {})
        for peer in pythons:
            if peer == "llamacpp":
                self.paths[peer] = path
            elif ONLY.get(peer) == mix and folder is not None:
                self.paths[peer] = folder
        self.cannot: dict[str, str] = {}
        self.about: dict[str, dict[str, str]] = {}
        self.results: dict[str, Results] = {case.name: {} for case in self.cases}

    def run(self, reads: Callable[[], float]) -> None:
        systems: dict[str, System] = {}
        try:
            for name, path in self.paths.items():
                python = self.pythons.get(name, Path(sys.executable))
                log = self.folder / f"{name}-driver.log"
                try:
                    systems[name] = System(f"drive_{name}", python, path, self.threads, self.cases, log, self.cpu_time)
                    self.about[name] = systems[name].about
                except CannotRun as reason:
                    self.cannot[name] = str(reason)
            for case in self.cases:
                for index in range(min(self.rounds, LONG_ROUNDS) if case in LONG_CASES else self.rounds):
                    # In turn, and in the other order every other time.
                    for name in list(systems)[:: 1 if index % 2 == 0 else -1]:
                        try:
                            sample = systems[name].measure(case, reads)
                        except CannotRun as reason:
                            self.cannot[name] = f"{case.name}: {reason}"
                            systems.pop(name).close()
                            continue
                        self.results[case.name].setdefault(name, []).append(sample)
                rates = {name: speed(found) for name, found in self.results[case.name].items()}
                told = ", ".join(f"{TITLES[name]} {report.number(rate)} tok/s" for name, rate in rates.items())
                print(f"{self.name} {self.mix} {case.name}: {told}", flush=True)
        finally:
            for system in systems.values():
                system.close()

    def limit(self, case: Case, limits: Limits, sample: Sample) -> float:
        """Tokens a second at best, when a sample was taken."""
        return case.counted / self.work.seconds(case, replace(limits, read=sample.read))

    def median_limit(self, case: Case, limits: Limits) -> float:
        samples = [sample for found in self.results[case.name].values() for sample in found]
        return median(self.limit(case, limits, sample) for sample in samples)

    def shares(self, case: Case, limits: Limits, system: str) -> list[float]:
        """Of the limit, that of each sample."""
        found = self.results[case.name][system]
        return [sample.tokens_per_second / self.limit(case, limits, sample) for sample in found]

    def as_json(self, limits: Limits) -> dict[str, Any]:
        return {
            "model": self.name,
            "format": self.mix,
            "file_bytes": self.bytes,
            "systems": self.about,
            "cannot_run": self.cannot,
            "cases": {
                case.name: {
                    **vars(case),
                    "limit": self.median_limit(case, limits),
                    "samples": {name: [vars(s) for s in found] for name, found in self.results[case.name].items()},
                }
                for case in self.cases
                if self.results[case.name]
            },
        }


def speed(samples: list[Sample]) -> float:
    return median(sample.tokens_per_second for sample in samples)


def median_ratio(ours: list[Sample], theirs: list[Sample]) -> float:
    """Of samples of the same rounds."""
    pairs = zip(ours, theirs, strict=False)
    return median(one.tokens_per_second / other.tokens_per_second for one, other in pairs)


def table(comparisons: list[Comparison], limits: Limits, peers: list[str]) -> str:
    """Peers in one format alone are compared with all formats of the same model."""
    rows, references = [], {}
    for one in comparisons:
        for case, results in one.results.items():
            references |= {(one.name, case, peer): speed(found) for peer, found in results.items() if peer in ONLY}
    for one in comparisons:
        for case in one.cases:
            results = one.results[case.name]
            if "trivet" not in results:
                continue
            ours = results["trivet"]
            row = [f"{one.name} {one.mix}", case.name, report.number(speed(ours))]
            for peer in peers:
                if peer in results:
                    row += [report.number(speed(results[peer])), report.times(median_ratio(ours, results[peer]))]
                elif theirs := references.get((one.name, case.name, peer)):
                    row += [report.number(theirs), report.times(speed(ours) / theirs)]
                else:
                    row += ["–", "–"]
            spreads = [report.spread(one.shares(case, limits, name)) for name in results]
            spread = max((found for found in spreads if found is not None), default=None)
            others = median(sample.others for found in results.values() for sample in found)
            note = report.percent(spread) + (" !" if (spread or 0) > UNSTABLE or others > DISTURBED else "")
            share = median(one.shares(case, limits, "trivet"))
            row += [report.number(one.median_limit(case, limits)), f"{share:.0%}", str(len(ours)), note]
            rows.append([*row, f"{others:.0%}"])
    heads = [head for peer in peers for head in (f"{TITLES[peer]}{f' as {kind(peer)}' if peer in ONLY else ''}", "×")]
    return report.markdown(["model", "case", "Trivet", *heads, "limit", "of limit", "rounds", "spread", "others"], rows)


def kind(peer: str) -> str:
    return {"vllm": "bf16", "openvino": "int4"}[peer]


def main() -> None:
    # Abbreviated, --models would be the folder of models.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("models", nargs="*", default=list(SHAPES))
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--cases", help=f"of {', '.join(case.name for case in [*CASES, *LONG_CASES])}; all if not given"
    )
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its own time: for a machine that is busy")
    parser.add_argument("--fast", action="store_true", help="measure Trivet with fast numerics, too")
    parser.add_argument("--no-long", dest="long", action="store_false", help="leave out the cases of 8,000 tokens")
    parser.add_argument("--quick", action="store_true", help="360M in three formats beside llama.cpp")
    parser.add_argument("--environments", type=Path, default=DEFAULT_FOLDER, help="where peers are installed")
    parser.add_argument("--models-folder", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--output", type=Path, default=Path("bench/results/peers"), help="without an ending")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    if args.cpu_time:
        args.threads = 1

    cannot: dict[str, str] = {}
    pythons: dict[str, Path] = {}
    for name in filter(None, args.peers.split(",")):
        try:
            pythons[name] = PEERS[name].install(args.environments)
        except CannotRun as reason:
            cannot[name] = str(reason)
    limits = measure_limits(args.threads)
    machine = describe(limits, args.threads) | {"cpu_time": args.cpu_time}
    comparisons: list[Comparison] = []
    with read_speed(args.threads) as reads:
        for name in args.models:
            for mix in args.formats.split(","):
                comparisons.append(Comparison(args, name, mix, pythons))
                comparisons[-1].run(reads)
                cannot |= comparisons[-1].cannot
                finish(args.output, comparisons, machine, limits, ["fast", *pythons], cannot)


def finish(
    output: Path,
    comparisons: list[Comparison],
    machine: dict[str, Any],
    limits: Limits,
    peers: list[str],
    cannot: dict[str, str],
) -> None:
    """Write what there is so far."""
    shown = [peer for peer in peers if any(peer in found for one in comparisons for found in one.results.values())]
    reasons = "".join(f"- {TITLES[name]}: {reason}\n" for name, reason in cannot.items())
    text = (
        f"# Side by side\n\n{report.preamble(machine, str(limits))}\n"
        f"Tokens a second{' of processor time' if machine['cpu_time'] else ''}, medians of so many alternated rounds. "
        "×: the median of the rounds' ratios. limit: what arithmetic allows at best, and memory as fast as it was read "
        "before and after each case; the medians of that and of the rounds' shares of it. spread: (largest − smallest) "
        "/ median of these shares, the larger of the systems'; one round has none. others: the share of the processors "
        "that anything else used meanwhile, median of the rounds; ! marks a line that is not stable or was disturbed."
        "\n\n"
        f"{table(comparisons, limits, shown)}"
    )
    random = list(dict.fromkeys(one.mix for one in comparisons if one.mix not in MIXES))
    text += f"\nThe layers' weights are random in {', '.join(random)}.\n" if random else ""
    text += f"\nNot measured:\n\n{reasons}" if reasons else ""
    everything = {"machine": machine, "cannot_run": cannot, "comparisons": [one.as_json(limits) for one in comparisons]}
    report.write(output, everything, text)
    for model in dict.fromkeys(one.name for one in comparisons):
        ours = [one for one in comparisons if one.name == model]
        cases = list(dict.fromkeys(case for one in ours for case in one.cases if one.results[case.name]))
        panels = {
            case.name: {
                one.mix: {name: speed(found) for name, found in one.results[case.name].items()}
                for one in ours
                if case in one.cases
            }
            for case in cases
        }
        highest = {
            case.name: {one.mix: one.median_limit(case, limits) for one in ours if one.results[case.name]}
            for case in cases
        }
        path = output.with_name(f"{output.name}-{model}.png")
        report.bars(path, model, panels, TITLES, "tokens/s", highest)


if __name__ == "__main__":
    main()
