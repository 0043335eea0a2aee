"""The chat page as people meet it: live, by keyboard, on a phone, and without JavaScript."""

import re

import pytest
from playwright.sync_api import expect

QUESTION = "Who is the lighthouse keeper?"
ANSWER = "is Marta Olsen"


def ask(page, question=QUESTION, agent=None):
    """Ask and wait for the whole answer; the turn's locator."""
    if agent:
        page.get_by_label("Agent").select_option(agent)
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator("form.rate")).to_be_visible()
    return turn


def row_of(page, agent):
    """The agent's line on the leaderboard's first, overall table."""
    page.goto("/admin/leaderboard/")
    return page.locator(".ar-board").first.locator("tr", has_text=agent)


def test_a_question_is_asked_rated_and_seen_on_the_leaderboard(page, sign_in):
    sign_in(page, "olga")
    expect(row_of(page, "fresh").locator("[data-label=n]")).to_have_text("0")
    page.goto("/")
    turn = ask(page, agent="fresh")
    expect(turn.locator(".agent")).to_have_text("fresh")
    expect(turn.locator(".chip")).to_have_text("factual")
    expect(turn.locator(".why")).to_have_text("You chose this agent.")
    expect(turn.locator(".prose")).to_contain_text(ANSWER)
    expect(turn.locator(".prose strong")).to_have_text("lighthouse")
    turn.get_by_role("button", name="Yes, it was good").click()
    expect(turn.locator(".rated")).to_have_text(
        "Saved. fresh now has a mean of 1.00 on factual questions, from 1 rated answer."
    )
    expect(turn.get_by_role("button", name="Yes, it was good")).to_have_attribute("aria-pressed", "true")
    row = row_of(page, "fresh")
    expect(row.locator("[data-label=n]")).to_have_text("1")
    expect(row.locator("[data-label=mean]")).to_have_text("1.00")
    expect(row).to_contain_text("not enough data")


def test_the_router_says_why_it_chose(page, sign_in):
    sign_in(page)
    for _ in range(6):  # broken and hostile are agents too; any that answers will do
        page.get_by_label("Your question").fill(QUESTION)
        page.keyboard.press("Enter")
        turn = page.locator(".turn").last
        expect(turn.locator("form.rate").or_(turn.get_by_role("alert")).first).to_be_visible()
        if turn.locator("form.rate").count():
            break
    expect(turn.locator(".why")).to_contain_text(re.compile(r"go to|gets its turn"))


def test_text_streams_while_a_timer_runs(page, sign_in):
    sign_in(page)
    page.get_by_label("Agent").select_option("calm")
    page.get_by_label("Your question").fill(QUESTION)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator(".asked")).to_contain_text(QUESTION)
    prose = turn.locator(".streaming")
    expect(prose).to_contain_text("The keeper")
    early = prose.inner_text()
    assert "since 1998" not in early
    assert re.fullmatch(r"\d+\.\d s", turn.locator(".spent").inner_text())
    expect(page.get_by_role("button", name="Stop this answer")).to_be_visible()
    expect(turn.locator("form.rate")).to_be_visible()
    expect(turn.locator(".prose")).to_contain_text("since 1998")
    expect(page.locator("#status")).to_contain_text("Answer from calm")


def test_an_answer_can_be_stopped_and_asked_again(page, sign_in):
    sign_in(page)
    page.get_by_label("Agent").select_option("slow")
    page.get_by_label("Your question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop this answer").click()
    turn = page.locator(".turn").last
    expect(turn.get_by_role("alert")).to_have_text("Stopped.")
    page.get_by_label("Agent").select_option("brisk")
    turn.get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").last.locator("form.rate")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(1)


def test_a_conversation_goes_on_and_is_there_after_a_reload(page, sign_in):
    sign_in(page)
    ask(page, agent="brisk")
    assert "/c/" in page.url
    with page.expect_request("**/api/query?stream=1") as sent:
        ask(page, "And since when?")
    messages = sent.value.post_data_json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert ANSWER in messages[1]["content"]
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator("#past [aria-current]")).to_contain_text(QUESTION)
    page.get_by_role("link", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.locator("#past a").first.click()
    expect(page.locator(".turn")).to_have_count(2)


def test_sources_open_at_their_place(page, sign_in):
    sign_in(page)
    turn = ask(page, agent="brisk")
    turn.locator("a.cite").click()
    source = turn.locator(".source").first
    expect(source.locator("blockquote")).to_contain_text("Marta Olsen")
    expect(source.locator("mark").first).to_have_text(re.compile("lighthouse|keeper", re.IGNORECASE))
    source.get_by_role("link", name="Open at its place").click()
    expect(page.locator("#passage")).to_be_in_viewport()
    expect(page.locator("#passage")).to_contain_text("Marta Olsen")
    expect(page.get_by_role("heading", level=1)).to_have_text("Harbour")


def test_a_finer_rating_with_a_correction_replaces_the_thumb(page, sign_in):
    sign_in(page)
    turn = ask(page, agent="calm")
    turn.get_by_role("button", name="No, it was bad").click()
    expect(turn.locator(".rated")).to_contain_text("Saved. calm now has a mean of 0.00")
    turn.get_by_text("Rate more finely").click()
    turn.get_by_role("slider").fill("0.6")
    expect(turn.locator("output")).to_have_text("0.60")
    turn.get_by_label("What should the answer have been?").fill("Marta Olsen, since 1998.")
    turn.get_by_label("Anything else?").fill("close")
    turn.get_by_role("button", name="Save rating").click()
    expect(turn.locator(".rated")).to_contain_text("Your rating was replaced. calm now has a mean of 0.60")
    turn.get_by_role("button", name="Save rating").click()
    expect(turn.locator(".rated")).to_contain_text("nothing changed")
    page.reload()
    turn = page.locator(".turn").last
    expect(turn.locator(".rated")).to_have_text("You rated this 0.60.")
    expect(turn.get_by_label("What should the answer have been?")).to_have_value("Marta Olsen, since 1998.")


def test_a_failure_is_told_with_a_way_to_try_again(page, sign_in):
    sign_in(page)
    page.get_by_label("Agent").select_option("broken")
    page.get_by_label("Your question").fill(QUESTION)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.get_by_role("alert")).to_be_visible()
    page.get_by_label("Agent").select_option("brisk")
    turn.get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").last.locator(".prose")).to_contain_text(ANSWER)


def test_an_unreachable_server_is_told_plainly(page, context, sign_in):
    sign_in(page)
    turn = ask(page, agent="brisk")
    context.set_offline(True)
    turn.get_by_role("button", name="Yes, it was good").click()
    expect(turn.locator(".rated")).to_contain_text("was not saved")
    page.get_by_label("Your question").fill("Are you there?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").last.get_by_role("alert")).to_have_text("The server can't be reached. Is it running?")
    context.set_offline(False)
    page.locator(".turn").last.get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").last.locator("form.rate")).to_be_visible()


def test_a_fall_back_is_announced(page, sign_in):
    sign_in(page)
    turn = ask(page, agent="wobbly")
    expect(turn.locator(".fallback")).to_contain_text("scripted:spare answered instead of scripted")


def test_how_long_it_takes_is_said_for_each_agent(page, sign_in):
    sign_in(page)
    for _ in range(3):
        ask(page, agent="calm")
    page.reload()
    expect(page.locator("#expect")).to_contain_text("Answers take about")
    page.get_by_label("Agent").select_option("calm")
    expect(page.locator("#expect")).to_have_text(re.compile(r"calm takes about [\d.]+ s here\."))


def test_long_answers_leave_room_for_follow_up_questions(page, sign_in):
    """Five of them are more than a request may carry; the oldest stay behind."""
    sign_in(page)
    for number in range(5):
        turn = ask(page, f"Who is the lighthouse keeper? {number}", agent="wordy")
        assert len(turn.get_attribute("data-answer")) > 30_000


def test_texts_of_documents_models_and_people_never_run(page, sign_in):
    sign_in(page, "olga")
    page.get_by_label("Collection").select_option("pirates")
    turn = ask(page, "<img src=x onerror=\"window.pwned='question'\"> piracy?", agent="hostile")
    expect(turn.locator(".prose")).to_contain_text("<script>")
    turn.locator(".sources > summary").click()
    turn.locator(".source > summary").first.click()
    expect(turn.locator("blockquote").first).to_contain_text("onerror")
    addresses = [page.url, turn.locator("a.open").first.get_attribute("href"), "/", "/admin/", "/admin/rewards/interaction/"]
    interaction = turn.get_attribute("id").removeprefix("turn-")
    addresses += [f"/admin/rewards/interaction/{interaction}/change/", "/admin/agents/document/"]
    for address in addresses:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.pwned") is None, address
        assert page.locator("img[src='x']").count() == 0, address


def test_everything_is_done_by_keyboard(page, sign_in):
    page.goto("/login/")
    page.keyboard.type("rita")
    page.keyboard.press("Tab")
    page.keyboard.type("pw")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("Who keeps")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the lighthouse?")
    expect(page.get_by_label("Your question")).to_have_value("Who keeps\nthe lighthouse?")
    expect(page.locator(".turn")).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.type("br")  # the agent's list takes the first that begins so
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator("form.rate")).to_be_visible()
    expect(turn.locator(".agent")).to_have_text("brisk")
    expect(page.get_by_label("Your question")).to_be_focused()
    reached = []
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"))
        if reached[-1] == "Yes, it was good":
            break
    assert reached[-1] == "Yes, it was good", reached
    page.keyboard.press("Enter")
    expect(turn.locator(".rated")).to_contain_text("Saved.")
    expect(turn.get_by_role("button", name="Yes, it was good")).to_be_focused()


def test_every_control_has_a_name_and_the_page_its_landmarks(page, sign_in):
    sign_in(page)
    ask(page, agent="brisk")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input:not([type=hidden]), textarea, select, button')]
        .filter((one) => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("main").count() == 1
    expect(page.locator("[aria-live=polite]")).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


def horizontal_scroll(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(new_context, sign_in, scheme):
    page = new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True).new_page()
    page.goto("/login/")
    assert horizontal_scroll(page) == 0
    sign_in(page, "olga")
    page.get_by_label("Collection").select_option("pirates")
    turn = ask(page, "piracy " + "Seeräuberverschwörungsgeschichten" * 8, agent="hostile")
    turn.locator(".sources > summary").click()
    for source in turn.locator(".source > summary").all():
        source.click()
    turn.get_by_text("Rate more finely").click()
    assert horizontal_scroll(page) == 0
    assert turn.get_by_role("button", name="Yes, it was good").bounding_box()["height"] >= 40
    page.get_by_role("button", name="Conversations and account").click()
    expect(page.get_by_role("link", name="New conversation")).to_be_visible()
    assert horizontal_scroll(page) == 0
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="New conversation")).not_to_be_visible()
    interaction = turn.get_attribute("id").removeprefix("turn-")
    for address in (
        turn.locator("a.open").first.get_attribute("href"),
        "/admin/",
        "/admin/leaderboard/",
        f"/admin/rewards/interaction/{interaction}/change/",
        "/admin/agents/document/add/",
        "/admin/api/apikey/add/",
    ):
        page.goto(address)
        assert horizontal_scroll(page) == 0, address


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(new_context, sign_in, scheme):
    """WCAG AA for every run of text on the chat page: 4.5, or 3 where it is large."""
    page = new_context(color_scheme=scheme).new_page()
    sign_in(page)
    turn = ask(page, agent="brisk")
    turn.locator(".sources > summary").click()
    turn.locator(".source > summary").first.click()
    turn.get_by_text("Rate more finely").click()
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility() || element.matches('.visually-hidden, .visually-hidden *, option, .skip')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(rgba(style.color)), luminance(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    const words = element.textContent.trim().slice(0, 40);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${ratio.toFixed(2)} ${element.className} ${words}`);
  }
  return poor;
}"""


def test_the_page_works_without_javascript(new_context):
    page = new_context(java_script_enabled=False).new_page()
    page.goto("/login/")
    page.get_by_label("User name").fill("rita")
    page.get_by_label("Password").fill("pw")
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Agent").select_option("brisk")
    page.get_by_label("Your question").fill(QUESTION)
    page.get_by_role("button", name="Ask").click()
    turn = page.locator(".turn")
    expect(turn.locator(".prose")).to_contain_text(ANSWER)
    turn.locator(".sources > summary").click()
    turn.locator(".source > summary").first.click()
    expect(turn.locator("blockquote").first).to_contain_text("Marta Olsen")
    turn.get_by_role("button", name="Yes, it was good").click()
    expect(page.get_by_role("status").first).to_contain_text("brisk now has a mean of 1.00")
    page.get_by_role("link", name="Back to the conversation").click()
    expect(page.locator(".rated")).to_have_text("You rated this 1.")
    page.get_by_label("Your question").fill("And since when?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_people_who_are_no_staff_see_no_way_into_the_admin(page, sign_in):
    sign_in(page)
    expect(page.get_by_role("link", name="Admin")).to_have_count(0)
    page.goto("/admin/")
    expect(page.get_by_label("Password")).to_be_visible()
