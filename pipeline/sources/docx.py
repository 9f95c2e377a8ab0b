"""Goes in: a Word document (.docx). Comes out: its paragraphs and tables in order, a line each, cells between tabs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources.rows import Budget, Options, RefusedError, Row


def read(stream: BinaryIO, _options: Options, budget: Budget) -> Iterator[Row]:
    """The one text of the document; RefusedError if it is damaged, a bomb, or has no text in it."""
    import docx
    from docx.table import Table

    try:
        # The library reads every part whole, so what they promise to become is counted first.
        with zipfile.ZipFile(stream) as parts:
            budget.spend(sum(part.file_size for part in parts.infolist()))
        stream.seek(0)
        found: list[str] = []
        for block in docx.Document(stream).iter_inner_content():
            if isinstance(block, Table):
                found += ["\t".join(cell.text for cell in row.cells) for row in block.rows]
            else:
                found.append(block.text)
    except RefusedError:
        raise
    except Exception as error:  # zipfile's, lxml's and the library's own, all for one reason
        raise RefusedError(f"is damaged, or no .docx ({type(error).__name__})") from error
    text = "\n".join(found)
    if not text.strip():
        raise RefusedError("has no text in it")
    yield Row({"text": text})
