"""A report's page in a real browser: it can be worked with, fits the screen, and asks nobody for anything."""

import io

import numpy as np
import pytest
from browser import console, requests, set_size, start_browser
from evaluations import made_up_evaluation
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from twostream.evaluation.strips import Strips
from twostream.reports.page.live import live_blocks
from twostream.reports.page.render import to_html
from twostream.reports.tables import compute_figures
from twostream.reports.text import MATRIX_PICTURES, report_blocks

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror=alert(1)>',
    "a' onclick='b",
    "d\udcff",
)


def image(format, size):
    file = io.BytesIO()
    Image.new("RGB", size, "orange").save(file, format)
    return file.getvalue()


def write_page(folder, evaluation):
    """Write a page as a report has it, with pictures of the largest size that reports have."""
    pictures = dict.fromkeys(
        ("per_class_f1.png", "stream_weights.png", "curves.png", *MATRIX_PICTURES), image("PNG", (1500, 900))
    )
    figures = compute_figures(evaluation)
    strips = Strips({index: image("WEBP", (294, 110)) for index in range(0, len(evaluation.videos), 2)})
    blocks = live_blocks(figures, report_blocks(figures, list(pictures)), strips)
    page = folder / "report.html"
    text = to_html(blocks, pictures, title="films", classes=evaluation.classes)
    page.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = start_browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def films():
    return made_up_evaluation()


@pytest.fixture
def page(browser, films, tmp_path):
    """The page of seven classes and 84 videos; whatever is done in it, nothing complains or is asked for."""
    path = write_page(tmp_path, films)
    requests(browser)
    set_size(browser, 1280)
    browser.get(path.as_uri())
    yield browser
    assert console(browser) == []
    assert {url.partition("#")[0] for url in requests(browser)} == {path.as_uri()}


def column(browser, table, number):
    """The texts of a table's column, of the rows that are shown."""
    script = (
        "return [...document.querySelector(arguments[0]).tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[arguments[1]].innerText.trim())"
    )
    return browser.execute_script(script, table, number)


def shown_videos(browser):
    return column(browser, "#video-table", 0)


def videos_where(evaluation, condition):
    return [video for video, kept in zip(evaluation.videos, condition, strict=True) if kept]


def choose(browser, name, text):
    Select(browser.find_element(By.NAME, name)).select_by_visible_text(text)


@pytest.mark.parametrize("count", [2, 21, 101])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_part_of_the_page_is_wider_than_the_window(count, width, browser, tmp_path):
    classes = tuple(
        f"{number:03d}_{'Playing' * (number % 4)}{'Violin' * (1 + number % 2)}" for number in range(count)
    )
    streams = ("rgb", "flow") if count > 2 else ("flow",)
    evaluation = made_up_evaluation(rows=2 * count + 20, classes=classes, streams=streams)
    path = write_page(tmp_path, evaluation)
    requests(browser)
    set_size(browser, width)
    browser.get(path.as_uri())
    page, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert page <= window
    # what is too wide scrolls in a frame that is inside
    inside = browser.execute_script(
        "const width = document.documentElement.clientWidth;"
        "const framed = (element) => element.parentElement.closest('.scroll, pre');"
        "return [...document.querySelectorAll('body *')].filter((element) => !framed(element))"
        ".filter((element) => element.getBoundingClientRect().right > width + 1).map((element) => element.outerHTML)"
    )
    assert inside == []
    cells = browser.execute_script(
        "const row = document.querySelector('table.matrix').tBodies[0].rows[0];"
        "return [row.cells[1].getBoundingClientRect().width, document.querySelectorAll('table.matrix').length]"
    )
    assert cells[0] >= 10
    assert cells[1] == len(evaluation.outputs)
    assert console(browser) == []
    assert requests(browser) == [path.as_uri()]


@pytest.mark.parametrize("count", [21, 101])
def test_nothing_is_cut_off_on_paper(count, browser, tmp_path):
    """On 17 cm, and what only works on a screen is not printed."""
    classes = tuple(f"Playing_Violin_{number:03d}" for number in range(count))
    browser.get(write_page(tmp_path, made_up_evaluation(rows=2 * count, classes=classes)).as_uri())
    set_size(browser, 660)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page, window, shown = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth,"
        " [...document.querySelectorAll('.tools, nav')].filter((tool) => tool.checkVisibility()).length]"
    )
    height = browser.execute_script(
        "return document.querySelector('#video-table').parentElement.clientHeight"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert page <= window
    assert shown == 0
    assert height > 900  # all rows, not a frame that scrolls


def test_a_click_on_a_head_sorts(page):
    table = page.find_element(By.CSS_SELECTOR, "#every-class table")
    names = [head.text.strip() for head in table.find_elements(By.CSS_SELECTOR, "th")]
    place = names.index("F1")
    button = table.find_elements(By.CSS_SELECTOR, "th button")[place]
    for wanted, state in ((True, "descending"), (False, "ascending")):
        button.click()
        values = [float(text) for text in column(page, "#every-class table", place)]
        assert values == sorted(values, reverse=wanted)
        assert len(set(values)) > 1
        assert table.find_elements(By.CSS_SELECTOR, "th")[place].get_attribute("aria-sort") == state
    table.find_elements(By.CSS_SELECTOR, "th button")[0].send_keys(Keys.ENTER)
    classes = column(page, "#every-class table", 0)
    assert classes == sorted(classes)
    assert len(table.find_elements(By.CSS_SELECTOR, "th[aria-sort]")) == 1


def test_what_is_no_number_comes_last(page):
    page.execute_script(
        "for (const row of document.querySelector('#every-class table').tBodies[0].rows)"
        "  if (row.cells[0].innerText === 'golf') row.cells[4].textContent = '-';"
    )
    button = page.find_elements(By.CSS_SELECTOR, "#every-class th button")[4]
    for _ in range(2):
        button.click()
        assert column(page, "#every-class table", 4)[-1] == "-"


def test_a_table_of_many_rows_is_filtered(page):
    """Seven classes and three outputs make 18 pairs."""
    box = page.find_element(By.CSS_SELECTOR, "#pairs-most-often-confused .row-filter")
    before = column(page, "#pairs-most-often-confused table", 0)
    box.send_keys("FLOW")
    assert set(column(page, "#pairs-most-often-confused table", 0)) == {"Flow"}
    said = page.find_element(By.CSS_SELECTOR, "#pairs-most-often-confused output").text
    assert said == f"{before.count('Flow')} of {len(before)}"
    box.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    assert column(page, "#pairs-most-often-confused table", 0) == before


def test_videos_are_found_by_name_class_and_answer(page, films):
    search = page.find_element(By.NAME, "search")
    search.send_keys("FILM03")
    assert shown_videos(page) == videos_where(films, ["film03" in video for video in films.videos])
    page.find_element(By.CSS_SELECTOR, "#video-filter button").click()
    assert shown_videos(page) == list(films.videos)
    jump = films.classes.index("jump")
    choose(page, "label", "jump")
    assert shown_videos(page) == videos_where(films, films.labels == jump)
    choose(page, "output", "RGB")
    choose(page, "right", "wrong")
    wrong = (films.labels == jump) & (films.predictions("rgb") != jump)
    assert shown_videos(page) == videos_where(films, wrong)
    assert page.find_element(By.CSS_SELECTOR, "#video-filter output").text == f"{wrong.sum()} of 84"
    choose(page, "label", "every class")
    choose(page, "right", "right or wrong")
    choose(page, "answer", "catch")
    assert shown_videos(page) == videos_where(films, films.predictions("rgb") == films.classes.index("catch"))


def test_few_videos_show_their_pictures(page, films):
    def visible():
        return [
            image for image in page.find_elements(By.CSS_SELECTOR, "#video-table img") if image.is_displayed()
        ]

    assert visible() == []
    page.find_element(By.NAME, "search").send_keys(films.videos[0])
    (picture,) = visible()
    assert picture.size["width"] == 294
    assert films.videos[0] in picture.get_attribute("alt")
    page.find_element(By.NAME, "search").send_keys(Keys.CONTROL + "a", Keys.DELETE)
    assert visible() == []
    page.find_element(By.CSS_SELECTOR, "#video-table summary").click()
    assert len(visible()) == 1


@pytest.mark.parametrize("output", ["fused", "flow"])
def test_a_cell_of_the_matrix_is_read_out_and_leads_to_its_videos(output, page, films):
    said = films.predictions(output)
    pairs = zip(films.labels.tolist(), said.tolist(), strict=True)
    label, answer = next((label, answer) for label, answer in pairs if label != answer)
    names = {"fused": "Fused", "flow": "Flow"}
    page.find_element(By.XPATH, f"//fieldset//label[contains(., '{names[output]}')]").click()
    (matrix,) = [
        found for found in page.find_elements(By.CSS_SELECTOR, "table.matrix") if found.is_displayed()
    ]
    assert matrix.find_element(By.CSS_SELECTOR, "caption").text.startswith(names[output])
    cell = matrix.find_element(By.CSS_SELECTOR, f"tbody tr:nth-child({label + 1}) td:nth-child({answer + 2})")
    chosen = (films.labels == label) & (said == answer)
    assert cell.text == str(chosen.sum())
    ActionChains(page).move_to_element(cell).perform()
    total = (films.labels == label).sum()
    assert page.find_element(By.CSS_SELECTOR, ".reading").text == (
        f"True class {films.classes[label]}, predicted {films.classes[answer]}: {chosen.sum()} of {total} videos "
        f"({100 * chosen.sum() / total:.1f} %)."
    )
    cell.click()
    assert shown_videos(page) == videos_where(films, chosen)
    assert page.current_url.endswith("#every-video")
    top = page.execute_script("return document.querySelector('#every-video').getBoundingClientRect().top")
    assert -1 <= top < 900


def test_the_matrix_is_reached_by_keys(page, films):
    table = page.find_element(By.CSS_SELECTOR, "table.matrix")
    table.find_element(By.CSS_SELECTOR, "td[tabindex='0']").send_keys("")
    keys = [Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT]
    for key in keys:
        page.switch_to.active_element.send_keys(key)
    assert page.find_element(By.CSS_SELECTOR, ".reading").text.startswith(
        "True class catch, predicted catch: "
    )
    assert len(table.find_elements(By.CSS_SELECTOR, "[tabindex='0']")) == 1
    page.switch_to.active_element.send_keys(Keys.ENTER)
    both = (films.labels == 1) & (films.predictions() == 1)
    assert shown_videos(page) == videos_where(films, both)
    assert page.switch_to.active_element.get_attribute("name") == "search"


def test_the_name_of_a_class_leads_to_its_videos(page, films):
    page.find_element(By.LINK_TEXT, "golf").click()
    assert shown_videos(page) == videos_where(films, films.labels == films.classes.index("golf"))


def test_names_are_text_whatever_they_hold(browser, tmp_path):
    evaluation = made_up_evaluation(rows=30, classes=(*HOSTILE, "run"))
    path = write_page(tmp_path, evaluation)
    requests(browser)
    browser.get(path.as_uri())
    assert browser.title == "films"
    names = [name.encode("utf-8", "backslashreplace").decode() for name in evaluation.classes]
    assert column(browser, "#every-class table", 0) == names
    options = browser.find_elements(By.CSS_SELECTOR, "select[name='label'] option")
    assert [option.text for option in options[1:]] == names
    for name in names[:2]:
        choose(browser, "label", name)
        assert len(shown_videos(browser)) == (evaluation.labels == names.index(name)).sum()
    assert console(browser) == []
    assert requests(browser) == [path.as_uri()]


def test_text_can_be_read_on_its_ground_in_the_light_and_in_the_dark(page):
    """WCAG's contrast of at least 4.5."""
    script = (
        "const style = getComputedStyle(document.querySelector(arguments[0])); return style[arguments[1]]"
    )

    def light(colour):
        values = np.array([float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    grounds = set()
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        ground = light(page.execute_script(script, "body", "backgroundColor"))
        grounds.add(ground)
        for selector in ("body", "a", "figcaption", "td.wrong"):
            text = light(page.execute_script(script, selector, "color"))
            low, high = sorted((ground, text))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, selector)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(grounds) == 2
