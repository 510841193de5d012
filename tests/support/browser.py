"""Drive a real browser: Chromium without a window, started with a profile of its own and no errands of its own."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import SessionNotCreatedException

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def start_browser(profile):
    """Start the browser, or skip the test, saying what is missing.

    Args:
        profile: a folder that the browser may make and fill.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip(
            f"needs {'chromedriver' if program else 'Chromium'} on the PATH (Debian: chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except SessionNotCreatedException as error:  # such as a driver of another version
        pytest.skip(f"{driver} cannot start {program}: {error.msg.splitlines()[0]}")


def set_size(browser, width, height=900):
    """Give the page a size, also one that a window of the browser cannot have."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def console(browser):
    """Return what the page has written to the console, errors included, since it was last asked for."""
    return [f"{entry['level']}: {entry['message']}" for entry in browser.get_log("browser")]


def requests(browser):
    """Return the addresses that were asked for since this was last called.

    Data inside the page is none, nor is what the browser's own first page loads from the browser.
    """
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [
        url for url in (event["request"]["url"] for event in sent) if not url.startswith(("data:", "chrome:"))
    ]
