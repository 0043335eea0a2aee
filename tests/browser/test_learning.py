"""What an operator does about what was learned: a finding's click, a limit, and where each shows afterwards."""

import json
import re

from playwright.sync_api import expect


def test_a_finding_is_clicked_and_its_agent_takes_no_more_questions(page, sign_in):
    sign_in(page, "olga")
    expect(page.get_by_label("Agent").locator("option", has_text="dusk")).to_have_count(1)
    page.goto("/admin/improve/?fresh=1")
    finding = page.get_by_role("region", name="dusk is worse than the other agents on all questions")
    expect(finding).to_contain_text(re.compile(r"95 % from [−-]0\.\d\d to [−-]0\.\d\d; n \d{3}"))
    finding.get_by_role("link", name="Retire dusk").click()
    expect(page.get_by_role("heading", name="Retire dusk?")).to_be_visible()
    page.get_by_role("button", name="Retire dusk").click()
    expect(page.get_by_text("Done: Retire dusk.")).to_be_visible()
    expect(page.locator("tr", has_text="Retire dusk")).to_contain_text("olga")
    page.goto("/admin/agents/agentvariant/?revisions=all")
    expect(page.locator("#result_list tr", has_text="dusk r1")).to_contain_text("retired")
    page.goto("/")
    expect(page.get_by_label("Agent").locator("option", has_text="dusk")).to_have_count(0)


def test_a_traffic_limit_is_set_and_marked_in_the_charts_and_its_history(page, sign_in):
    sign_in(page, "olga")
    page.goto("/admin/rewards/agentlimit/add/")
    page.locator("#id_agent_name").select_option("calm")
    page.locator("#id_max_share").fill("0.35")
    page.get_by_role("button", name="Save", exact=True).click()
    row = page.locator("#result_list tr", has_text="calm")
    expect(row).to_contain_text("35 %")
    address = row.get_by_role("link", name="calm").get_attribute("href")
    page.goto(address.replace("/change/", "/history/"))
    expect(page.locator("table").first).to_contain_text(re.compile(r"0\.35.*olga|olga.*0\.35", re.DOTALL))
    page.goto("/admin/leaderboard/?period=24h")
    change = page.locator(".ar-marks li", has_text="calm")
    expect(change).to_contain_text("by olga")
    number = change.get_attribute("value")
    charts = page.locator("canvas[data-chart]")
    expect(charts).to_have_count(2)
    for series in (json.loads(chart.get_attribute("data-series")) for chart in charts.all()):
        assert number in [marker["number"] for marker in series["markers"]]
    page.goto(address.replace("/change/", "/delete/"))
    page.get_by_role("button", name=re.compile("^Yes")).click()
    expect(page.locator("#result_list tr", has_text="calm")).to_have_count(0)
