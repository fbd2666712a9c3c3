r"""A report as one HTML file that needs nothing beside it: the tables, and the picture within."""

__all__ = ["page"]

import base64
import html
import io

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#30343b;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #d8dbe0;white-space:nowrap}"
    "img{max-width:100%}div{overflow-x:auto}code{background:#f2f3f5;padding:0 .25rem}"
)


def page(title: str, text: str, figure: Figure) -> str:
    """Returns the file's text.

    Arguments:
        title: What it is called.
        text: The report, in Markdown; HTML in it is shown as it stands.
        figure: The picture.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    source = base64.b64encode(picture.getvalue()).decode()
    body = MarkdownIt("js-default").render(text)
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{name}</title>\n<style>{STYLE}</style>\n'
        f'<h1>{name}</h1>\n<img alt="{name}" src="data:image/png;base64,{source}">\n<div>\n{body}</div>\n</html>\n'
    )
