"""The page in a real browser: a search, a composed refinement, an upload that is refused, captions, a region drawn by hand, by mouse and by keyboard, a phone.

Chromium and its driver have to be on the PATH; without them the tests are skipped, unless ``UNIFASHION_BROWSER=required``, as CI has it.
``UNIFASHION_SCREENSHOTS=FOLDER`` keeps pictures to be looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
ABSENT = os.environ.get("UNIFASHION_BROWSER") != "required" and (BROWSER is None or DRIVER is None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ABSENT, reason="no Chromium with its driver on the PATH (Debian: chromium chromium-driver)"),
]
DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE = 60.0


class Page:
    """The page in a browser of some size."""

    def __init__(self, address: str, size: tuple[int, int], scratch: Path) -> None:
        options = ChromeOptions()
        options.binary_location = BROWSER or ""
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--disable-background-networking",
        ):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={scratch}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        if size == PHONE:
            device = {"deviceMetrics": {"width": size[0], "height": size[1], "pixelRatio": 2.0, "touch": True}}
            options.add_experimental_option("mobileEmulation", device)
        self.driver = Chrome(options=options, service=ChromeService(DRIVER))
        if size == DESKTOP:
            self.driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
            )
        self.name = "phone" if size == PHONE else "desktop"
        self.driver.get(address)
        self.until(lambda: self.one("body").get_attribute("data-ready"))

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, what: Any) -> Any:
        """What becomes true, or what the page says meanwhile."""
        try:
            return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1).until(lambda _: what())
        except Exception as error:
            raise AssertionError(self.each(".error, .note", "innerText")) from error

    def idle(self) -> None:
        """Nothing is being worked on any more."""
        self.until(lambda: not self.all(".busy"))

    def tab(self, name: str) -> None:
        self.one(f"#tab-{name}").click()
        self.until(lambda: self.one(f"#panel-{name}").is_displayed())

    def click(self, element: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def each(self, selector: str, what: str) -> list[str]:
        """Of all elements at one moment: the page may build them anew meanwhile."""
        return list(
            self.driver.execute_script(f"return [...document.querySelectorAll(arguments[0])].map(e => e.{what})", selector)
        )

    def ids(self) -> list[str]:
        return self.each("#hits > li", "dataset.id")

    def search(self, text: str) -> list[str]:
        before = self.history()
        self.one("#search-text").send_keys(text, Keys.ENTER)
        self.until(lambda: self.history() != before)
        return self.ids()

    def history(self) -> list[str]:
        return self.each("#history button", "innerText")

    def kept(self, name: str) -> None:
        """A screenshot for people."""
        if folder := os.environ.get("UNIFASHION_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{self.name}-{name}.png"))

    def hosts(self) -> set[str | None]:
        """Of all that this page's browser asked for over a network."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        assert len(sent) > 4
        return {
            urlsplit(url).hostname for url in sent if not url.startswith(("data:", "blob:", "chrome:", "chrome-untrusted:"))
        }

    def complaints(self) -> list[str]:
        """Errors of the console, refused by the page's own policy among them; answers of 4xx are meant."""
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [line for line in found if "Failed to load resource" not in line]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The command as a user calls it, on the shipped model: its address, and its folder of temporary files."""
    folder, temporary = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "unifashion_pl", "demo", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    yield found[0], temporary
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert [*folder.iterdir()] == []


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, server: tuple[str, Path], tmp_path: Path) -> Iterator[Page]:
    opened = Page(server[0], request.param, tmp_path / "browser")
    yield opened
    try:
        assert opened.complaints() == []
        assert opened.hosts() == {"127.0.0.1"}
        assert [*server[1].iterdir()] == []
        wide = opened.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1]
    finally:
        opened.driver.quit()


def test_a_search_is_refined_and_taken_back(page: Page) -> None:
    page.kept("start")
    first = page.search("red dress")
    assert len(first) == 12
    assert "dress" in page.one("#hits > li .about").text.lower()
    page.kept("search")
    page.click(page.one("#hits .pic"))
    page.until(lambda: len(page.history()) == 2)
    assert first[0] not in page.ids()
    like = page.ids()
    assert page.one("#search-label").text == "What should be different?"
    blue = page.search("is blue")
    assert page.history()[2] == "and is blue"
    assert blue != like
    colours = [card.text.lower() for card in page.all("#hits > li .about b")]
    assert "blue" in colours[0]
    page.kept("composed")
    page.click(page.one("#undo"))
    assert page.ids() == like
    page.click(page.all("#history button")[0])
    assert page.ids() == first
    page.click(page.one("#anew"))
    assert page.history() == []
    assert page.one("#shelf").is_displayed()


def test_an_upload_that_is_no_photo_or_too_large_is_refused_and_a_photo_is_searched(page: Page, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("these are no pixels")
    (tmp_path / "large.png").write_bytes(bytes(13 << 20))
    Image.effect_noise((300, 400), 60).convert("RGB").save(tmp_path / "photo.jpg")
    choose = page.one("#search-photo input")
    choose.send_keys(str(tmp_path / "holiday.jpg"))
    said = page.until(lambda: page.all("#search-photo .error"))[0].text
    assert "is no picture that can be used" in said
    assert "Expected: JPEG, PNG, WebP, AVIF or HEIC, at most 12.0 MB" in said
    assert "save this one as JPEG or PNG" in said
    assert page.one("#search-photo .error").get_attribute("role") == "alert"
    page.kept("refused")
    choose.send_keys(str(tmp_path / "large.png"))
    page.until(lambda: "large.png has 13.0 MB" in page.one("#search-photo .status").text)
    assert page.history() == []
    choose.send_keys(str(tmp_path / "photo.jpg"))
    page.until(lambda: page.history() == ["photo.jpg"])
    assert len(page.ids()) == 12


def test_a_search_that_cannot_be_done_is_said_in_the_page(page: Page) -> None:
    page.one("#search-text").send_keys("漢字", Keys.ENTER)
    said = page.until(lambda: page.all("#search-status .error"))[0].text
    assert "can be read by this model" in said
    assert page.history() == []


def test_captions_in_three_styles(page: Page) -> None:
    page.tab("caption")
    page.click(page.all("#caption-photo .examples button")[0])
    said = page.until(lambda: page.all("#captions dd"))
    assert len({text.text for text in said}) == 3
    page.kept("caption")


def pixels(page: Page, canvas: WebElement) -> int:
    """Of a pad, how many are drawn over: those that differ from the picture shown below."""
    script = (
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] * 31 + d[i + 1] * 7 + d[i + 2]; return n"
    )
    return int(page.driver.execute_script(script, canvas))


def test_try_on_in_a_region_drawn_by_hand(page: Page) -> None:
    page.tab("tryon")
    page.click(page.all("#tryon-garment .examples button")[5])
    clear = next(button for button in page.all("#tryon-pad .tools button") if button.text == "Clear")
    page.click(clear)
    page.click(page.one("#tryon-go"))
    assert "Nothing says where to paint" in page.until(lambda: page.all("#tryon-paint .error"))[0].text
    page.driver.execute_script("const b = document.querySelector('#tryon-pad input[type=range]'); b.value = 70")
    canvas = page.one("#tryon-pad canvas")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    before, width, height = pixels(page, canvas), canvas.size["width"], canvas.size["height"]
    hand = ActionChains(page.driver, duration=60)
    for share in (-0.1, 0.05, 0.2, 0.3):
        hand.move_to_element_with_offset(canvas, round(-0.25 * width), round(share * height)).click_and_hold()
        hand.move_by_offset(round(0.5 * width), 0).release()
    hand.perform()
    assert pixels(page, canvas) != before
    page.click(page.one("#tryon-go"))
    page.until(lambda: page.all("#tryon-paint figure img"))
    assert str(page.one("#tryon-paint figure img").get_attribute("src")).startswith("data:image/png;base64,")
    page.kept("tryon")
    assert "painted in" in page.one("#tryon-paint figcaption").text


def test_design_from_words(page: Page) -> None:
    page.tab("design")
    page.click(page.all("#design-chips button")[0])
    page.click(page.one("#design-go"))
    page.until(lambda: page.all("#design-paint figure img"))
    page.kept("design")


def test_all_of_it_by_keyboard(page: Page) -> None:
    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> str:
        script = "const e = document.activeElement; return e.id || e.getAttribute('aria-label') || e.textContent"
        return str(page.driver.execute_script(script))

    def tab_to(what: str) -> None:
        for _ in range(60):
            if what in focused():
                return
            press(Keys.TAB)
        raise AssertionError(f"{what} is not reached by Tab")

    tab_to("search-text")
    press("black", Keys.ENTER)
    page.until(lambda: page.history() == ["black"])
    tab_to("Go on from")
    press(Keys.ENTER)
    page.until(lambda: len(page.history()) == 2)
    page.driver.execute_script("document.activeElement.blur()")
    page.one("#tab-search").send_keys(Keys.ARROW_RIGHT, Keys.NULL)
    assert focused() == "tab-caption"
    press(Keys.ARROW_RIGHT)
    assert focused() == "tab-tryon"
    tab_to("Draw the region")
    canvas = page.one("#tryon-pad canvas")
    states = [pixels(page, canvas)]
    for keys in (([Keys.SPACE]), [Keys.ARROW_UP] * 6 + [Keys.DELETE], [Keys.ARROW_LEFT] * 4 + [Keys.SPACE]):
        press(*keys)
        states.append(pixels(page, canvas))
    assert len(set(states)) == len(states)
    tab_to("A box by numbers")
    press(Keys.ENTER)
    tab_to("Fill the box")
    press(Keys.ENTER)
    tab_to("tryon-go")
    press(Keys.ENTER)
    page.until(lambda: page.all("#tryon-paint figure img"))


def test_every_control_has_a_name_and_fingers_can_hit_it(page: Page) -> None:
    page.search("red")
    for name in ("search", "caption", "tryon", "design"):
        page.tab(name)
        time.sleep(0.1)
        for control in page.all("button, input:not([type=file]), select, canvas[tabindex]"):
            if control.is_displayed():
                assert control.accessible_name, control.get_attribute("outerHTML")[:120]
                assert min(control.size.values()) >= 20, control.get_attribute("outerHTML")[:120]
