"""The page "what if" where it runs scripts: a rule shows its own parameters, and nothing spills over on a phone."""

from playwright.sync_api import expect


def test_parameters_follow_the_rule_and_an_empty_log_is_told(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/evals/policyestimate/add/")
    expect(page.locator("#id_parameter_mass")).to_be_visible()
    expect(page.locator("#id_parameter_c")).not_to_be_visible()
    page.locator("#id_kind").select_option("ucb1")
    expect(page.locator("#id_parameter_c")).to_be_visible()
    expect(page.locator("#id_parameter_mass")).not_to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Estimate").click()
    expect(page.locator("#content-main")).to_contain_text("ucb1")
    expect(page.locator(".ar-alert").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
