"""Chromium, as the system has it, on a console of its own before the test services. Nothing but loopback can be reached."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def pytest_collection_modifyitems(items):
    if CHROMIUM is None:
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="no chromium, chromium-browser or google-chrome is installed"))


@pytest.fixture(scope="session")
def console(cluster):
    """The console's URL."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = {
            **os.environ,
            "CODELENGTH_CONSOLE_LISTEN_FD": str(listening.fileno()),
            "CODELENGTH_CONSOLE_ALICE_URL": cluster.alice,
            "CODELENGTH_CONSOLE_BOB_URL": cluster.bob,
        }
        process = subprocess.Popen([sys.executable, "-m", "harness.console"], env=environment, pass_fds=[listening.fileno()])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    yield url
    process.terminate()
    assert process.wait(10) in (0, -15)


@pytest.fixture(scope="module")  # no longer: Playwright keeps an event loop running, which asynchronous tests would meet
def chromium():
    """A browser that can resolve nothing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@dataclass
class Seen:
    """What a page did beside what was looked at. expected: parts of complaints that a test provokes."""

    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(chromium, console):
    """Opens pages; afterwards none may have complained, or asked for anything that is not the console's."""
    contexts, seen = [], Seen()

    def open_one(path="/", **options):
        context = chromium.new_context(base_url=console, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda one: seen.complaints.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("request", lambda one: seen.elsewhere.append(one.url) if not one.url.startswith(console) else None)
        page.goto(path)
        return page

    open_one.seen = seen
    yield open_one
    for context in contexts:
        context.close()
    assert [one for one in seen.complaints if not any(part in one for part in seen.expected)] == []
    assert seen.elsewhere == []


@pytest.fixture
def shot():
    """Keeps a picture of a page for people to look at."""

    def keep(page, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    return keep
