"""The admin where its pages run scripts: charts, parameters that follow the strategy, several files, live jobs."""

import re

from playwright.sync_api import expect


def test_home_draws_its_charts_in_both_themes(page, sign_in):
    sign_in(page, "olga")
    page.get_by_label("Agent").select_option("brisk")
    page.get_by_label("Your question").fill("Who is the lighthouse keeper?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Yes, it was good").last.click()
    expect(page.locator(".rated").last).to_contain_text("Saved.")
    page.goto("/admin/")
    for canvas in page.locator("canvas[data-chart]").all():
        expect(canvas).to_be_visible()
    drawn = "[...document.querySelectorAll('canvas[data-chart]')].map((one) => Chart.getChart(one)?.data.datasets.length > 0)"
    assert page.evaluate(drawn) == [True, True]
    page.evaluate("document.documentElement.classList.add('dark')")
    page.wait_for_function(f"{drawn}.every(Boolean)")


def test_parameters_follow_the_chosen_strategy(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/agents/agentvariant/add/")
    page.locator("#id_strategy").select_option("naive_rag")
    expect(page.locator("#id_parameter_retriever")).to_be_visible()
    expect(page.locator("#id_parameter_retries")).not_to_be_visible()
    page.locator("#id_strategy").select_option("agentic_rag")
    expect(page.locator("#id_parameter_retriever")).not_to_be_visible()
    expect(page.locator("#id_parameter_retries")).to_be_visible()
    page.locator("#id_name").fill("careful")
    page.locator("#id_chat_backend").select_option("scripted")
    page.locator("#id_chat_options").fill('{"answer": "Yes."}')
    page.locator("#id_parameter_retries").fill("2")
    page.locator("#id_state").select_option("candidate")  # takes no questions of the other tests
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#result_list")).to_contain_text("careful r1")
    page.locator("#result_list").get_by_role("link", name="careful r1").click()
    expect(page.locator("#id_parameter_retries")).to_have_value("2")
    page.locator("#id_parameter_retries").fill("3")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Made revision 2 of careful.")).to_be_visible()
    expect(page.locator("h1")).to_contain_text("areful r2")


def test_several_files_are_uploaded_with_an_error_for_the_bad_one(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/agents/document/add/")
    page.locator("input[type=file]").set_input_files(
        [
            {"name": "bees.md", "mimeType": "text/markdown", "buffer": b"# Bees\n\nBees make honey."},
            {"name": "empty.md", "mimeType": "text/markdown", "buffer": b""},
        ]
    )
    expect(page.get_by_label("Collection")).to_have_value("default")
    page.get_by_label("Collection").fill("insects")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator(".ar-results li")).to_have_count(2)
    expect(page.locator(".ar-results li", has_text="empty.md")).to_contain_text(re.compile("empty"))
    page.get_by_role("link", name="Bees").click()
    expect(page.locator("#passages")).to_contain_text("Bees make honey.")


def test_a_key_is_copied_from_the_page_that_shows_it_once(new_context, sign_in):
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    sign_in(page, "olga")
    page.goto("/admin/api/apikey/add/")
    page.get_by_label("Name").fill("crm")
    page.get_by_role("button", name="Create the key").click()
    text = page.locator("#key-text").input_value()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.get_by_role("link", name="I have copied it").click()
    expect(page.locator("#result_list")).to_contain_text("crm")
    assert text not in page.content()


def test_a_destructive_action_asks_first(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/leaderboard/")
    page.get_by_role("link", name="Reset to the priors").click()
    expect(page.get_by_role("heading", name="Go back to the priors?")).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    expect(page).to_have_url(re.compile(r"/admin/leaderboard/$"))


def test_pages_run_no_script_of_another_site(page, sign_in):
    sign_in(page, "olga")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for address in ("/", "/admin/", "/admin/leaderboard/", "/admin/rewards/interaction/"):
        page.goto(address)
        page.wait_for_load_state("networkidle")
    own = page.evaluate("location.origin")
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []


def test_the_leaderboard_draws_its_charts_and_fits_a_phone(new_context, sign_in):
    page = new_context(viewport={"width": 390, "height": 844}).new_page()
    sign_in(page, "olga")
    page.get_by_label("Your question").fill("Who is the lighthouse keeper?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Yes, it was good").last.click()
    expect(page.locator(".rated").last).to_contain_text("Saved.")
    page.goto("/admin/leaderboard/?period=24h")
    drawn = "[...document.querySelectorAll('canvas[data-chart]')].map((one) => Chart.getChart(one)?.data.datasets.length > 0)"
    assert page.evaluate(drawn) == [True, True]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto("/admin/improve/")
    expect(page.locator("h1")).to_contain_text("Improve")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
