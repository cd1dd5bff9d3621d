"""docs/recipe.md is what the models say."""

from __future__ import annotations

import re
from pathlib import Path

from ssl_pipeline.reference import reference


def test_the_page_is_made_from_the_code_and_its_links_lead_somewhere():
    page = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text()
    assert page == reference(), "run python -m ssl_pipeline.reference > docs/recipe.md"
    headings = {title.lower() for title in re.findall(r"^## (\S+)$", page, re.MULTILINE)}
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", page)} <= headings
    assert "| `warmup_epochs` | number >= 0 | `1` |" in page and "`task: simclr`." in page
