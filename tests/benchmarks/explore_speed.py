"""How long the page of a run makes one wait: for its first image, and for the answer to a slider.

    python tests/benchmarks/explore_speed.py runs/NAME/seed_0 [data.root=DIR ...]

Chromium, without a window, on the same cores. An answer is timed from the move of the slider to the moment
at which the page has the new picture.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

from playwright.sync_api import sync_playwright

WAIT = 60_000  # milliseconds
SOURCES = """place => [...document.querySelectorAll(place + " img, " + place + " .lrp-grid")]
    .map(shown => shown.src || shown.style.getPropertyValue("--picture")).join()"""
# Resolves with the milliseconds from the call to the frame that follows a change of the images.
TIMED = f"""([place, selector, key]) => new Promise((resolve) => {{
    const sources = {SOURCES};
    const before = sources(place);
    const slider = document.querySelector(selector);
    const start = performance.now();
    const look = () => {{
        if (sources(place) !== before) resolve(performance.now() - start);
        else requestAnimationFrame(look);
    }};
    slider.value = Number(slider.value) + key;
    slider.dispatchEvent(new Event("input", {{ bubbles: true }}));
    requestAnimationFrame(look);
}})"""


def serve(arguments):
    """The process of the page, its address and the seconds until that was printed."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pyro_lrp.explore", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        address = re.match(r"http://\S+", line)
        if address:
            return process, address.group(), time.perf_counter() - start
    sys.exit("the page was not served")


def first_image(browser, address):
    """Seconds from the request of the page to its first image."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("#samples [data-index]", timeout=WAIT)
    seconds = time.perf_counter() - start
    return page, seconds


def answers(page, tab, place, selector, key, rounds):
    """Milliseconds of the answers to a slider of a tab."""
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector(f"{place} img, {place} .lrp-grid", timeout=WAIT)
    page.wait_for_timeout(1000)
    times = []
    for number in range(rounds + 2):
        step = key if number % 2 == 0 else -key
        times.append(page.evaluate(TIMED, [place, selector, step]))
        page.wait_for_timeout(100)
    return times[2:]


def described(times):
    ranked = sorted(times)
    ninety = ranked[int(0.9 * (len(ranked) - 1))]
    return f"median {statistics.median(times):.0f} ms, 90 % within {ninety:.0f} ms, at most {ranked[-1]:.0f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("options", nargs="*")
    parser.add_argument("--rounds", type=int, default=40)
    parsed = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("needs Chromium: apt-get install chromium")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before")
    process, address, started = serve([f"run={parsed.run}", *parsed.options])
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            opened = []
            for _ in range(5):
                page, seconds = first_image(browser, address)
                opened.append(seconds)
            rows = ", ".join(f"{seconds:.2f}" for seconds in opened)
            print(f"from the command to the address   {started:.1f} s")
            print(f"from the address to the first image   {rows} s")
            sliders = (
                (
                    "a component, decoded, with the gauge",
                    "Directions",
                    "#moved",
                    "#moves input[type=range]",
                    1.0,
                ),
                ("the temperature, all samples", "Samples", "#samples", "#temperature input[type=range]", 0.2),
            )
            for name, tab, place, selector, key in sliders:
                times = answers(page, tab, place, selector, key, parsed.rounds)
                print(f"{name}   {described(times)}")
            browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    print(f"load average {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
