"""A candidate's way into the traffic and back, as an operator clicks it."""

import re

from playwright.sync_api import expect


def test_a_candidate_is_promoted_rolled_back_and_its_history_read(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/agents/agentvariant/?state__exact=candidate")
    page.get_by_role("link", name="rookie r1").click()
    life = page.locator("section", has=page.get_by_role("heading", name="Its life"))
    expect(life.locator("[aria-current=step]")).to_have_text("candidate")
    life.get_by_role("link", name="Override: make it canary").click()
    expect(page.get_by_role("heading", name="Make rookie r1 canary?")).to_be_visible()
    page.get_by_label("Reason").fill("A rehearsal <script>window.pwned = 1</script>")
    page.get_by_role("button", name="Override, and make it canary").click()
    expect(life.locator("[aria-current=step]")).to_have_text("canary")
    expect(life).to_contain_text("10 % to 10 %")
    life.get_by_role("button", name="Roll back now").click()
    expect(life.locator("[aria-current=step]")).to_have_text("retired")
    rows = life.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(re.compile("canary → retired.*rolled back.*Rolled back by hand.*olga", re.DOTALL))
    expect(rows.nth(1)).to_contain_text(re.compile("candidate → canary.*override.*A rehearsal <script>.*olga", re.DOTALL))
    rows.nth(0).get_by_role("link").click()
    expect(page.get_by_text("Answers after a rollback")).to_be_visible()
    page.goto("/admin/rewards/promotiondecision/")
    expect(page.locator("#result_list tbody tr", has_text="rookie")).to_have_count(2)
    page.goto("/admin/leaderboard/?period=24h")
    expect(page.get_by_text("rookie r1: candidate to canary")).to_be_attached()
    assert page.evaluate("window.pwned") is None


def test_the_page_of_a_variant_fits_a_phone(new_context, sign_in):
    page = new_context(viewport={"width": 390, "height": 844}).new_page()
    sign_in(page, "olga")
    page.goto("/admin/agents/agentvariant/?revisions=all")
    page.get_by_role("link", name="rookie r1").click()
    expect(page.get_by_role("heading", name="Its life")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
