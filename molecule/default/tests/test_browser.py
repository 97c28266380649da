"""The site as a browser shows it, over real https: it trusts the CA of the scenario and waves nothing through."""

import os
import re
import shutil
import subprocess
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

SCREENSHOTS = Path(__file__).parents[3] / ".cache" / "screenshots"


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: run tools/setup chromium"
    return found


@contextmanager
def chromium(site, folder, trusted: bool = True):
    """A browser that has never run before; it knows the names of the site and no others."""
    folder.mkdir()
    if trusted:
        # Where Chromium on Linux looks for what its user trusts beyond its own list.
        store = folder / ".pki" / "nssdb"
        store.mkdir(parents=True)
        certutil = [program("certutil"), "-d", f"sql:{store}"]
        subprocess.run([*certutil, "-N", "--empty-password"], check=True)
        subprocess.run([*certutil, "-A", "-n", "scenario", "-t", "C,,", "-i", site.roots], check=True)
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    names = [f"MAP {domain} {site.address}" for domain in site.domains]
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--no-proxy-server",
        "--window-size=1280,1500",
        f"--user-data-dir={folder / 'profile'}",
        f"--host-resolver-rules={', '.join([*names, 'MAP * ~NOTFOUND'])}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program("chromedriver"), env={**os.environ, "HOME": str(folder)})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(20)
        driver.set_script_timeout(20)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def mark() -> str:
    """What the titles of this run have in common."""
    return uuid.uuid4().hex[:8]


@pytest.fixture(scope="module")
def visitor(site, mark, tmp_path_factory):
    """A browser for all tests of one server; what was posted is shown to a human, then removed."""
    with chromium(site, tmp_path_factory.mktemp("browser") / "home") as driver:
        yield driver
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        driver.get(f"https://{site.canonical}/")
        load_pictures(driver)
        driver.execute_script("scrollTo(0, 0)")
        driver.save_screenshot(SCREENSHOTS / f"{site.name}-board.png")
    site.manage(
        *("shell", "-v", "0", "-c"),
        "from notes.models import Notice, PrivateFile;"
        f'Notice.objects.filter(title__contains="{mark}").delete();'
        f'PrivateFile.objects.filter(name__contains="{mark}").delete()',
    )


@pytest.fixture
def browser(site, visitor):
    """The browser on the board; after the test its console holds no error."""
    visitor.get_log("browser")
    visitor.get(f"https://{site.canonical}/")
    yield visitor
    errors = [line["message"] for line in visitor.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


@pytest.fixture
def title(mark) -> str:
    return f"{mark} {uuid.uuid4().hex[:8]}"


def submit(browser, form: str, **fields) -> None:
    """Fill in the form as a visitor does, send it, and wait for the next page."""
    old = browser.find_element(By.TAG_NAME, "html")
    panel = browser.find_element(By.ID, form)
    for name, value in fields.items():
        panel.find_element(By.NAME, name).send_keys(str(value))
    panel.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    WebDriverWait(browser, 20).until(
        lambda driver: (
            driver.find_element(By.TAG_NAME, "html") != old
            and driver.execute_script("return document.readyState") == "complete"
        )
    )


def notice(browser, title: str):
    return browser.find_element(By.XPATH, f"//article[.//h3[normalize-space()='{title}']]")


def load_pictures(browser) -> list[dict]:
    """Scroll to every picture, as they are fetched only then; wait until the browser is done with them."""
    return browser.execute_async_script(
        """
        const done = arguments[0];
        (async () => {
          for (const image of document.images) {
            image.scrollIntoView();
            while (!image.complete) await new Promise(next => setTimeout(next, 50));
          }
          done([...document.images].map(image => ({url: image.currentSrc, width: image.naturalWidth})));
        })();
        """
    )


def fetch(browser, url: str) -> dict:
    """What a script of the page gets; a header that came twice has its values joined by a comma."""
    return browser.execute_async_script(
        """
        const [url, done] = arguments;
        fetch(url, {cache: "no-store"}).then(async answer => done({
          status: answer.status,
          headers: Object.fromEntries(answer.headers),
          body: await answer.text(),
        }), error => done({status: 0, body: String(error)}));
        """,
        url,
    )


def style(browser, selector: str, *names: str) -> list[str]:
    return browser.execute_script(
        """
        const style = getComputedStyle(document.querySelector(arguments[0]));
        return arguments[1].map(name => style.getPropertyValue(name));
        """,
        selector,
        names,
    )


def test_page_is_a_secure_context_over_http_2(site, browser):
    assert browser.current_url == f"https://{site.canonical}/"
    assert browser.execute_script("return [isSecureContext, location.protocol]") == [True, "https:"]
    protocol = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
    assert browser.execute_script(protocol) == "h2"


def test_browser_without_the_ca_rejects_the_certificate(site, tmp_path):
    with chromium(site, tmp_path / "home", trusted=False) as stranger:
        stranger.get(f"https://{site.canonical}/")
        assert "ERR_CERT_AUTHORITY_INVALID" in stranger.page_source
        assert stranger.find_elements(By.ID, "notice-form") == []


def test_other_name_over_http_ends_at_canonical_name_over_https(site, browser):
    browser.get(f"http://{site.domains[1]}/private/")
    assert browser.current_url == f"https://{site.canonical}/private/"
    assert browser.find_element(By.TAG_NAME, "h1").text == "Private files"


def test_page_uses_its_hashed_stylesheet(site, browser):
    (sheet,) = browser.execute_script(
        "return [...document.styleSheets].map(sheet => [sheet.href, sheet.cssRules.length])"
    )
    assert re.fullmatch(rf"https://{site.canonical}/static/notes/site\.[0-9a-f]{{12}}\.css", sheet[0])
    assert sheet[1] > 20
    # Without it: no margin of its own, a white page, a grey and square button.
    assert style(browser, "body", "margin-left", "display") == ["0px", "flex"]
    assert style(browser, "body", "background-color")[0] not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    assert style(browser, ".button[type=submit]", "border-radius", "border-top-width") == ["9px", "0px"]


def test_page_loads_all_resources_over_https_from_the_site(site, browser):
    pictures = load_pictures(browser)
    assert pictures
    assert [picture for picture in pictures if not picture["width"]] == []
    resources = browser.execute_script(
        "return performance.getEntriesByType('resource').map(item => [item.name, item.responseStatus])"
    )
    assert len(resources) >= 2
    for url, status in resources:
        assert url.startswith(f"https://{site.canonical}/"), url
        assert status == 200, url


def test_a_notice_is_posted_and_shown(site, browser, title):
    text = "Zwei Stühle & <b>ein Tisch</b>, 5 €.\nWho wants them?"
    submit(browser, "notice-form", title=title, text=text)
    assert browser.current_url == f"https://{site.canonical}/"
    # The answer was a redirect: to reload the page posts nothing again.
    count = "return performance.getEntriesByType('navigation')[0].redirectCount"
    assert browser.execute_script(count) == 1
    assert browser.find_element(By.CSS_SELECTOR, ".message").text == "Your notice is on the board."
    assert notice(browser, title).find_element(By.CSS_SELECTOR, ".text").text == text
    browser.refresh()
    assert len(browser.find_elements(By.XPATH, f"//h3[normalize-space()='{title}']")) == 1
    assert browser.find_elements(By.CSS_SELECTOR, ".message") == []


def test_a_picture_is_uploaded_and_shown(site, browser, title, tmp_path):
    picture = tmp_path / "lane.png"
    sunrise = ImageOps.colorize(Image.radial_gradient("L"), "#f0a53a", "#1f6b4f")
    sunrise.resize((640, 360)).save(picture)
    submit(browser, "notice-form", title=title, text="With a picture.", image=picture)
    load_pictures(browser)
    image = notice(browser, title).find_element(By.CSS_SELECTOR, ".picture img")
    url = image.get_property("currentSrc")
    assert re.fullmatch(rf"https://{site.canonical}/media/images/[0-9a-f]{{32}}\.webp", url)
    assert (image.get_property("naturalWidth"), image.get_property("naturalHeight")) == (640, 360)
    assert image.is_displayed()
    assert image.size["width"] > 300
    # Opened by itself it is shown as well, though nothing within it might run.
    browser.get(url)
    assert browser.execute_script("return document.images[0].naturalWidth") == 640


def test_an_attachment_is_downloaded_and_not_opened(browser, title, tmp_path):
    attachment = tmp_path / "list.txt"
    attachment.write_text("chairs, table")
    submit(browser, "notice-form", title=title, text="With a list.", attachment=attachment)
    link = notice(browser, title).find_element(By.CSS_SELECTOR, "a.attachment")
    answer = fetch(browser, link.get_property("href"))
    assert (answer["status"], answer["body"]) == (200, "chairs, table")
    assert answer["headers"]["content-disposition"] == "attachment"
    assert answer["headers"]["x-content-type-options"] == "nosniff"


def test_text_posing_as_a_picture_is_refused_with_a_message(browser, title, tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_text("<script>alert(1)</script>")
    submit(browser, "notice-form", title=title, text="Not a picture.", image=fake)
    assert (
        browser.find_element(By.CSS_SELECTOR, ".field.invalid .errorlist").text
        == "This is not a whole PNG, JPEG, WebP or GIF picture."
    )
    assert "That was not accepted." in browser.find_element(By.CSS_SELECTOR, "[role=alert]").text
    # What was typed is not lost, and nothing is on the board.
    assert browser.find_element(By.NAME, "title").get_property("value") == title
    assert browser.find_elements(By.XPATH, f"//h3[normalize-space()='{title}']") == []


def test_file_of_19_mb_is_refused_with_message_of_the_project(browser, title, tmp_path):
    large = tmp_path / "large.txt"
    large.write_text("x" * 19_000_000)
    submit(browser, "notice-form", title=title, text="Too much.", attachment=large)
    assert (
        browser.find_element(By.CSS_SELECTOR, ".field.invalid .errorlist").text
        == "The file is too large; the limit is 5 MB."
    )


def test_private_file_is_visible_only_to_its_uploader(site, browser, title, tmp_path):
    secret = tmp_path / f"{title}.txt"
    secret.write_text("for my eyes alone")
    browser.get(f"https://{site.canonical}/private/")
    submit(browser, "private-form", file=secret)
    assert browser.current_url == f"https://{site.canonical}/private/"
    url = browser.find_element(By.LINK_TEXT, secret.name).get_property("href")

    mine = fetch(browser, url)
    assert (mine["status"], mine["body"]) == (200, "for my eyes alone")
    assert mine["headers"]["content-disposition"] == f'attachment; filename="{secret.name}"'
    assert mine["headers"]["x-content-type-options"] == "nosniff"
    assert "x-accel-redirect" not in mine["headers"]

    with chromium(site, tmp_path / "home") as stranger:
        stranger.get(f"https://{site.canonical}/private/")
        assert stranger.find_elements(By.ID, "private-files") == []
        assert fetch(stranger, url)["status"] == 404
        stranger.get(url)
        assert stranger.find_element(By.TAG_NAME, "h1").text == "This page is not on the board"


def test_session_cookie_is_http_only_and_all_cookies_are_secure(site, browser, tmp_path, title):
    secret = tmp_path / f"{title}.txt"
    secret.write_text("x")
    browser.get(f"https://{site.canonical}/private/")
    submit(browser, "private-form", file=secret)
    cookies = {cookie["name"]: cookie for cookie in browser.get_cookies()}
    session = next(cookie for name, cookie in cookies.items() if "sessionid" in name)
    assert session["httpOnly"]
    assert [name for name, cookie in cookies.items() if not cookie["secure"]] == []
    assert session["name"] not in browser.execute_script("return document.cookie")
