"""The page of a run in a real browser: it answers to mouse and keyboard, on narrow screens, and stays local."""

import os
import re
import shutil
import signal
import socket
import time
import urllib.request

import pytest
from commands import QUICK, Unread, forked, in_process
from PIL import Image

import pyro_lrp
from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.explorer import Explorer

gradio = pytest.importorskip("gradio", reason="the page needs gradio, of the extra explore")
playwright = pytest.importorskip("playwright.sync_api", reason="browsers are driven by playwright")

SMALL = (
    "data=digits", "data.limit=200", "latent_dim=4", "prior=conditional_flow", "context=label",
    "prior.layers=2", "prior.width=8", *QUICK[1:], "epochs=3",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
SOURCES = """place => [...document.querySelectorAll(place + " img, " + place + " .lrp-grid")]
    .map(shown => shown.src || shown.style.getPropertyValue("--picture")).join()"""
TABS = ("Samples", "Map", "Directions", "Interpolation")


@pytest.fixture(scope="module")
def run(tmp_path_factory, lend_cache):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYRO_LRP_CACHE", str(lend_cache(folder / "cache")))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        code, _, _ = in_process("train", *SMALL, "name=shown", capsys=Unread(), monkeypatch=patch)
        assert code == 0
        yield folder / "runs" / "shown" / "seed_0"


@pytest.fixture(scope="module")
def address(run):
    from pyro_lrp.figures.explorer.page import serve

    served = serve(Explorer(pyro_lrp.Run(run)))
    served.prepare()
    yield served.address
    served.close()


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page in a window of some width; in the end nothing may have been logged or sent elsewhere."""
    pages = []
    faults = []

    def check_request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(request.url)

    def check_message(message):
        if message.type == "error":
            faults.append(message.text)

    def open_page(width=1200):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(20_000)
        page.on("console", check_message)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", check_request)
        page.goto(address)
        pages.append(page)
        wait_ready(page, "#samples")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert faults == []


def wait_ready(page, place):
    """Wait until a picture is there that can be clicked."""
    page.wait_for_selector(f"{place}[data-ready] button, {place} [data-ready] button, {place} [data-ready] svg")


def open_tab(page, name):
    """Choose a tab, which may stand in the menu of those for which there is no room."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def changed(page, place, before):
    """Wait until a place of the page has other images, and return these."""
    page.wait_for_function(f"([place, before]) => ({SOURCES})(place) !== before", arg=[place, before])
    return page.evaluate(SOURCES, place)


def test_samples_come_first_and_one_of_them_is_looked_into(visit):
    page = visit()
    assert page.title() == "vae_flow on digits"
    first = changed(page, "#samples", "")
    assert first.count("data:image/png") == 1, "one picture of all"
    assert page.locator("#samples button").count() == 60
    assert page.locator("#samples .lrp-title").all_inner_texts() == [str(digit) for digit in range(10)]
    page.locator("#samples button").nth(3).click()
    page.get_by_text("Nearest training images").wait_for()
    assert page.locator("#samples button").nth(3).get_attribute("aria-pressed") == "true"
    assert "log p(z) = " in page.locator("#sample").inner_text()
    page.get_by_role("button", name="Other samples").click()
    second = changed(page, "#samples", first)
    page.get_by_role("combobox", name="Class").click()
    page.get_by_role("option", name="7", exact=True).click()
    changed(page, "#samples", second)
    assert "'context=[7]'" in page.locator("#samples").inner_text()
    page.locator("#samples button").first.click()
    page.locator("#sample").get_by_text("sample 1", exact=True).wait_for()
    page.get_by_role("button", name="Move the code of this sample").click()
    page.locator("#moved").get_by_text("sample 1").wait_for()


def test_a_slider_moved_by_keys_changes_the_picture(visit):
    page = visit()
    open_tab(page, "Directions")
    first = changed(page, "#moved", "")
    said = page.locator("#moved .lrp-gauge p").first.inner_text()
    page.get_by_role("slider", name="Component 1").focus()
    page.keyboard.press("End")
    second = changed(page, "#moved", first)
    assert second.split(",data")[0] == first.split(",data")[0], "the start stays"
    assert page.locator("#moved .lrp-gauge p").first.inner_text() != said
    page.get_by_role("button", name="All sliders to 0").click()
    page.wait_for_function(f"first => ({SOURCES})('#moved') === first", arg=first)


def test_the_map_is_walked_by_mouse_and_by_keys(visit):
    page = visit()
    open_tab(page, "Map")
    first = changed(page, "#place", "")
    wait_ready(page, "#map")
    box = page.locator("#map svg").bounding_box()
    page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])
    second = changed(page, "#place", first)
    page.locator(".lrp-map").focus()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    changed(page, "#place", second)
    colours = page.locator("#map path").count()
    page.get_by_role("radio", name="log p(z)").check()
    page.locator("#map").get_by_text("nats").first.wait_for()
    assert (colours, page.locator("#map path").count()) == (10, 10)
    page.get_by_role("button", name="Move the code at the mark").click()
    page.locator("#moved").get_by_text("code at the mark").wait_for()


def test_a_path_leads_to_an_image_of_ones_own(visit, tmp_path):
    page = visit()
    open_tab(page, "Interpolation")
    first = changed(page, "#paths", "")
    assert first.count("data:image") == 2 * 10
    page.get_by_label("To test image").fill("5")
    second = changed(page, "#paths", first)
    Image.new("L", (20, 20), 200).save(tmp_path / "mine.png")
    page.get_by_text("To an image of your own").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "mine.png")
    changed(page, "#paths", second)
    assert page.locator("#paths").get_by_text("your image").count() == 2
    page.get_by_label("From test image").fill("9999")
    page.get_by_text("test image: 9999 is outside the test images of digits, 0 to ").wait_for()
    for name in ("z_0", "z_T"):
        page.get_by_role("checkbox", name=name).uncheck()
    page.get_by_label("From test image").fill("9")
    page.get_by_text("choose a space").wait_for()


def test_a_narrow_screen_shows_all(visit):
    page = visit(width=400)
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, name


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # gradio leaves a socket open
def test_a_port_that_is_taken_is_one_sentence(address, run):
    from pyro_lrp.figures.explorer.page import serve

    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"port={port} is taken: choose another, or leave it out"):
        serve(Explorer(pyro_lrp.Run(run)), port)


def test_the_page_stays_on_this_machine(run, tmp_path):
    """As a command: on the loopback interface alone, with a policy against everything else, until Ctrl-C."""
    process = forked("explore", f"run={run}", "device=cpu", cwd=tmp_path)
    output = tmp_path / "output.txt"
    deadline = time.monotonic() + 120
    try:
        while not output.is_file() or not output.read_text().endswith("\n"):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        line = output.read_text()
        address, port = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)/)  \(Ctrl-C ends it\)\n", line).groups()
        with urllib.request.urlopen(address) as page:
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'self' data: blob:; ")
            assert "http" not in policy
            assert not re.findall(r"""(?:src|href)=["']https?://""", page.read().decode())
        other = socket.gethostbyname(socket.gethostname())
        if not other.startswith("127."):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((other, int(port)), timeout=2)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert (output.read_text(), process.exitcode) == (line, 0)
    finally:
        process.kill()
        process.join()
