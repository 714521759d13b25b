"""HTML pages, read as a browser does."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

VOID = {"meta", "img", "input", "br", "line", "circle", "polyline", "rect"}


class Page(HTMLParser):
    """Elements of a page in their order, each with its attributes and the text in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text_of_file = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(self.text_of_file)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        place = self.open[-1] if self.open else ""
        self.text[place] = self.text.get(place, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self) -> dict[str, np.ndarray]:
        """Decoded, by their alternative texts."""
        return {one["alt"]: decoded(one["src"]) for one in self.all("img")}


def decoded(uri: str) -> np.ndarray:
    match = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", uri)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(match[2]))))


def assert_is_sound(page: Page) -> None:
    """Ids are unique, what they refer to exists, images say what they are, nothing is loaded."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("aria-labelledby", "for"):
            assert set(attributes.get(name, "").split()) <= set(ids)
        target = attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids
        assert "://" not in target and not target.startswith("javascript:")
    assert page.all("link") == [] and [one for one in page.all("script") if "src" in one] == []
    assert "url(" not in page.text["style"]
    assert all(one["alt"] and one["src"].startswith("data:image/") for one in page.all("img"))
    assert page.text["p"].count("Research only, not for diagnosis") == 1
