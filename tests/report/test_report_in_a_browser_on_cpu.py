"""The token view in a real headless browser, on hostile texts, in light and dark."""

import shutil

import pytest
from made_up_runs import HOSTILE, write_run, write_tokens

from recipe.egrsd.report.__main__ import main

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {BROWSERS} is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_run(folder / "cl_egrsd")
    main([str(folder / "cl_egrsd"), "--out", str(folder / "report.html")])
    return folder / "report.html"


@pytest.fixture(params=["light", "dark"])
def page(browser, report, request):
    """The open page; what it asks for and complains about is checked at the end."""
    page = browser.new_page(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    requests, complaints = [], []
    page.on("request", lambda asked: requests.append(asked.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(report.as_uri())
    yield page
    assert page.title() == "EGRSD report"
    assert requests == [report.as_uri()] and not complaints
    page.close()


def background(page, t: int) -> str:
    return page.locator("#text span").nth(t).evaluate("element => getComputedStyle(element).backgroundColor")


def numbers(page) -> dict[str, str]:
    names, values = (page.locator(f"#numbers {tag}").all_text_contents() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def test_hostile_tokens_stay_text(page):
    page.select_option("#response", "3")
    shown = page.locator("#text span").all_text_contents()
    assert shown == [text.replace("\n", "⏎\n") or "·" for text in HOSTILE]
    assert page.locator("#text *:not(span)").count() == 0 and page.locator("img").count() == 0


def test_colours_follow_the_switch_and_hovering_shows_the_numbers(page):
    assert page.locator("#text span").count() == 160
    kinds = page.locator("#text span").evaluate_all("spans => spans.map(span => span.className)")
    pivot, fork = kinds.index("pivot"), 33
    assert kinds[fork] == "fork"
    nothing = "rgba(0, 0, 0, 0)"
    assert background(page, pivot) == nothing and background(page, fork) != nothing  # restored; still not trusted
    page.check("input[value=without]")
    assert background(page, pivot) != nothing
    page.check("input[value=restored]")
    assert background(page, pivot) != nothing and background(page, fork) == nothing
    seen = {background(page, fork)}
    for mode in ("entropy", "ratio", "weight"):
        page.check(f"input[value={mode}]")
        seen.add(background(page, fork))
    assert len(seen) == 4
    page.locator("#text span").nth(fork).hover()
    shown = numbers(page)
    assert (shown["position"], shown["kind"], shown["teacher's entropy, nats"]) == ("34 of 160", "fork", "1.8000")
    assert shown["gate"] == f"{1 - 0.7 * 1.8 / 2.6:.4f}" == shown["without lookahead"]
    page.locator("#text").focus()
    page.keyboard.press("ArrowRight")
    assert numbers(page)["position"] == "35 of 160"


def test_marks_can_be_switched_off(page):
    def line(kind: str) -> str:
        return page.locator(f"#text .{kind}").first.evaluate("element => getComputedStyle(element).textDecorationLine")

    assert [line(kind) for kind in ("lock", "fork", "pivot", "mid")] == ["underline"] * 3 + ["none"]
    page.uncheck("#marks")
    assert {line(kind) for kind in ("lock", "fork", "pivot")} == {"none"}


def test_what_was_not_sampled_is_pale_and_uncoloured(page):
    page.select_option("#response", "1")
    page.check("input[value=entropy]")
    assert page.locator("#text .unread").count() == 4 and background(page, 6) == "rgba(0, 0, 0, 0)"
    page.locator("#text span").nth(6).hover()
    assert numbers(page)["kind"] == "not sampled, not trained on" and numbers(page)["teacher's entropy, nats"] == "–"


def test_what_no_teacher_has_scored_has_neither_kind_nor_colour(browser, tmp_path):
    write_tokens(tmp_path / "ssopd", 1, scored=[40, 0, 0, 0])
    main([str(tmp_path / "ssopd"), "--out", str(tmp_path / "report.html")])
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.check("input[value=entropy]")
    kinds = page.locator("#text span").evaluate_all("spans => spans.map(span => span.className)")
    assert kinds[40:] == ["unscored"] * 120 and "unscored" not in kinds[:40]
    assert background(page, 33) != background(page, 60) == "rgba(0, 0, 0, 0)"
    page.locator("#text span").nth(60).hover()
    shown = numbers(page)
    assert (shown["kind"], shown["log ratio"], shown["with lookahead"]) == ("no teacher's score", "–", "–")
    page.select_option("#response", "2")
    assert page.locator("#text .unscored").count() == page.locator("#text span").count() == 90
    assert not complaints
    page.close()


def test_every_step_and_response_can_be_chosen(page):
    for step in range(4):
        page.select_option("#step", str(step))
        for response in range(4):
            page.select_option("#response", str(response))
            assert page.locator("#text span").count() > 0 and page.locator("#strip path").count() == 3
    assert page.locator("#solution").text_content() == "5 = 5"


def test_text_is_readable(page):
    """Contrast of the token text with its background, blended on the page's; 4.5 is WCAG's bound."""
    page.check("input[value=entropy]")
    contrast = page.evaluate(
        """() => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = (c) => c.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
          const body = getComputedStyle(document.body), page = rgb(body.backgroundColor), ink = light(rgb(body.color));
          return Math.min(...["less", "more"].map((name) => {
            const value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
            const color = value.split(",").map(Number);
            const back = light(color.map((v, i) => .72 * v + .28 * page[i]));
            return (Math.max(ink, back) + .05) / (Math.min(ink, back) + .05);
          }));
        }"""
    )
    assert contrast >= 4.5


def test_a_weight_of_the_users_own_has_no_gate_to_choose(browser, tmp_path):
    (tmp_path / "my_weights.py").write_text(
        "def one(s, t, entropy, a, m):\n    return 0 * entropy.nan_to_num() + 0.5\n"
    )
    write_tokens(tmp_path / "own", 1, token_weight=f"{tmp_path}/my_weights.py:one")
    main([str(tmp_path / "own"), "--out", str(tmp_path / "report.html")])
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    modes = {
        name: page.locator(f"input[value={name}]") for name in ("gate", "without", "restored", "entropy", "weight")
    }
    assert [name for name, mode in modes.items() if mode.is_enabled()] == ["entropy", "weight"]
    assert modes["weight"].is_checked() and not page.locator("#strip").is_visible()
    assert background(page, 0) != "rgba(0, 0, 0, 0)"
    assert (numbers(page)["gate"], numbers(page)["final weight"]) == ("–", "0.5000")
    page.select_option("#response", "1")
    assert not complaints
    page.close()
