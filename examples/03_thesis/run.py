"""Reads the thesis's measured layer tables as studies, draws them, and says what they show; no torch is needed."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import sensitivity as sv

MODELS = ("l0", "l1", "l2", "xl0", "xl1")
LARGE_DROP = 1.0  # points of mIoU
WORST = 10
SCHEMES = ("full-INT8", "Mix-DWSC", "Mix-MBC-Neck")


def main(arguments: Sequence[str] | None = None) -> None:
    """A plot for each model, then the findings, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True, help="folder of l0.csv ... xl1.csv, tables_simulated.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    studies = {name: sv.read_thesis(options.tables / f"{name}.csv") for name in MODELS}
    for name, study in studies.items():
        study.plot(options.out / f"{name}.png")
    tables = {name: study.table() for name, study in studies.items()}
    whole = read_whole_schemes(options.tables / "tables_simulated.csv")
    sections = [
        ("The largest drops", worst_layers(studies)),
        ("Largest drop by role, in points", by_role(tables)),
        ("Which flags find the layers that drop by more than one point", by_flag(tables)),
        ("Whole schemes: the sum of single drops against what was measured, in points", additivity(studies, whole)),
    ]
    text = "\n\n".join(f"### {title}\n\n{as_markdown(table)}" for title, table in sections)
    notes = "\n".join(f"- {name.upper()}: {note}" for name, study in studies.items() for note in study.notes)
    (options.out / "findings.md").write_text(f"{text}\n\n### What the tables lack\n\n{notes}\n", encoding="utf-8")
    print(text)
    print(f"\nwrote {', '.join(sorted(path.name for path in options.out.iterdir()))} to {options.out}")


def worst_layers(studies: dict[str, sv.Study]) -> pd.DataFrame:
    """The three worst layers of each model."""
    rows = []
    for name, study in studies.items():
        table = study.table()
        worst = [f"{row.name} {row.role} {row.drop:.1f}" for row in table.nlargest(3, "drop").itertuples()]
        large = (table["drop"] > LARGE_DROP).sum()
        baseline = f"{study.baseline.value:.2%}".replace("%", " %")
        rows.append([name.upper(), baseline, len(table), large, *worst])
    return pd.DataFrame(rows, columns=["model", "mIoU", "rows", "drop > 1", "worst", "second", "third"])


def by_role(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The largest drop of each sort of layer; blocks of the neck are kept apart from those of the stages."""
    columns = {}
    for name, table in tables.items():
        neck = table["name"].str.startswith("neck:")
        mbconv = table["kind"].isin(["mb", "att"])
        fused = (table["kind"] == "fmb") & ~neck
        sorts = {
            "MBConv depthwise": mbconv & (table["role"] == "depthwise"),
            "MBConv exit": mbconv & (table["role"] == "exit"),
            "MBConv expand": mbconv & (table["role"] == "expand"),
            "fused MBConv expand": fused & (table["role"] == "expand"),
            "fused MBConv exit": fused & (table["role"] == "exit"),
            "attention qkv + scaling": table["role"] == "qkv+scale",
            "attention products": table["role"] == "matmul",
            "attention projection": table["role"] == "proj",
            "ResBlock": table["kind"] == "res",
            "stem": table["role"] == "stem",
            "neck": neck,
        }
        columns[name.upper()] = {label: table.loc[chosen, "drop"].max() for label, chosen in sorts.items()}
    cells = pd.DataFrame(columns).map(lambda drop: "" if pd.isna(drop) else f"{drop:.3f}")
    return cells.rename_axis("layers").reset_index()


def by_flag(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How well the structure alone, known before anything is measured, foretells a large drop."""
    rows = []
    for name, table in tables.items():
        large = table["drop"] > LARGE_DROP
        worst = table["drop"].rank(ascending=False) <= WORST
        flags = table["traits"].str.split(", ")
        flagged = flags.map(lambda names: "exit" in names or "depthwise" in names)
        rows.append(
            [
                name.upper(),
                f"{(flagged & worst).sum()} of {WORST}",
                f"{(flagged & large).sum()} of {large.sum()}",
                f"{(flagged & large).sum()} of {flagged.sum()}",
            ]
        )
    columns = ["model", "worst ten that are exit or depthwise", "large drops that are", "exit or depthwise that drop"]
    return pd.DataFrame(rows, columns=columns)


def additivity(studies: dict[str, sv.Study], whole: dict[tuple[str, str], float]) -> pd.DataFrame:
    """What single drops add up to, and what the whole scheme lost when the thesis measured it."""
    rows = []
    for name, study in studies.items():
        table = study.table()
        mbconv = table["kind"].isin(["mb", "att"]) & table["role"].isin(["expand", "depthwise", "exit"])
        in_float = {
            "full-INT8": table["name"] == "",
            "Mix-DWSC": mbconv & (table["role"] != "expand"),
            "Mix-MBC-Neck": mbconv | table["name"].str.startswith("neck:"),
        }
        cells = [name.upper(), f"{table['drop'].max():.1f}"]
        for scheme in SCHEMES:
            total = table.loc[~in_float[scheme], "drop"].clip(lower=0).sum()
            measured = 100 * study.baseline.value - whole[name.upper(), scheme]
            cells.append(f"{total:.1f} / {measured:.1f}")
        rows.append(cells)
    columns = ["model", "worst layer alone", *(f"{scheme}: sum / measured" for scheme in SCHEMES)]
    return pd.DataFrame(rows, columns=columns)


def read_whole_schemes(path: Path) -> dict[tuple[str, str], float]:
    """Measured mIoU in percent by model and scheme: box prompts, COCO val2017."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["dataset"], row["metric"]) == ("COCO", "miou_gt_box")]
    return {(row["model"], row["scheme"]): float(row["all"]) for row in rows}


def as_markdown(table: pd.DataFrame) -> str:
    header, rule = " | ".join(table.columns), " | ".join("---" for _ in table.columns)
    rows = [" | ".join(map(str, row)) for row in table.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in (header, rule, *rows))


if __name__ == "__main__":
    main()
