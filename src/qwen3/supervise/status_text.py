"""The status of a run for people: lines for a terminal, and one HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterator

from qwen3.supervise.goodput import BADPUT, USEFUL
from qwen3.supervise.status import Status, numbers

WIDTHS = {"host": 7, "state": 10, "attempt": 9, "step": 9, "heartbeat": 11, "code": 5, "error": 0}
BARS = "▁▂▃▄▅▆▇█"
STYLE = (
    "body{font:15px system-ui;max-width:60rem;margin:2rem auto}pre{white-space:pre-wrap}"
    "td{padding:0 1rem 0 0}td div{background:#36c;height:.8em}"
)


def status_text(status: Status) -> str:
    """A table of the hosts, and what is said of the run as a whole."""
    last = (status.metrics or [{}])[-1]
    price, source = status.settings.PRICE, status.settings.PRICE_SOURCE
    cost = f"${status.dollars:,.2f} at ${price:g} a chip-hour, {source}"
    total = sum(status.seconds.values())
    shares = ", ".join(f"{cause} {_share(status, cause):.1%}" for cause in BADPUT)
    lines = [
        *_hosts(status),
        f"newest checkpoint: {status.checkpoint}",
        f"last record: step {last.get('step', 0)}, loss {last.get('loss', '-')}",
        f"loss: {sparkline([loss for _, loss in numbers(status.metrics, 'loss')])}",
        f"tokens per second: {last.get('tokens_per_second', 0.0):,.0f}",
        f"goodput: {_share(status, USEFUL):.1%} of {total / 3600:.2f} h; {shares}",
        f"chip-hours: {status.chip_hours:,.2f}",
        f"cost so far: {cost if price else 'unknown (no PRICE)'}",
    ]
    return "\n".join(lines)


def _hosts(status: Status) -> Iterator[str]:
    rows = [dict(zip(WIDTHS, WIDTHS, strict=True))]
    for name, host in status.hosts.items():
        silence = status.silence(name)
        error = host["reason"] if host["state"] == "failed" else host.get("error", "")
        beat = f"{silence:.0f} s ago" if silence else "-"
        rows.append({**host, "host": name, "heartbeat": beat, "error": error})
    for row in rows:
        yield "".join(f"{row.get(column, '-')!s:<{width}}" for column, width in WIDTHS.items())


def _share(status: Status, cause: str) -> float:
    return status.seconds[cause] / max(1e-9, sum(status.seconds.values()))


def sparkline(values: list[float], width: int = 60) -> str:
    """A curve in one line, such as "4 █▅▃▂▁ 1.2", from the first value to the last."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    picked = [values[place * len(values) // width] for place in range(width)][: len(values)]
    picked = values if len(values) <= width else picked
    top = len(BARS) - 1
    curve = "".join(BARS[round((value - low) / max(high - low, 1e-9) * top)] for value in picked)
    return f"{values[0]:.4g} {curve} {values[-1]:.4g}"


def status_page(status: Status, title: str) -> str:
    """The text as one HTML page, with the loss as a curve and the time as bars."""
    title, text = html.escape(title), html.escape(status_text(status))
    return (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><pre>{text}</pre><h2>Loss</h2>{_loss_curve(status)}"
        f"<h2>Time</h2><table>{''.join(_bars(status))}</table>\n"
    )


def _loss_curve(status: Status) -> str:
    points = numbers(status.metrics, "loss") or [(0, 0.0)]
    steps, losses = zip(*points, strict=True)
    left, right, low, high = min(steps), max(steps), min(losses), max(losses)
    x, y = 900 / max(1, right - left), 240 / max(1e-9, high - low)
    line = " ".join(f"{(step - left) * x:.1f},{(high - loss) * y:.1f}" for step, loss in points)
    return (
        f"<svg viewBox='-4 -4 908 248'><polyline points='{line}' fill='none' stroke='#36c'"
        f" stroke-width='2'/></svg><p>steps {left} to {right}, loss {low:.4g} to {high:.4g}</p>"
    )


def _bars(status: Status) -> Iterator[str]:
    for cause in (USEFUL, *BADPUT):
        share = _share(status, cause)
        bar = f"<div style='width:{30 * share:.1f}rem'></div>"
        yield f"<tr><td>{cause}<td>{status.seconds[cause] / 60:,.1f} min<td>{share:.1%}<td>{bar}"
