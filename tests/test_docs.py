"""The examples on the documentation's pages run and give what the pages say."""

import doctest
import re
from pathlib import Path

import pytest

import hdeepinsight as hdi

DOCS = Path(__file__).parents[1] / "docs"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    """Join a page's code blocks that are interactive sessions."""
    return "\n".join(block for block in CODE.findall(page.read_text()) if ">>>" in block)


PAGES = [page for page in sorted(DOCS.glob("[!_]*/*.md")) if examples(page)]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_examples_of_a_page(page):
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    report = []
    test = parser.get_doctest(examples(page), {"hdi": hdi}, page.name, str(page), 0)
    result = runner.run(test, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)
