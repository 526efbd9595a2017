"""Hook of mkdocs: links to files outside of docs/ lead to the repository, or become text where its address is unknown.

On GitHub and in an editor these links work as they are. Set `repo_url` in mkdocs.yml to keep them on the site.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)\s#]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace the links of one page that leave docs/.

    Args:
        markdown: the page.
        page: names its file.
        config: of the site.

    Returns:
        The page with links that lead somewhere from the site.
    """

    def replaced(match: re.Match[str]) -> str:
        text, target, heading = match.groups()
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if place.startswith("docs/"):
            return match[0]
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place}{heading or ''})"

    return _LINK.sub(replaced, markdown)
