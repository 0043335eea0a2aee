"""Excel workbooks: each sheet with cells is a table."""

from __future__ import annotations

import io
from dataclasses import replace

from agents.errors import DocumentRejected
from agents.ingestion.archives import check_expansion
from agents.ingestion.base import Limits, ParsedDocument, Table
from agents.ingestion.tables import sheet_table, sql_names


def parse_xlsx(name: str, data: bytes, limits: Limits) -> ParsedDocument:
    """Visible sheets only: what its author hid isn't shown to those who ask."""
    from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    check_expansion(name, data, limits)
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(data)) as workbook:
            sheets = [
                sheet.name
                for sheet in workbook.sheets_metadata
                if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
            ]
            if len(sheets) > limits.pages:
                raise DocumentRejected(
                    f"{name} has {len(sheets):,} sheets; at most {limits.pages:,} are read (ADAPTRAG_MAX_PAGES). Split it.",
                    name=name,
                )
            tables: list[Table] = []
            for sheet in sheets:
                opened = workbook.get_sheet_by_name(sheet)
                if opened.width > limits.columns or opened.height * opened.width > 4 * limits.cells:
                    raise DocumentRejected(
                        f"{name}, sheet {sheet!r}: {opened.height:,} rows and {opened.width:,} columns; at most "
                        f"{limits.columns:,} columns (ADAPTRAG_MAX_TABLE_COLUMNS) and "
                        f"{limits.cells:,} cells (ADAPTRAG_MAX_TABLE_CELLS) are read.",
                        name=name,
                    )
                taken = sum(table.total * len(table.columns) for table in tables)
                if table := sheet_table(name, sheet, opened.iter_rows(), limits, taken):
                    tables.append(table)
    except (CalamineError, ValueError, KeyError) as error:
        raise DocumentRejected(
            f"{name} is a damaged Excel workbook ({str(error)[:200]}). Open it in Excel and save it again.", name=name
        ) from error
    names = sql_names([table.sheet for table in tables], "sheet")
    return ParsedDocument(
        text="",
        markdown=False,
        metadata={"sheets": len(sheets)},
        tables=tuple(replace(table, name=named) for table, named in zip(tables, names, strict=True)),
    )
