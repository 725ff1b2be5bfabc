"""Make the picture of the console in docs/: a real transmission of the sample, in Chromium. `make pictures`."""

import shutil
from pathlib import Path

from harness.client import Client, Urls
from harness.cluster import Cluster
from harness.sample import sample_text

PLACE = Path(__file__).parents[1] / "docs" / "console.png"
_SIZE = {"width": 1180, "height": 1240}


def main() -> None:
    """Needs Chromium and the extra `dev`."""
    from playwright.sync_api import sync_playwright

    chromium = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with (
        Cluster(console_port=0, warm=["ngram"]) as cluster,
        Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as client,
        sync_playwright() as playwright,
    ):
        dataset = client.post_octets(sample_text(), "pydoc_data.topics")
        identifier = client.transmit(dataset["id"], "ngram")["transmission"]
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(viewport=_SIZE)
        page.goto(f"{cluster.console}/runs/{identifier}")
        page.wait_for_selector("text=Every byte on the socket")
        page.wait_for_timeout(1500)  # text and pictures
        page.screenshot(path=PLACE)


if __name__ == "__main__":
    main()
