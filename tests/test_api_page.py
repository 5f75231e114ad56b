"""The API document's page: whole, readable without anything else, and safe to show."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from pulsar_relay import apidoc
from pulsar_relay.api_page import PAGE_POLICY, page
from pulsar_relay.settings import Settings

DOCUMENT = json.loads(apidoc.as_json(apidoc.document(Settings())))
PAGE = page(DOCUMENT).decode()
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Collects what a test wants to know, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def read() -> Reader:
    reader = Reader()
    reader.feed(PAGE)
    reader.close()
    return reader


def test_every_element_is_closed(read: Reader) -> None:
    assert read.open == []


def test_the_page_needs_nothing_from_elsewhere(read: Reader) -> None:
    assert {tag for tag, _ in read.elements} & {"script", "link", "img", "iframe", "object", "form"} == set()
    for _, attributes in read.elements:
        assert not {"src", "style", "onclick", "onload"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith(("#", "/openapi.json"))
    assert "url(" not in PAGE
    assert "@import" not in PAGE


def test_its_policy_allows_its_own_style_and_nothing_else() -> None:
    styles = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in PAGE_POLICY
    assert PAGE_POLICY.startswith("default-src 'none';")
    assert "unsafe" not in PAGE_POLICY


def test_it_follows_the_reader_s_light_or_dark(read: Reader) -> None:
    assert "color-scheme: light dark" in PAGE
    assert "prefers-color-scheme: dark" in PAGE


def test_every_link_on_it_leads_somewhere(read: Reader) -> None:
    places = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(places) == len(set(places))
    links = {attributes["href"] for tag, attributes in read.elements if tag == "a"} - {"/openapi.json"}
    assert links <= {f"#{place}" for place in places}


def test_it_tells_everything_the_document_tells(read: Reader) -> None:
    for path, methods in DOCUMENT["paths"].items():
        assert path in read.text
        for operation in methods.values():
            assert operation["summary"] in read.text
            for parameter in operation["parameters"]:
                assert parameter["name"] in read.text
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert name in read.text
        for field in schema["properties"]:
            assert field in read.text
    for code in DOCUMENT["components"]["examples"]:
        assert code in read.text


def test_what_the_document_says_cannot_become_markup() -> None:
    evil = json.loads(json.dumps(DOCUMENT).replace("Publish a message", "<script>alert(1)</script>"))
    assert "<script>" not in page(evil).decode()
