#!/usr/bin/env python3
"""The table of a file that bench.sh has written.

    bench_table.py FILE
"""
import json
import sys

COLUMNS = ("model", "step", "us", "spread", "% of read", "tokens/s", "part of each peer's time")


def step_name(summary):
    if "case" in summary:
        return f"judging {summary['case']}"
    if "prompt" in summary:
        return f"prefill {summary['prompt']}"
    name = f"decode @{summary['context']}"
    return name if summary["batch"] == 1 else f"{name}, {summary['batch']} rows"


def rows_of(results):
    summaries = [result for result in results if result["what"] == "summary"]
    for own in summaries:
        if own["of"] not in ("decode", "prefill", "judging"):
            continue
        peers = [f"{peer['of'].replace('_' + own['of'], '')} {peer['engine_takes']:.3f}" for peer in summaries
                 if "engine_takes" in peer and peer["model"] == own["model"] and step_name(peer) == step_name(own)]
        tokens = own.get("prompt", own.get("batch", 1)) if "case" not in own else 0
        yield (own["model"], step_name(own), f"{own['us_median']:.1f}",
               f"{own['us_fastest']:.1f}..{own['us_slowest']:.1f}",
               f"{own['percent_of_read']:.1f}" if "percent_of_read" in own else "",
               f"{1e6 * tokens / own['us_median']:.1f}" if tokens else "", ", ".join(peers))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        bench = json.load(file)
    print(f"{bench['gpu']}, commit {bench['commit'][:12]}")
    rows = [COLUMNS, *rows_of(bench["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells[:-1] + [row[-1]]).rstrip())
    for result in bench["results"]:
        if "error" in result:
            print(f"failed: {result['model']} {result['what']}: {result['error']}")


if __name__ == "__main__":
    main()
