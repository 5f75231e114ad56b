"""Documents, as they are served: the API document, its page, and the relay's page with its files."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests

from pulsar_relay import apidoc
from pulsar_relay.settings import Settings
from pulsar_relay.web import page
from pulsar_relay.web.documents import Document
from tests.conditions import WAIT_SECONDS
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.relays import REPOSITORY
from tests.workers import RunningWorker

STATIC = REPOSITORY / "pulsar_relay" / "web" / "static"
FILES = sorted(f"/page/{path.name}" for path in STATIC.iterdir() if path.suffix in (".js", ".css"))
PAGES = ["/", "/docs"]
ALL = [*PAGES, "/openapi.json", *FILES]


def get(relay: RunningWorker, path: str, **headers: str) -> requests.Response:
    return requests.get(relay.url + path, headers=headers, timeout=WAIT_SECONDS)


def test_the_document_is_the_one_that_is_made_of_the_settings(relay: RunningWorker) -> None:
    answer = get(relay, "/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == apidoc.document(Settings())


def test_the_docs_show_the_document_and_may_load_nothing_else(relay: RunningWorker) -> None:
    answer = get(relay, "/docs")
    assert answer.headers["Content-Security-Policy"] == apidoc.PAGE_POLICY
    assert answer.content == apidoc.page(apidoc.document(Settings()))


@pytest.mark.parametrize("path", ALL)
def test_each_answers_head_as_it_answers_get(relay: RunningWorker, path: str) -> None:
    got = get(relay, path)
    head = requests.head(relay.url + path, timeout=WAIT_SECONDS)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert int(head.headers["Content-Length"]) == len(got.content) > 0
    assert {**head.headers, "Date": ""} == {**got.headers, "Date": ""}


@pytest.mark.parametrize("path", ALL)
def test_who_has_it_already_is_not_sent_it_again(relay: RunningWorker, path: str) -> None:
    got = get(relay, path)
    etag = got.headers["ETag"]
    # A proxy that compresses makes it a weak one.
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = get(relay, path, **{"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
        assert again.headers["Cache-Control"] == "no-cache"
    assert get(relay, path, **{"If-None-Match": '"other"'}).content == got.content


def test_another_content_has_another_etag() -> None:
    assert Document(b"a", "text/plain").etag != Document(b"b", "text/plain").etag
    assert Document(b"a", "text/plain").etag == Document(b"a", "text/html").etag


@pytest.mark.parametrize("path", ALL)
def test_each_is_kept_but_asked_for_again_and_is_what_it_says_it_is(relay: RunningWorker, path: str) -> None:
    headers = get(relay, path).headers
    kinds = {
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
    }
    assert headers["Content-Type"] == kinds.get(Path(path).suffix, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_do_nothing_but_what_it_needs(relay: RunningWorker, path: str) -> None:
    headers = get(relay, path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


# ---------------------------------------------------------------------------------------------- the page at /


class Links(HTMLParser):
    """What a page refers to, and whether anything in it is script or style."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action"):
                self.links.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(name)
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.inline.append(tag)


def test_the_page_needs_nothing_from_elsewhere_and_has_nothing_inline(relay: RunningWorker) -> None:
    links = Links()
    links.feed(get(relay, "/").text)
    assert not links.inline
    for link in links.links:
        if not link.startswith("#") and link != "data:,":
            # Relative: it may stand below another address.
            assert re.fullmatch(r"[a-z][\w/.]*", link)
            assert get(relay, f"/{link}").status_code == 200


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith(".js")])
def test_a_script_imports_only_what_is_there_and_makes_no_markup(relay: RunningWorker, path: str) -> None:
    script = get(relay, path).text
    for name in re.findall(r'from "\./([^"]+)"', script):
        assert f"/page/{name}" in FILES
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script
    )
    assert not re.search(r"https?://", script)


def test_every_file_is_served_and_no_other(relay: RunningWorker) -> None:
    assert set(page.page_files()) | {page.INDEX} == {path.name for path in STATIC.iterdir()}
    for name in ("none.js", page.INDEX, "..%2Fpage.py", "%2e%2e"):
        answer = get(relay, f"/page/{name}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        assert "ETag" not in answer.headers


def test_every_file_is_part_of_what_is_installed() -> None:
    """The Dockerfile's test installs the package and asks for them; this one names the pattern that lacks."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    patterns = setup["options.package_data"]["pulsar_relay"].split()
    for path in STATIC.rglob("*"):
        name = path.relative_to(REPOSITORY / "pulsar_relay").as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns), f"{name} is not in setup.cfg"
