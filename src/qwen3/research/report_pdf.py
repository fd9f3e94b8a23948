"""The report as a PDF, by reportlab: A4, tables, citations that lead to their source."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import cm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from qwen3.data.atomic import replacing
from qwen3.research.findings import MeasureTable, Statement
from qwen3.research.report_page import SILENT, ResearchReport, notices, place

FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"  # Latin, Greek, Cyrillic and more; of matplotlib
# Writing systems that DejaVu lacks, with fonts that PDF readers bring.
EAST_ASIAN = {
    "STSong-Light": r"[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]+",
    "HeiseiMin-W3": r"[\u3040-\u30ff]+",
    "HYSMyeongJo-Medium": r"[\u1100-\u11ff\uac00-\ud7af]+",
}


def write(report: ResearchReport, path: Path) -> None:
    """Write the PDF; the same report gives the same bytes."""
    _register_fonts()
    body = ParagraphStyle("body", fontName=FONT, fontSize=9.5, leading=14, spaceAfter=6)
    small = ParagraphStyle("small", body, fontSize=8, leading=11)
    heading = ParagraphStyle(
        "heading", body, fontName=BOLD, fontSize=12, leading=16, spaceBefore=10
    )
    title = ParagraphStyle("title", heading, fontSize=16, leading=21)
    story: list[Flowable] = [Paragraph(_text(report.question), title)]
    for item in report.clarified:
        story.append(Paragraph(_text(f"{item.question} {item.answer or '-'}"), small))
    if report.summary:
        story += [Paragraph("Summary", heading), Paragraph(_prose(report.summary), body)]
    for section in report.sections:
        prose = _prose(section.statements) or _text(SILENT[section.state])
        story += [Paragraph(_text(section.question), heading), Paragraph(prose, body)]
        for table in section.tables:
            story += [_table(table, small), Spacer(1, 8)]
    story.append(Paragraph("Sources", heading))
    for source in report.sources:
        quotes = " ".join(f"“{quote}”" for quote in source.quotes)
        line = f'<a name="s{source.number}"/>{source.number}. {_text(f"{place(source)}: {quotes}")}'
        story.append(Paragraph(line, small))
    story += [Paragraph(_text(line), small) for line in notices(report)]
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        title=report.question[:200],
        invariant=1,
        leftMargin=2.2 * cm,
        rightMargin=2.2 * cm,
    )
    document.build(story, onFirstPage=_number, onLaterPages=_number)
    with replacing(path) as file:
        file.write(buffer.getvalue())


@lru_cache(maxsize=1)
def _register_fonts() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (FONT, BOLD):
        pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    for name in EAST_ASIAN:
        pdfmetrics.registerFont(UnicodeCIDFont(name))


def _table(table: MeasureTable, style: ParagraphStyle) -> Table:
    cells: list[list[Any]] = [["", Paragraph(_text(table.measure), style), ""]]
    for subject, value, source in table.rows:
        texts = (_text(subject), _text(value), _link(source))
        cells.append([Paragraph(text, style) for text in texts])
    lines = [("LINEBELOW", (0, 0), (-1, -1), 0.4, colors.grey), ("VALIGN", (0, 0), (-1, -1), "TOP")]
    return Table(cells, colWidths=[7 * cm, 7 * cm, 2 * cm], repeatRows=1, style=TableStyle(lines))


def _prose(statements: Sequence[Statement]) -> str:
    return " ".join(f"{_text(s.text)} {''.join(map(_link, s.notes))}" for s in statements)


def _link(number: int) -> str:
    return f'<a href="#s{number}" color="blue">[{number}]</a>'


def _text(text: str) -> str:
    """Text as reportlab's paragraphs take it: escaped, and each writing system in its font."""
    text = escape(re.sub(r"[\x00-\x1f\x7f]", " ", text))
    for font, pattern in EAST_ASIAN.items():
        text = re.sub(f"({pattern})", rf'<font name="{font}">\1</font>', text)
    return text


def _number(canvas: Any, document: Any) -> None:
    """The number of a page, at its foot."""
    canvas.setFont(FONT, 8)
    canvas.drawCentredString(A4[0] / 2, 1.2 * cm, str(document.page))
