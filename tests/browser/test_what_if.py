"""The page "what if" where it runs scripts: a rule shows its parameters, an estimate its interval, and a phone all of it."""

import re

from playwright.sync_api import expect


def test_parameters_follow_the_rule_and_the_estimate_says_what_may_be_concluded(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/evals/policyestimate/add/")
    expect(page.locator("#id_parameter_mass")).to_be_visible()
    expect(page.locator("#id_parameter_c")).not_to_be_visible()
    page.locator("#id_kind").select_option("ucb1")
    expect(page.locator("#id_parameter_c")).to_be_visible()
    expect(page.locator("#id_parameter_mass")).not_to_be_visible()
    page.locator("#id_kind").select_option("thompson")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Estimate").click()
    content = page.locator("#content-main")
    expect(content).to_contain_text(re.compile(r"It would probably have earned more: 0\.\d{3} to 0\.\d{3} a question"))
    row = content.locator("tr", has_text="Doubly robust")
    expect(row).to_contain_text(re.compile(r"0\.\d{3}\s+0\.\d{3} to 0\.\d{3}"))
    expect(row.locator("svg")).to_be_visible()
    expect(content).to_contain_text("effective sample size")
    dawn, dusk = (content.locator("tr", has_text=name).locator("td").inner_text() for name in ("dawn", "dusk"))
    assert float(dawn.split()[0]) > 80 > 20 > float(dusk.split()[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto("/admin/evals/policyestimate/")
    expect(page.locator("#result_list")).to_contain_text("done")
