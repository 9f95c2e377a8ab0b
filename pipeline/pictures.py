"""Goes in: figures. Comes out: pictures of them, as PNG files for people. No artefact holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.columns import Values


def draw_curves(rows: Sequence[Mapping[str, float]], curves: Sequence[str], title: str, path: Path) -> None:
    """Each curve over the steps; per-step losses are drawn pale, with their running mean over them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=110)
    for number, curve in enumerate(curves):
        points = [(row["step"], row[curve]) for row in rows if curve in row]
        if not points:
            continue
        steps, values = (np.asarray(column, float) for column in zip(*points, strict=True))
        colour = f"C{number}"
        if len(values) > 200:
            width = max(2, len(values) // 50)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps[width - 1 :], smooth, color=colour, label=f"{curve} (mean of {width})")
        else:
            axes.plot(steps, values, color=colour, marker="o", markersize=3, label=f"{curve}, last {values[-1]:.3f}")
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix with its counts; rows are true classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.5, 4), dpi=110)
    image = axes.imshow(confusion, cmap="Blues", vmin=0)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    highest = max(max(row) for row in confusion)
    for y, row in enumerate(confusion):
        for x, count in enumerate(row):
            axes.text(x, y, f"{count:,}", ha="center", va="center", color="white" if count > highest / 2 else "black")
    figure.colorbar(image)
    _save(figure, path)


def draw_reliability(bins: Sequence[tuple[float, float, int]], title: str, path: Path) -> None:
    """How often a classifier was right against how sure it was; a dot is as large as its bin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.5, 4), dpi=110)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    confidence, accuracy, counts = zip(*bins, strict=True)
    most = max(counts)
    axes.scatter(confidence, accuracy, s=[20 + 180 * count / most for count in counts], color="C0", alpha=0.8)
    axes.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    _save(figure, path)


def draw_bars(counts: Mapping[str, Mapping[str, int]], title: str, label: str, path: Path) -> None:
    """Bars side by side, one colour for each series; a series maps a number, written as text, to a count."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), dpi=110)
    bins = sorted({int(key) for series in counts.values() for key in series})
    width = 0.8 / max(1, len(counts))
    for number, (name, series) in enumerate(counts.items()):
        places = [place + number * width for place in range(len(bins))]
        axes.bar(places, [series.get(str(key), 0) for key in bins], width, label=name)
    axes.set(title=title, xlabel=label, ylabel="documents")
    axes.set_xticks([place + width / 2 for place in range(len(bins))], [f"{key:,}" for key in bins], rotation=45)
    axes.legend()
    _save(figure, path)


def draw_ranges(panels: Mapping[str, tuple[Values, float, float]], title: str, path: Path) -> None:
    """For each name a histogram of its values, with the range from low to high shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    columns = 4
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(12, 2.6 * rows), dpi=100, squeeze=False)
    for axes, (name, (values, low, high)) in zip(grid.flat, panels.items(), strict=False):
        shown = np.asarray(values, float)
        most = float(np.quantile(shown, 0.99)) if len(shown) else 1.0
        right = max(most, 1.2 * (high if np.isfinite(high) and high < 50 * max(most, 1e-9) else low), 1e-3)
        counts, edges = np.histogram(np.clip(shown, 0, right), bins=40, range=(0, right))
        axes.stairs(counts, edges, fill=True, color="C0", snap=False)  # one shape, where hist draws forty
        axes.axvspan(low, min(high, right), color="C2", alpha=0.15)
        inside = float(np.mean((shown >= low) & (shown <= high))) if len(shown) else 0.0
        axes.set_title(f"{name}\n{inside:.0%} inside", fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    # In inches: to find room for the labels by itself, as _save does, costs as much as drawing.
    height = 2.6 * rows
    figure.subplots_adjust(left=0.035, right=0.99, bottom=0.3 / height, top=1 - 0.75 / height, hspace=0.42, wspace=0.22)
    _write(figure, path)


def _save(figure: object, path: Path) -> None:
    figure.tight_layout()  # type: ignore[attr-defined]
    _write(figure, path)


def _write(figure: object, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)  # type: ignore[attr-defined]
    plt.close(figure)  # type: ignore[arg-type]
