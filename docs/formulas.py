"""Formulas of the site: TeX becomes MathML, which browsers draw without a network."""

import html
import re

from latex2mathml.converter import convert

# What latex2mathml leaves out of TeX's rules.
SPACE = re.compile(r"\\(log|det)(?=\s*[^\s_({])")  # behind the name of a function
LIMITS = re.compile(r"\\(sum|prod)(?=_)")  # of a displayed sum, below and above
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\([([])(.*?)\\[)\]]</\1>', re.DOTALL
)


def on_page_content(content, page, config, files):
    """Draws the formulas of a page."""

    def drawn(match):
        tag, bracket, tex = match.groups()
        tex, display = SPACE.sub(r"\g<0>\\,", html.unescape(tex)), "inline"
        if bracket == "[":
            tex, display = LIMITS.sub(r"\g<0>\\limits", tex), "block"
        return f"<{tag}>{convert(tex, display=display)}</{tag}>"

    return FORMULA.sub(drawn, content)
